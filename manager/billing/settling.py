"""Settlement with another provider's cloud: a month's statement, shown, netted once, and what the
other side needs for its own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from manager import audit
from manager.accounting import booking, exact, invoices, periods, rows, settlement
from manager.accounting.events import Event
from manager.accounting.settlement import Statement
from manager.accounts.facts import Cloud
from manager.billing import comparing, disputes, history, statements, viewers
from manager.billing import rows as billed
from manager.billing.comparing import Comparing, Worked
from manager.billing.kept import Kept
from manager.billing.other_side import OtherSide
from manager.billing.partners import Partners
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

WORKED_OUT_MAX = 4
"""Months that are worked out at a time for others, and as many for operators."""


class Settling:
    """The settlements of one cloud. From any thread."""

    def __init__(
        self,
        cloud: Cloud,
        zone: str,
        store: Store,
        clock: Clock,
        partners: Partners,
    ) -> None:
        self._cloud = cloud
        self._zone = zone
        self._store = store
        self._clock = clock
        self._partners = partners
        self._comparing = Comparing(cloud, zone, store, clock)
        self._working = threading.BoundedSemaphore(WORKED_OUT_MAX)
        self._answering = threading.BoundedSemaphore(WORKED_OUT_MAX)
        self._kept_events: Kept[list[Event]] = Kept(clock)
        self._kept_billed: Kept[list[manager_pb2.OwedCharge]] = Kept(clock)
        self._kept_expected: Kept[list[manager_pb2.OwedCharge]] = Kept(clock)

    def get(
        self, cloud_id: str, period: str, only: str | None
    ) -> manager_pb2.GetSettlementResponse:
        """The statement with a cloud, as it was booked or else worked out now. `only` is the
        provider that it must be with, whoever that is for None.
        """
        other = self._partners.find(cloud_id, only)
        payer = viewers.peer(other.domain)
        with self._store.read() as connection:
            known = billed.settlement(connection, cloud_id, period)
            own = _invoice(connection, payer, period)
            opened = disputes.of_month(connection, payer, period)
        if known is not None:
            answer = manager_pb2.GetSettlementResponse(
                settlement=known, net=known.net, receivable=own
            )
            theirs: list[manager_pb2.Dispute] = []
            try:
                theirs = other.opened(period, known.net.currency_code)
            except errors.Unavailable as error:
                answer.not_asked.CopyFrom(errors.to_problem(error))
            statements.show_opened(answer.settlement, opened, theirs)
            return answer
        worked = self._compared(other, period)
        shown = statements.message(worked.statement, cloud_id)
        statements.show_opened(shown, worked.receivable, worked.payable)
        return manager_pb2.GetSettlementResponse(
            settlement=shown, net=shown.net, receivable=own, payable=worked.bill.invoice
        )

    def net(self, cloud_id: str, period: str, caller: SpiffeId) -> manager_pb2.Settlement:
        """Book the statement, once. Raises FailedPrecondition PERIOD_OPEN, SETTLEMENT_DIFFERS."""
        other = self._partners.find(cloud_id)
        with self._store.read() as connection:
            known = billed.settlement(connection, cloud_id, period)
            issued = billed.issued_month(connection, period) is not None
        if known is not None:
            return known
        worked = self._compared(other, period)
        for cloud, done in ((self._cloud.cloud_id, issued), (cloud_id, worked.bill.issued)):
            if not done:
                raise errors.FailedPrecondition(
                    "PERIOD_OPEN",
                    f"cloud {cloud} has not issued {period}",
                    hint="`watari invoice issue` there; then what it bills is what it bills",
                    period=period,
                )
        comparing.require_like(worked)
        now = micros(self._clock.now())
        with self._store.write() as connection:
            known = billed.settlement(connection, cloud_id, period)
            if known is not None:
                return known
            comparing.require_as_worked(connection, worked)
            booked = statements.message(worked.statement, cloud_id)
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
            netted = billed.settlement_with(connection, domain, period)
            return manager_pb2.ListBilledChargesResponse(
                currency_code=rows.book(connection).currency,
                time_zone=self._zone,
                issued=billed.issued_month(connection, period) is not None,
                invoice=_invoice(connection, viewers.peer(domain), period),
                netted=None if netted is None else statements.without_charges(netted),
            )

    def charges(self, period: str, domain: str, *, anew: bool) -> list[manager_pb2.OwedCharge]:
        """What a provider is billed, by charge."""

        def work() -> list[manager_pb2.OwedCharge]:
            until = periods.labelled(period, self._zone).end
            with self._store.read() as connection:
                happened = history.events(connection, self._cloud, until)
                return statements.listed(
                    self._comparing.billed(connection, domain, period, happened),
                    rows.book(connection).currency,
                )

        with self._one_of(self._answering):
            return self._kept_billed.get((domain, period), work, anew=anew)

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
    ) -> list[manager_pb2.OwedCharge]:
        """What we work out that we owe a provider's cloud, by charge."""

        def work() -> list[manager_pb2.OwedCharge]:
            other = self._partners.find(cloud_id, domain)
            bill = other.bill(period)
            return statements.listed(self._comparing.expected(other, bill), bill.currency)

        with self._one_of(self._answering):
            return self._kept_expected.get((domain, cloud_id, period), work, anew=anew)

    def _compared(self, other: OtherSide, period: str) -> Worked:
        with self._one_of(self._working):
            return self._comparing.work(other, period)

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


def _invoice(connection: Connection, payer: str, period: str) -> manager_pb2.Invoice | None:
    found = billed.invoice_heads(connection, payer=payer, period=period, limit=1)
    return found[0] if found else None
