"""Reservations, holds and confirmations that share a write: each gets an outcome of its own."""

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from manager import adopting, claiming, ending
from manager import store as stores
from manager.admitting import (
    Admissions,
    Answer,
    Asked,
    Cloud,
    Confirm,
    Hold,
    Reserve,
    Terms,
    awaits,
)
from manager.reservation import Reservation
from manager.statements import Ask, Told
from watari import errors
from watari.clock import Clock
from watari.identity import Role, SpiffeId


class Reserving:
    """The calls of one cloud, for a `manager.groups.Group`."""

    def __init__(self, clock: Clock, own: SpiffeId, cloud: Cloud, terms: Terms) -> None:
        self._clock = clock
        self._own = own
        self._cloud = cloud
        self._terms = terms

    def asking(self, calls: Sequence[Asked]) -> list[Ask]:
        """What has to be read for calls that share a write, for `together`."""
        return Admissions.asking(self._cloud, calls, self._now())

    def together(
        self, connection: Connection, calls: Sequence[Asked], told: Sequence[Told]
    ) -> list[Answer | errors.WatariError]:
        """What comes of calls that share a write, in their order. `told` is what `asking` read in
        it. Raises Conflict, to be repeated when all of it was taken back.
        """
        admissions = Admissions(connection, self._cloud, calls, self._now(), told)
        if admissions.due:
            ending.expire_due(connection, self._now(), self._own)
            admissions = Admissions(connection, self._cloud, calls, self._now())
        refused: dict[str, errors.WatariError] = {}
        if booked := admissions.claimable():
            refused = self._claim(connection, calls, booked)
            admissions = Admissions(connection, self._cloud, calls, self._now())
        first: set[str] = set()
        if held := admissions.adoptable(calls):
            declined, first = adopting.adopt_all(
                connection, self._cloud, held, self._now(), self._terms
            )
            refused |= declined
            admissions = Admissions(connection, self._cloud, calls, self._now())
        outcomes: dict[int, Answer | errors.WatariError] = {}
        # Whose hold has just ended comes before who would take its room.
        for position, call in sorted(enumerate(calls), key=lambda each: _key(each[1]) not in first):
            try:
                if _key(call) in refused:
                    outcomes[position] = refused[_key(call)]
                elif isinstance(call, Hold):
                    outcomes[position] = admissions.hold(call)
                elif isinstance(call, Reserve):
                    outcomes[position] = admissions.reserve(call)
                else:
                    outcomes[position] = admissions.confirm(call)
            except errors.Conflict:
                raise  # Nothing of the transaction is to be relied on.
            except errors.WatariError as error:
                outcomes[position] = error
        admissions.write()
        return [outcomes[position] for position in range(len(calls))]

    def _claim(
        self, connection: Connection, calls: Sequence[Asked], booked: Sequence[Reservation]
    ) -> dict[str, errors.WatariError]:
        """Claim what is booked and asked for: by who booked it, word for word, or by the manager
        of the cloud that an operator booked it for. Why it could not be.
        """
        rows = {row.reservation_id: row for row in booked}
        refused: dict[str, errors.WatariError] = {}
        for call in calls:
            # An operator who repeats the booking wants to know how it stands, and gets no grant.
            if not isinstance(call, Reserve) or call.caller.role is Role.OPERATOR:
                continue
            row = rows.pop(call.request.reservation_id, None)
            if row is None or not (
                (row.request == call.request and row.requested_by == str(call.caller))
                or awaits(row, call)
            ):
                continue
            try:
                claiming.claim(connection, self._cloud, call, row, self._now(), self._terms)
            except errors.Conflict:
                raise
            except errors.WatariError as error:
                refused[row.reservation_id] = error
        return refused

    def _now(self) -> int:
        return stores.micros(self._clock.now())


def _key(call: Asked) -> str:
    """The reservation that a call is about."""
    return call.reservation_id if isinstance(call, Confirm) else call.request.reservation_id
