"""Disputes: a part of a charge that nobody owes until it is decided, and payments.

A charge is never disputed beyond what is left of it: what was charged and corrected, less what is
disputed or was credited. That is what the ledger has on the payer's account for the charge.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection

from manager import audit
from manager.accounting import booking, exact, invoices, rows
from manager.accounting.ledger import Entry
from manager.billing import dispute_messages, messages
from manager.billing import rows as billed
from manager.billing.rows import DisputeRow
from manager.billing.viewers import Viewer
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2

PAGE_ROWS = 500
"""Disputes that one query reads."""


class Disputes:
    """The disputes of one cloud. From any thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def open(
        self, request: manager_pb2.OpenDisputeRequest, viewer: Viewer, caller: SpiffeId
    ) -> manager_pb2.Dispute:
        """Dispute a part of a charge, all that is left of it unless an amount is said.

        Raises NotFound RECORD_NOT_FOUND, AlreadyExists ID_REUSED, FailedPrecondition
        DISPUTE_EXCEEDS_CHARGE.
        """
        now = micros(self._clock.now())
        with self._store.write() as connection:
            known = billed.dispute(connection, request.dispute_id)
            if known is not None:
                self._require_same(connection, known, request, viewer)
                return dispute_messages.message(known, _entry(connection, known))
            charge = _charge(connection, request.charge_id, viewer)
            payer = viewer.payer or ""
            asked = None
            if request.HasField("amount"):
                asked = messages.nanos(request.amount, charge.currency, "amount")
            row = dispute(
                connection,
                charge,
                asked,
                payer=payer,
                dispute_id=request.dispute_id,
                reason=request.reason,
                caller=caller,
                now=now,
            )
            return dispute_messages.message(row, _entry(connection, row))

    def decide(
        self, dispute_id: str, credited: common_pb2.Money | None, reason: str, caller: SpiffeId
    ) -> manager_pb2.Dispute:
        """Credit a part of what is disputed; the rest is owed again.

        Raises NotFound RECORD_NOT_FOUND, FailedPrecondition DISPUTE_STATE.
        """
        now = micros(self._clock.now())
        with self._store.write() as connection:
            row = billed.dispute(connection, dispute_id)
            if row is None:
                raise _no_dispute(dispute_id)
            disputed = _entry(connection, row)
            amount = dispute_messages.disputed_nanos(disputed, row.payer)
            nanos = 0
            if credited is not None:
                nanos = messages.nanos(credited, disputed.currency, "credited")
            if not 0 <= nanos <= amount:
                raise errors.InvalidArgument(
                    "INVALID_FIELD",
                    f"credited: {exact.text(nanos)} of {exact.text(amount)} are no part",
                    hint="from nothing, which rejects the dispute, to all of it",
                    field="credited",
                )
            if row.credited_nanos is not None:
                if row.credited_nanos != nanos:
                    raise errors.FailedPrecondition(
                        "DISPUTE_STATE",
                        f"dispute {dispute_id} was decided: {exact.text(row.credited_nanos)} of "
                        f"{exact.text(amount)} {disputed.currency} were credited",
                        hint="a decision is for good; a further one needs another dispute",
                        state=dispute_messages.state(row, amount),
                    )
                return dispute_messages.message(row, disputed)
            for upheld, part in ((True, nanos), (False, amount - nanos)):
                if part:
                    entry = booking.decide(
                        disputed,
                        part,
                        payer=row.payer,
                        upheld=upheld,
                        reason=reason,
                        booked_at=now,
                    )
                    rows.post(connection, [entry])
            billed.decide_dispute(connection, dispute_id, nanos, reason, str(caller), now)
            audit.append(
                connection,
                now,
                actor=caller,
                action="dispute.decided",
                subject=dispute_id,
                details={
                    "payer": row.payer,
                    "credited": f"{exact.text(nanos)} {disputed.currency}",
                    "of": exact.text(amount),
                    "reason": reason,
                },
            )
            decided = replace(
                row,
                credited_nanos=nanos,
                decision_reason=reason,
                decided_by=str(caller),
                decided_at=now,
            )
            return dispute_messages.message(decided, disputed)

    def page(
        self,
        viewer: Viewer,
        *,
        open_only: bool,
        period: str,
        before: tuple[int, str] | None,
        limit: int,
    ) -> list[manager_pb2.Dispute]:
        """Disputes that a viewer may see, newest first."""
        with self._store.read() as connection:
            found = billed.disputes(
                connection,
                payer=viewer.payer,
                open_only=open_only,
                period=period,
                before=before,
                limit=limit,
            )
            return _messages(connection, found)

    def _require_same(
        self,
        connection: Connection,
        known: DisputeRow,
        request: manager_pb2.OpenDisputeRequest,
        viewer: Viewer,
    ) -> None:
        same = viewer.sees(known.payer)
        same = same and (known.charge_id, known.reason) == (request.charge_id, request.reason)
        if same and request.HasField("amount"):
            entry = _entry(connection, known)
            asked = messages.nanos(request.amount, entry.currency, "amount")
            same = asked == dispute_messages.disputed_nanos(entry, known.payer)
        if not same:
            raise errors.AlreadyExists(
                "ID_REUSED",
                f"dispute_id {request.dispute_id} was used before with other content",
                hint="make a new UUID",
                field="dispute_id",
            )


def dispute(
    connection: Connection,
    charge: Entry,
    asked: int | None,
    *,
    payer: str,
    dispute_id: str,
    reason: str,
    caller: SpiffeId,
    now: int,
) -> DisputeRow:
    """Book a dispute that is not there yet, in the caller's transaction; `asked` None is all that
    is left. Raises FailedPrecondition DISPUTE_EXCEEDS_CHARGE.
    """
    left = sum(
        invoices.owed(entry, payer) for entry in rows.every(connection, subject=charge.subject)
    )
    nanos = left if asked is None else asked
    if not 0 < nanos <= left:
        raise errors.FailedPrecondition(
            "DISPUTE_EXCEEDS_CHARGE",
            f"{exact.text(nanos)} {charge.currency} cannot be disputed of charge "
            f"{charge.subject}: {exact.text(left)} are left of it",
            hint="dispute more than nothing, and no more than is left",
            left=f"{exact.text(left)} {charge.currency}",
        )
    entry = booking.dispute(
        charge, nanos, payer=payer, dispute_id=dispute_id, reason=reason, booked_at=now
    )
    rows.post(connection, [entry])
    row = DisputeRow(dispute_id, entry.entry_id, charge.subject, payer, reason, str(caller), now)
    billed.add_dispute(connection, row)
    audit.append(
        connection,
        now,
        actor=caller,
        action="dispute.opened",
        subject=dispute_id,
        details={
            "payer": payer,
            "charge": charge.subject,
            "amount": f"{exact.text(nanos)} {charge.currency}",
            "reason": reason,
        },
    )
    return row


def of_month(connection: Connection, payer: str, period: str) -> list[manager_pb2.Dispute]:
    """All disputes of a payer's charges of a month, newest first."""
    found: list[DisputeRow] = []
    before: tuple[int, str] | None = None
    while True:
        page = billed.disputes(
            connection, payer=payer, period=period, before=before, limit=PAGE_ROWS
        )
        found += page
        if len(page) < PAGE_ROWS:
            return _messages(connection, found)
        before = (page[-1].opened_at, page[-1].dispute_id)


def _messages(connection: Connection, found: Sequence[DisputeRow]) -> list[manager_pb2.Dispute]:
    entries: dict[str, Entry] = {}
    for start in range(0, len(found), PAGE_ROWS):
        part = [each.entry_id for each in found[start : start + PAGE_ROWS]]
        entries |= rows.entries(connection, part)
    return [dispute_messages.message(row, entries[row.entry_id]) for row in found]


def _entry(connection: Connection, row: DisputeRow) -> Entry:
    return rows.entries(connection, [row.entry_id])[row.entry_id]


def _charge(connection: Connection, charge_id: str, viewer: Viewer) -> Entry:
    """The first entry of a charge of the viewer's."""
    found = rows.every(connection, subject=charge_id)
    for entry in found:
        if entry.kind in booking.CHARGED and invoices.owed(entry, viewer.payer or ""):
            return entry
    raise errors.NotFound(
        "RECORD_NOT_FOUND",
        f"there is no charge {charge_id}",
        hint="the lines of an invoice name their charges: `watari invoice show`",
    )


def _no_dispute(dispute_id: str) -> errors.NotFound:
    return errors.NotFound(
        "RECORD_NOT_FOUND",
        f"there is no dispute {dispute_id}",
        hint="`watari dispute list` shows those that there are",
    )
