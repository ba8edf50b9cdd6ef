"""What two clouds bill each other for a month, worked out from both sides' records.

    creditor                                   debtor
    what it billed            --- bill --->    its own hand-overs, mirrored,
    starts, stops, resizes    -- events -->    with the creditor's events and
    price sheets              -- sheets -->    price sheets: what it expects
                              <-- expected --
    disputes                  - disputes ->    what of it is not agreed

The debtor believes the creditor what happened between hand-overs, and nothing about hand-overs
between the two of them, nor about the quotes that held for these.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from manager.accounting import booking, exact, mirroring, periods, rows, settlement
from manager.accounting.events import Event
from manager.accounting.mirroring import Sides
from manager.accounting.settlement import Owed, Statement
from manager.accounts.facts import Cloud
from manager.billing import disputes, history, statements, viewers
from manager.billing.other_side import Bill, OtherSide
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.v1 import manager_pb2


@dataclass(frozen=True)
class Worked:
    """A statement, and what it comes from."""

    statement: Statement
    bill: Bill
    receivable: Sequence[manager_pb2.Dispute]
    """What the peer disputed of what it is billed."""
    payable: Sequence[manager_pb2.Dispute]
    """What we disputed of what we are."""


class Comparing:
    """The records of one cloud, held against another's. From any thread."""

    def __init__(self, cloud: Cloud, zone: str, store: Store, clock: Clock) -> None:
        """`zone` is that of billing months."""
        self._cloud = cloud
        self._zone = zone
        self._store = store
        self._clock = clock

    def work(self, other: OtherSide, period: str) -> Worked:
        """The statement of a month as it is now. Raises as `expected`, and Unavailable."""
        bill = other.bill(period)
        month = periods.labelled(period, self._zone)
        with self._store.read() as connection:
            currency = rows.book(connection).currency
            happened = history.events(connection, self._cloud, month.end)
            own = self.billed(connection, other.domain, period, happened)
            receivable = disputes.of_month(connection, viewers.peer(other.domain), period)
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
        expected = self.expected(other, bill)
        payable = other.opened(period, currency)
        as_of = bill.netted_at
        found = settlement.statement(
            month,
            currency,
            settlement.claim(
                self._cloud.domain,
                other.domain,
                own,
                theirs,
                settlement.held(statements.opened(receivable), as_of),
            ),
            settlement.claim(
                other.domain,
                self._cloud.domain,
                bill.owed,
                expected,
                settlement.held(statements.opened(payable), as_of),
            ),
        )
        return Worked(found, bill, receivable, payable)

    def expected(self, other: OtherSide, bill: Bill) -> Owed:
        """What their bill should be, as far as we know. Raises FailedPrecondition PERIOD_OPEN."""
        if micros(self._clock.now()) < bill.month.end:
            raise errors.FailedPrecondition(
                "PERIOD_OPEN",
                f"{bill.month.label} has not ended at {other.cloud_id}",
                hint="ask again when it has",
                period=bill.month.label,
            )
        sides = Sides(other.cloud_id, self._cloud.cloud_id, viewers.peer(self._cloud.domain))
        told = other.events(bill.month.label, sides.payer)
        with self._store.read() as connection:
            happened = history.events(connection, self._cloud, bill.month.end)
            # Machines of our own tenants: others' are billed to others.
            own = [each for each in happened if each.payer.startswith("tenant:")]
            quotes = history.quotes(connection, own, other.cloud_id)
        return mirroring.expected(sides, own, told, quotes, other.book(), bill.month)

    def billed(
        self, connection: Connection, domain: str, period: str, happened: Sequence[Event]
    ) -> Owed:
        """What a provider is billed. The ledger has the amounts; by which version and quotes they
        are, it follows from what happened.
        """
        payer = viewers.peer(domain)
        theirs = [each for each in happened if each.payer == payer]
        month = periods.labelled(period, self._zone)
        rated = mirroring.priced(theirs, rows.book(connection), month, self._cloud.cloud_id)
        return settlement.owed(
            rows.every(connection, period=period, account=f"{booking.RECEIVABLE}{payer}"),
            payer,
            period,
            settlement.terms(rated.lines),
        )


def require_as_worked(connection: Connection, worked: Worked) -> None:
    """Nothing was disputed, and no dispute decided, since the statement was worked out.

    Raises Conflict SETTLEMENT_DIFFERS.
    """
    of = worked.statement
    now = disputes.of_month(connection, viewers.peer(of.peer), of.month.label)
    known, found = (
        settlement.held(statements.opened(each), worked.bill.netted_at)
        for each in (worked.receivable, now)
    )
    if known != found:
        raise errors.Conflict(
            "SETTLEMENT_DIFFERS",
            f"{of.peer} disputed a charge of {of.month.label}, or a dispute was decided, "
            "while it was worked out",
            hint="repeat the call",
        )


def require_like(worked: Worked) -> None:
    """What the other side has booked already is what we are about to book.

    Raises FailedPrecondition SETTLEMENT_DIFFERS.
    """
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
