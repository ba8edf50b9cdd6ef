"""Settlement with another provider's cloud: both sides' bills of a month, worked out by the other
side from its own records, and netted once.

    creditor                                   debtor
    what it billed            --- bill --->    its own hand-overs, mirrored,
    starts, stops, resizes    -- events -->    with the creditor's events and
    price sheets              -- sheets -->    price sheets: what it expects
                              <-- expected --

The debtor believes the creditor what happened between hand-overs, and nothing about hand-overs
between the two of them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from manager import audit
from manager.accounting import booking, exact, invoices, metering, periods, rating, rows, settlement
from manager.accounting.events import Event, Kind
from manager.accounting.settlement import Claim, Owed, Statement
from manager.accounts.facts import Cloud
from manager.billing import disputes, history, viewers
from manager.billing import rows as billed
from manager.billing.other_side import Bill, OtherSide
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

WORKED_OUT_MAX = 4
"""Months that are worked out at a time for others, and as many for operators."""

KEPT_SECONDS = 60.0
"""How long the pages of one answer stay those of one answer."""

KEPT_MAX = 16
"""Answers that are kept at a time."""

DISPUTES_SHOWN_MAX = 1000

_CROSSINGS = frozenset({Kind.ARRIVED, Kind.DEPARTED})
_Answer = TypeVar("_Answer")


class Kept(Generic[_Answer]):
    """Answers that are given in pages: the first page works one out, the others are of the same."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[float, _Answer]] = {}

    def get(self, key: tuple[str, ...], work: Callable[[], _Answer], *, anew: bool) -> _Answer:
        """What was worked out for the key, by `work` if it is not there or is wanted anew."""
        now = self._clock.monotonic()
        with self._lock:
            at, found = self._known.get(key, (now - KEPT_SECONDS, None))
        if found is not None and not anew and now - at < KEPT_SECONDS:
            return found
        answer = work()
        with self._lock:
            self._known = {
                each: kept for each, kept in self._known.items() if now - kept[0] < KEPT_SECONDS
            }
            while len(self._known) >= KEPT_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[key] = (self._clock.monotonic(), answer)
        return answer


@dataclass(frozen=True)
class Worked:
    """A statement, and what it comes from."""

    statement: Statement
    bill: Bill


class Settling:
    """The settlements of one cloud. From any thread."""

    def __init__(
        self,
        cloud: Cloud,
        zone: str,
        store: Store,
        clock: Clock,
        other: Callable[[str], OtherSide],
    ) -> None:
        """`other` finds another cloud's manager, and raises NotFound CLOUD_NOT_FOUND."""
        self._cloud = cloud
        self._zone = zone
        self._store = store
        self._clock = clock
        self._other = other
        self._working = threading.BoundedSemaphore(WORKED_OUT_MAX)
        self._answering = threading.BoundedSemaphore(WORKED_OUT_MAX)
        self._kept_events: Kept[list[Event]] = Kept(clock)
        self._kept_charges: Kept[list[tuple[str, str, int]]] = Kept(clock)

    def get(
        self, cloud_id: str, period: str, only: str | None
    ) -> manager_pb2.GetSettlementResponse:
        """The statement with a cloud, as it was booked or else worked out now. `only` is the
        provider that it must be with, whoever that is for None.
        """
        other = self._with(cloud_id, only)
        with self._store.read() as connection:
            known = billed.settlement(connection, cloud_id, period)
            own = _invoice(connection, viewers.peer(other.domain), period)
        if known is not None:
            return manager_pb2.GetSettlementResponse(
                settlement=known, net=known.net, receivable=own
            )
        worked = self._work(other, period)
        shown = _message(worked.statement, cloud_id)
        return manager_pb2.GetSettlementResponse(
            settlement=shown, net=shown.net, receivable=own, payable=worked.bill.invoice
        )

    def net(self, cloud_id: str, period: str, caller: SpiffeId) -> manager_pb2.Settlement:
        """Book the statement, once. Raises FailedPrecondition PERIOD_OPEN, SETTLEMENT_DIFFERS."""
        other = self._with(cloud_id, None)
        with self._store.read() as connection:
            known = billed.settlement(connection, cloud_id, period)
            issued = billed.issued_month(connection, period) is not None
        if known is not None:
            return known
        worked = self._work(other, period)
        for cloud, done in ((self._cloud.cloud_id, issued), (cloud_id, worked.bill.issued)):
            if not done:
                raise errors.FailedPrecondition(
                    "PERIOD_OPEN",
                    f"cloud {cloud} has not issued {period}",
                    hint="`watari invoice issue` there; then what it bills is what it bills",
                    period=period,
                )
        _require_like(worked)
        now = micros(self._clock.now())
        with self._store.write() as connection:
            known = billed.settlement(connection, cloud_id, period)
            if known is not None:
                return known
            booked = _message(worked.statement, cloud_id)
            booked.netted_at.FromMicroseconds(now)
            rows.post(connection, settlement.entries(worked.statement, now))
            self._dispute(connection, worked.statement, caller, now)
            billed.add_settlement(connection, booked, other.domain, now)
            audit.append(
                connection,
                now,
                actor=caller,
                action="settlement.netted",
                subject=booked.statement_id,
                details={
                    "peer": cloud_id,
                    "period": period,
                    "net": f"{exact.text(worked.statement.net_nanos)} {worked.statement.currency}",
                    "disputes": len(worked.statement.receivable.disputes)
                    + len(worked.statement.payable.disputes),
                },
            )
            return booked

    def billed_charges(self, period: str, domain: str) -> manager_pb2.ListBilledChargesResponse:
        """What a provider is billed for a month, all but the charges."""
        with self._store.read() as connection:
            return manager_pb2.ListBilledChargesResponse(
                currency_code=rows.book(connection).currency,
                time_zone=self._zone,
                issued=billed.issued_month(connection, period) is not None,
                invoice=_invoice(connection, viewers.peer(domain), period),
                netted=billed.settlement_with(connection, domain, period),
            )

    def charges(self, period: str, domain: str) -> list[tuple[str, str, int]]:
        """Charge, words and nanos that a provider is billed, by charge."""
        with self._store.read() as connection:
            return _listed(self._owed(connection, domain, period))

    def events(self, period: str, domain: str, *, anew: bool) -> list[Event]:
        """What happened here to a provider's tenants' machines before the end of a month."""

        def work() -> list[Event]:
            until = periods.labelled(period, self._zone).end
            payer = viewers.peer(domain)
            with self._store.read() as connection:
                found = history.events(connection, self._cloud, until)
            return [each for each in found if each.payer == payer]

        with self._one_of(self._answering):
            return self._kept_events.get((domain, period), work, anew=anew)

    def expected_by_us(
        self, cloud_id: str, period: str, domain: str, *, anew: bool
    ) -> list[tuple[str, str, int]]:
        """Charge, words and nanos that we work out that we owe a provider's cloud."""

        def work() -> list[tuple[str, str, int]]:
            other = self._with(cloud_id, domain)
            return _listed(self._expected(other, other.bill(period)))

        with self._one_of(self._answering):
            return self._kept_charges.get((domain, cloud_id, period), work, anew=anew)

    @property
    def currency(self) -> str:
        """In which this cloud charges."""
        with self._store.read() as connection:
            return rows.book(connection).currency

    def _work(self, other: OtherSide, period: str) -> Worked:
        with self._one_of(self._working):
            bill = other.bill(period)
            with self._store.read() as connection:
                currency = rows.book(connection).currency
                own = self._owed(connection, other.domain, period)
            if bill.currency != currency:
                raise errors.FailedPrecondition(
                    "SETTLEMENT_DIFFERS",
                    f"{other.cloud_id} charges in {bill.currency}, {self._cloud.cloud_id} in "
                    f"{currency}: what is owed cannot be netted",
                    hint="pay the two invoices, each in its currency",
                    ours=currency,
                    theirs=bill.currency,
                )
            theirs = other.expected(period, self._cloud.cloud_id, currency)
            month = periods.labelled(period, self._zone)
            receivable = settlement.claim(self._cloud.domain, other.domain, own, theirs)
            expected = self._expected(other, bill)
            payable = settlement.claim(other.domain, self._cloud.domain, bill.owed, expected)
            return Worked(settlement.statement(month, currency, receivable, payable), bill)

    def _expected(self, other: OtherSide, bill: Bill) -> Owed:
        """What their bill should be, as far as we know."""
        if micros(self._clock.now()) < bill.month.end:
            raise errors.FailedPrecondition(
                "PERIOD_OPEN",
                f"{bill.month.label} has not ended at {other.cloud_id}",
                hint="ask again when it has",
                period=bill.month.label,
            )
        payer = viewers.peer(self._cloud.domain)
        told = other.events(bill.month.label, payer)
        with self._store.read() as connection:
            ours = history.events(connection, self._cloud, bill.month.end)
        # Machines of our own tenants: others' are billed to others.
        mine = [each for each in ours if each.payer.startswith("tenant:")]
        between = [
            each
            for each in told
            if each.kind not in _CROSSINGS or each.peer != self._cloud.cloud_id
        ]
        mirrored = settlement.mirrored(mine, other.cloud_id, payer, {})
        metered = metering.meter([*between, *mirrored], bill.month.end)
        rated = rating.rate(metered, other.book(), bill.month, other.cloud_id)
        return settlement.owed(booking.charges(rated, 0), payer, bill.month.label)

    def _dispute(
        self, connection: Connection, found: Statement, caller: SpiffeId, now: int
    ) -> None:
        """What the debtor does not have alike is disputed, until it is decided."""
        payer = viewers.peer(found.peer)
        for each in found.receivable.disputes:
            entries = list(rows.every(connection, subject=each.charge_id))
            left = sum(invoices.owed(entry, payer) for entry in entries)
            part = min(each.billed_nanos - each.expected_nanos, left)
            if part > 0:
                disputes.dispute(
                    connection,
                    next(entry for entry in entries if entry.kind in booking.CHARGED),
                    part,
                    payer=payer,
                    dispute_id=exact.identity("settled", found.statement_id, each.charge_id),
                    reason=f"{found.peer} works out {exact.text(each.expected_nanos)}",
                    caller=caller,
                    now=now,
                )

    @staticmethod
    def _owed(connection: Connection, domain: str, period: str) -> Owed:
        payer = viewers.peer(domain)
        account = f"{booking.RECEIVABLE}{payer}"
        return settlement.owed(
            rows.every(connection, period=period, account=account), payer, period
        )

    def _with(self, cloud_id: str, only: str | None) -> OtherSide:
        other = self._other(cloud_id)
        if other.domain == self._cloud.domain or only not in (None, other.domain):
            raise errors.Denied(
                "NOT_ALLOWED",
                f"cloud {cloud_id} is {other.domain}'s",
                hint="a settlement is between a provider and another one's own cloud",
            )
        return other

    @contextmanager
    def _one_of(self, places: threading.BoundedSemaphore) -> Iterator[None]:
        if not places.acquire(blocking=False):
            raise errors.Unavailable(
                "SERVER_UNAVAILABLE",
                f"{WORKED_OUT_MAX} months are being worked out already",
                hint="repeat the call in a moment",
            )
        try:
            yield
        finally:
            places.release()


def _listed(owed: Owed) -> list[tuple[str, str, int]]:
    return sorted((charge, words, nanos) for charge, (words, nanos) in owed.items() if nanos)


def _invoice(connection: Connection, payer: str, period: str) -> manager_pb2.Invoice | None:
    found = billed.invoice_heads(connection, payer=payer, period=period, limit=1)
    return found[0] if found else None


def _require_like(worked: Worked) -> None:
    """What the other side has booked already is what we are about to book."""
    theirs, ours = worked.bill.netted, worked.statement
    if theirs is None:
        return
    for booked, nanos in (
        (theirs.receivable.agreed, ours.payable.agreed_nanos),
        (theirs.payable.agreed, ours.receivable.agreed_nanos),
    ):
        wanted = exact.message(nanos, ours.currency)
        if booked != wanted:
            raise errors.FailedPrecondition(
                "SETTLEMENT_DIFFERS",
                f"{ours.peer} has netted other amounts for {ours.month.label}",
                hint="something was corrected in between: compare the two statements, and settle "
                "the difference by a payment",
                ours=exact.text(nanos),
                theirs=f"{booked.units}.{abs(booked.nanos):09}",
            )


def _message(found: Statement, peer_cloud: str) -> manager_pb2.Settlement:
    def claim(of: Claim) -> manager_pb2.SettlementClaim:
        return manager_pb2.SettlementClaim(
            creditor=of.creditor,
            debtor=of.debtor,
            billed=exact.message(of.billed_nanos, found.currency),
            agreed=exact.message(of.agreed_nanos, found.currency),
            charges_agreed=of.charges_agreed,
            charges_disputed=len(of.disputes),
            disputes=[
                manager_pb2.SettlementDispute(
                    charge_id=each.charge_id,
                    description=each.description,
                    billed=exact.message(each.billed_nanos, found.currency),
                    expected=exact.message(each.expected_nanos, found.currency),
                )
                for each in of.disputes[:DISPUTES_SHOWN_MAX]
            ],
        )

    return manager_pb2.Settlement(
        statement_id=found.statement_id,
        period=found.month.label,
        peer_cloud=peer_cloud,
        receivable=claim(found.receivable),
        payable=claim(found.payable),
        net=exact.message(found.net_nanos, found.currency),
    )
