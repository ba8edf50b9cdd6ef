"""What Prometheus is told of a manager, beside its calls.

What stands is counted from the database at every fetch; ended migrations as they end. Labels are
states, kinds and resource classes of the own hosts: never names of machines, tenants or clouds.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import sqlalchemy as sa
from prometheus_client import Histogram
from sqlalchemy.engine import Connection

from manager import capacity, tables
from manager.accounts import rows as account_rows
from manager.accounts.tables import book_problems
from manager.outbox import Kind
from manager.reservation import OPEN, State
from manager.saga import states
from manager.saga.record import Record
from manager.settings.hosts import AgentSettings
from manager.store import Store, micros
from watari.clock import Clock
from watari.metrics import Gauge

MIGRATION_SECONDS = Histogram(
    "watari_manager_migration_seconds",
    "From the request to the end of migrations that ended since the start, by final state.",
    ["state"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
DOWNTIME_SECONDS = Histogram(
    "watari_manager_downtime_seconds",
    "How long machines that ran stood still, of migrations that succeeded since the start.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)

_MIGRATIONS = tables.migrations.c
_RESERVATIONS = tables.reservations.c
_OWED = tables.owed_calls.c


def ended(record: Record) -> None:
    """A migration has come to a final state."""
    if record.ended_at is not None:
        seconds = (record.ended_at - record.created_at) / 1e6
        MIGRATION_SECONDS.labels(record.state.lower()).observe(max(0.0, seconds))
    if record.state is states.State.SUCCEEDED and record.downtime is not None:
        DOWNTIME_SECONDS.observe(record.downtime / 1e6)


def collector(
    store: Store, clock: Clock, agents: Mapping[str, AgentSettings]
) -> Callable[[], Iterator[Gauge]]:
    """What is asked at every fetch: live rows by their indexes, whatever the history's length."""

    def collect() -> Iterator[Gauge]:
        with store.read() as connection:
            found = [
                _by_state(connection, "migrations", tables.migrations, states.State, states.FINAL),
                _by_state(
                    connection,
                    "reservations",
                    tables.reservations,
                    State,
                    frozenset(State) - OPEN,
                ),
                *_owed(connection, micros(clock.now())),
                *_capacity(connection, agents),
                _audit_head(connection),
                *_accounts(connection, micros(clock.now())),
            ]
        yield from found

    return collect


def _by_state(
    connection: Connection,
    what: str,
    table: sa.Table,
    every: "type[states.State] | type[State]",
    over: "frozenset[states.State] | frozenset[State]",
) -> Gauge:
    live = [state for state in every if state not in over]
    column = table.c.state
    query = sa.select(column, sa.func.count()).where(column.in_(live)).group_by(column)
    counts = {str(state): number for state, number in connection.execute(query)}
    gauge = Gauge(
        f"watari_manager_{what}", f"{what.title()} that have not ended.", labels=["state"]
    )
    for state in live:
        gauge.add_metric([state.lower()], counts.get(state, 0))
    return gauge


def _owed(connection: Connection, now: int) -> Iterator[Gauge]:
    """Debts are recorded with the change of state that they follow from, and have no moment."""
    since = sa.func.coalesce(
        _MIGRATIONS.state_changed_at, _RESERVATIONS.hand_over_at, _RESERVATIONS.created_at
    )
    joined = tables.owed_calls.outerjoin(
        tables.migrations, _MIGRATIONS.migration_id == _OWED.migration_id
    ).outerjoin(tables.reservations, _RESERVATIONS.migration_id == _OWED.migration_id)
    query = sa.select(_OWED.kind, sa.func.count(), sa.func.min(since)).select_from(joined)
    rows = {row[0]: row for row in connection.execute(query.group_by(_OWED.kind))}
    count = Gauge("watari_manager_owed_calls", "Calls owed to agents and peers.", labels=["kind"])
    age = Gauge(
        "watari_manager_owed_oldest_seconds",
        "Since the change of state, or the reservation, that the oldest one follows from.",
        labels=["kind"],
    )
    for kind in Kind:
        _, number, oldest = rows.get(kind.value, (kind, 0, None))
        count.add_metric([kind.value.lower()], number)
        age.add_metric([kind.value.lower()], 0 if oldest is None else max(0, now - oldest) / 1e6)
    yield count
    yield age


def _capacity(connection: Connection, agents: Mapping[str, AgentSettings]) -> Iterator[Gauge]:
    sums: dict[str, Counter[str]] = {
        name: Counter() for name in ("total", "reserved", "allocated", "held")
    }
    hosts = Gauge("watari_manager_hosts", "Hosts by whether they answer.", labels=["reachable"])
    reachable: Counter[bool] = Counter()
    for view in capacity.views(connection, agents):
        reachable[view.reachable] += 1
        for name, sum_of in sums.items():
            sum_of.update(dict(getattr(view, name)))
    for known in (True, False):
        hosts.add_metric([str(known).lower()], reachable[known])
    yield hosts
    for name, sum_of in sums.items():
        gauge = Gauge(
            f"watari_manager_inventory_{name}",
            f"{name.title()} of all hosts, in the class's own unit.",
            labels=["class"],
        )
        # Every class that there is, so that what nobody uses reads 0.
        for each in sums["total"]:
            gauge.add_metric([each], sum_of[each])
        yield gauge


def _accounts(connection: Connection, now: int) -> Iterator[Gauge]:
    ran_at = account_rows.last_run(connection).ran_at
    yield Gauge(
        "watari_manager_accounts_age_seconds",
        "Since the accounts were brought up to date.",
        max(0, now - ran_at) / 1e6 if ran_at else 0,
    )
    problems = connection.scalar(sa.select(sa.func.count()).select_from(book_problems))
    yield Gauge(
        "watari_manager_accounts_problems", "Facts of machines that do not add up.", problems or 0
    )


def _audit_head(connection: Connection) -> Gauge:
    head = connection.scalar(sa.select(sa.func.max(tables.audit_entries.c.sequence)))
    return Gauge("watari_manager_audit_head_sequence", "Of the newest audit entry.", head or 0)
