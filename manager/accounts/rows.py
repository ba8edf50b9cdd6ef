"""The rows of the accounts, and the facts that they are made of. Runs in the caller's
transaction.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import inventory
from manager import tables as shared
from manager.accounting import exact
from manager.accounting.events import Pin
from manager.accounting.periods import Month
from manager.accounts import tables
from manager.accounts.facts import Fact, Problem, What
from manager.metering.tables import usage_events
from watari.v1 import agent_pb2, common_pb2, manager_pb2

RUN = "accounts"

PAGE_ROWS = 1000
"""Facts that one query reads."""

PROBLEMS_MAX = 1000
"""Problems that are kept: the newest."""

_MONTHS = tables.book_months.c
_TOTALS = tables.book_totals.c
_PROBLEMS = tables.book_problems.c
_RECORDS = shared.usage_records.c
_EVENTS = usage_events.c
_RESERVATIONS = shared.reservations.c

_BASIC = {inventory.VCPUS: 0, inventory.MEMORY: 0, inventory.DISK: 0}
"""What a host says of every machine, also that it has none of it."""

_HOST_EVENTS = {
    agent_pb2.HOST_EVENT_KIND_ARRIVED: What.BROUGHT,
    agent_pb2.HOST_EVENT_KIND_DEPARTED: What.TAKEN,
    agent_pb2.HOST_EVENT_KIND_STARTED: What.STARTED,
    agent_pb2.HOST_EVENT_KIND_STOPPED: What.STOPPED,
    agent_pb2.HOST_EVENT_KIND_RESIZED: What.RESIZED,
    agent_pb2.HOST_EVENT_KIND_APPEARED: What.APPEARED,
    agent_pb2.HOST_EVENT_KIND_REMOVED: What.REMOVED,
}
"""What transfers moved (SENT, RECEIVED) is no fact here: the signed receipt counts."""

_RUNNING = frozenset({agent_pb2.GUEST_STATE_RUNNING, agent_pb2.GUEST_STATE_PAUSED})


class State(enum.StrEnum):
    """Of a billing month."""

    OPEN = "open"
    CLOSING = "closing"
    """Charges are being posted."""
    CLOSED = "closed"
    """All are; what is told later is a correction."""
    SEALED = "sealed"
    """Nothing changes any more."""


@dataclass(frozen=True)
class Positions:
    """How far facts were read: the last sequence of usage records, the last position of events."""

    records: int = 0
    events: int = 0


@dataclass(frozen=True)
class Run:
    """The last time that the accounts were brought up to date."""

    ran_at: int = 0
    read: Positions = Positions()


@dataclass(frozen=True)
class MonthRow:
    """A billing month and how far it is."""

    month: Month
    state: State
    after: Positions
    opening: str
    closed_at: int = 0


def last_run(connection: Connection) -> Run:
    """All zeros before the first."""
    row = connection.execute(sa.select(tables.book_runs)).one_or_none()
    return Run() if row is None else Run(row.ran_at, Positions(row.records_read, row.events_read))


def write_run(connection: Connection, run: Run) -> None:
    """From now on this was the last."""
    connection.execute(tables.book_runs.delete())
    connection.execute(
        tables.book_runs.insert().values(
            name=RUN, ran_at=run.ran_at, records_read=run.read.records, events_read=run.read.events
        )
    )


def months(connection: Connection) -> list[MonthRow]:
    """Every month, the oldest first; those that are sealed without their opening."""
    sealed = _MONTHS.state == State.SEALED
    query = sa.select(
        *(column for column in _MONTHS if column is not _MONTHS.opening),
        sa.case((sealed, "[]"), else_=_MONTHS.opening).label("opening"),
    ).order_by(_MONTHS.start_at)
    return [
        MonthRow(
            Month(row.period, row.zone, row.start_at, row.end_at),
            State(row.state),
            Positions(row.records_after, row.events_after),
            row.opening,
            row.closed_at,
        )
        for row in connection.execute(query)
    ]


def opening(connection: Connection, period: str) -> str:
    """What was here when a month began, of one that is sealed too; of one that was sealed after its
    invoices were issued, nothing is left.
    """
    found: str | None = connection.scalar(
        sa.select(_MONTHS.opening).where(_MONTHS.period == period)
    )
    return found or "[]"


def put_month(connection: Connection, row: MonthRow) -> None:
    """A month as it is now."""
    connection.execute(tables.book_months.delete().where(_MONTHS.period == row.month.label))
    connection.execute(
        tables.book_months.insert().values(
            period=row.month.label,
            zone=row.month.zone,
            start_at=row.month.start,
            end_at=row.month.end,
            state=row.state,
            records_after=row.after.records,
            events_after=row.after.events,
            opening=row.opening,
            closed_at=row.closed_at,
        )
    )


def set_state(connection: Connection, period: str, state: State, closed_at: int = 0) -> None:
    """Move a month on."""
    values: dict[str, object] = {"state": state} | ({"closed_at": closed_at} if closed_at else {})
    connection.execute(tables.book_months.update().where(_MONTHS.period == period).values(**values))


def replace_totals(
    connection: Connection, period: str, totals: Mapping[tuple[str, str], int]
) -> None:
    """What payers' tenants are charged for a month so far, in nanos."""
    connection.execute(tables.book_totals.delete().where(_TOTALS.period == period))
    rows = []
    for (payer, tenant), nanos in totals.items():
        units, rest = divmod(nanos, exact.NANOS)
        rows.append(
            {"period": period, "payer": payer, "tenant": tenant, "units": units, "nanos": rest}
        )
    if rows:
        connection.execute(tables.book_totals.insert(), rows)


def period_at(connection: Connection, instant: int) -> str | None:
    """The billing month that an instant is in, once the accounts have got there."""
    inside = sa.and_(_MONTHS.start_at <= instant, _MONTHS.end_at > instant)
    return connection.scalar(sa.select(_MONTHS.period).where(inside))


def total(connection: Connection, period: str, payer: str, tenant: str | None) -> int:
    """What a payer is charged for a month so far, or one of its tenants is, in nanos."""
    query = sa.select(sa.func.sum(_TOTALS.units), sa.func.sum(_TOTALS.nanos)).where(
        _TOTALS.period == period, _TOTALS.payer == payer
    )
    if tenant is not None:
        query = query.where(_TOTALS.tenant == tenant)
    units, nanos = connection.execute(query).one()
    return int(units or 0) * exact.NANOS + int(nanos or 0)


def add_problems(connection: Connection, problems: Iterable[Problem], now: int) -> list[Problem]:
    """Keep problems; those that were not known."""
    known = {
        (row.vm_id, row.fact_id) for row in connection.execute(sa.select(tables.book_problems))
    }
    new = {(each.vm_id, each.fact_id): each for each in problems}
    added = [each for key, each in new.items() if key not in known][:PROBLEMS_MAX]
    if added:
        connection.execute(
            tables.book_problems.insert(), [{**vars(each), "noticed_at": now} for each in added]
        )
        oldest = sa.select(_PROBLEMS.noticed_at).order_by(_PROBLEMS.noticed_at.desc())
        limit = connection.scalar(oldest.offset(PROBLEMS_MAX).limit(1))
        if limit is not None:
            connection.execute(tables.book_problems.delete().where(_PROBLEMS.noticed_at <= limit))
    return added


def problems(connection: Connection) -> Sequence[tuple[int, Problem]]:
    """What does not add up, with when it was noticed, the newest first."""
    query = sa.select(tables.book_problems).order_by(_PROBLEMS.noticed_at.desc(), _PROBLEMS.vm_id)
    return [
        (row.noticed_at, Problem(row.vm_id, row.fact_id, row.words))
        for row in connection.execute(query)
    ]


def newest(connection: Connection) -> Positions:
    """How far facts are recorded."""
    return Positions(
        connection.scalar(sa.select(sa.func.max(_RECORDS.sequence))) or 0,
        connection.scalar(sa.select(sa.func.max(_EVENTS.position))) or 0,
    )


def facts(connection: Connection, after: Positions) -> Iterator[Fact]:
    """Everything that was recorded after some positions."""
    yield from _records(connection, after.records)
    yield from _events(connection, after.events)


def _records(connection: Connection, after: int) -> Iterator[Fact]:
    columns = (_RECORDS.sequence, _RECORDS.tenant_domain, _RECORDS.record)
    while True:
        query = sa.select(*columns).where(_RECORDS.sequence > after).order_by(_RECORDS.sequence)
        page = connection.execute(query.limit(PAGE_ROWS)).all()
        records = [manager_pb2.UsageRecord.FromString(row.record) for row in page]
        pins = _pins(connection, [each for each in records if each.price_version])
        for row, record in zip(page, records, strict=True):
            if record.kind not in (manager_pb2.USAGE_KIND_ARRIVED, manager_pb2.USAGE_KIND_LEFT):
                continue
            arrived = record.kind == manager_pb2.USAGE_KIND_ARRIVED
            yield Fact(
                fact_id=record.usage_id,
                position=row.sequence,
                what=What.ARRIVED if arrived else What.LEFT,
                at=record.occurred_at.ToMicroseconds(),
                vm_id=record.vm_id,
                tenant_domain=row.tenant_domain,
                tenant=record.tenant,
                vm_name=record.vm_name,
                resources=_amounts(record.resources),
                migration_id=record.migration_id,
                peer=record.peer_cloud,
                wire_bytes=record.wire_bytes,
                pin=pins.get(record.migration_id),
            )
        if len(page) < PAGE_ROWS:
            return
        after = page[-1].sequence


def _pins(connection: Connection, records: Sequence[manager_pb2.UsageRecord]) -> dict[str, Pin]:
    """By migration: the quotes that arrivals came with. One without is priced by what is in
    effect.
    """
    wanted = [each.migration_id for each in records]
    if not wanted:
        return {}
    found: dict[str, Pin] = {}
    query = sa.select(
        _RESERVATIONS.migration_id, _RESERVATIONS.price_version, _RESERVATIONS.request
    ).where(_RESERVATIONS.migration_id.in_(wanted))
    for row in connection.execute(query):
        request = manager_pb2.ReserveRequest.FromString(row.request)
        if request.HasField("quote"):
            quote = manager_pb2.Quote.FromString(request.quote.payload)
            found[row.migration_id] = Pin(
                row.price_version, quote.expires_at.ToMicroseconds(), quote.quote_id
            )
    return found


def _events(connection: Connection, after: int) -> Iterator[Fact]:
    columns = (_EVENTS.position, _EVENTS.tenant_domain, _EVENTS.tenant, _EVENTS.event)
    while True:
        query = sa.select(*columns).where(_EVENTS.position > after).order_by(_EVENTS.position)
        page = connection.execute(query.limit(PAGE_ROWS)).all()
        for row in page:
            recorded = manager_pb2.UsageEvent.FromString(row.event)
            event = recorded.event
            what = _HOST_EVENTS.get(event.kind)
            if what is not None:
                yield Fact(
                    fact_id=recorded.event_id,
                    position=row.position,
                    what=what,
                    at=event.occurred_at.ToMicroseconds(),
                    vm_id=event.vm_id,
                    tenant_domain=row.tenant_domain,
                    tenant=row.tenant,
                    vm_name=event.vm_name,
                    resources=_amounts(event.resources),
                    running=event.state in _RUNNING,
                    host=(recorded.host_id, recorded.log_id),
                    migration_id=event.migration_id,
                )
        if len(page) < PAGE_ROWS:
            return
        after = page[-1].position


def _amounts(resources: common_pb2.Resources) -> dict[str, int]:
    return _BASIC | inventory.amounts(resources)
