"""What was learnt: machines with their ledgers, moves that budgets count, histories of prices.

Runs in the caller's transaction. What is JSON here is what `broker.policies` computes with: floats
come back as they went in.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.automation import tables
from broker.automation.policy_rows import Held, Tenant
from broker.policies.forecast import Forecaster, Process
from broker.policies.model import DAY, Move, Standing

MACHINES_KEPT_SECONDS = 30 * DAY
"""A machine that no policy has seen for this long is forgotten, and a cloud's prices are."""

MOVES_KEPT_SECONDS = 2 * DAY
"""Budgets count a day at most."""

_MACHINES = tables.machines.c
_MOVES = tables.moves.c


@dataclass(frozen=True)
class Known:
    """A machine as it was last seen."""

    vm_id: str
    name: str
    cloud_id: str
    since: float
    looked_at: float
    standing: Standing
    burdens: Mapping[str, float]
    """Money an hour by cloud, as they were then; empty right after a move."""
    failed_at: float | None = None


def machines(connection: Connection, held: Held) -> dict[str, Known]:
    """The machines of a policy, by id."""
    rows = connection.execute(sa.select(tables.machines).where(_of(held)))
    return {row.vm_id: _known(row) for row in rows}


def put_machine(connection: Connection, held: Held, known: Known) -> None:
    """Write a machine, in place of what was known of it."""
    table = tables.machines
    connection.execute(table.delete().where(_of(held), _MACHINES.vm_id == known.vm_id))
    connection.execute(
        table.insert().values(
            tenant_domain=held.tenant.domain,
            tenant=held.tenant.name,
            policy_id=held.policy_id,
            vm_id=known.vm_id,
            name=known.name,
            cloud_id=known.cloud_id,
            since=known.since,
            failed_at=known.failed_at,
            looked_at=known.looked_at,
            standing=json.dumps(asdict(known.standing)),
            burdens=json.dumps(dict(known.burdens)),
        )
    )


def forget_machines(connection: Connection, held: Held) -> None:
    """Forget all machines of a policy: what was added up is in terms that no longer hold."""
    connection.execute(tables.machines.delete().where(_of(held)))


def names(connection: Connection, tenant: Tenant) -> dict[str, str]:
    """The names of a tenant's machines, by id."""
    query = sa.select(_MACHINES.vm_id, _MACHINES.name).where(
        _MACHINES.tenant_domain == tenant.domain, _MACHINES.tenant == tenant.name
    )
    return {row.vm_id: row.name for row in connection.execute(query)}


def put_move(connection: Connection, tenant: Tenant, migration_id: str, move: Move) -> None:
    """A move has begun."""
    connection.execute(
        tables.moves.insert().values(
            migration_id=migration_id,
            tenant_domain=tenant.domain,
            tenant=tenant.name,
            vm_id=move.vm_id,
            from_cloud=move.from_cloud,
            to_cloud=move.to_cloud,
            began_at=move.began_at,
        )
    )


def move_of(connection: Connection, migration_id: str) -> Move | None:
    """A move that is still counted."""
    query = sa.select(tables.moves).where(_MOVES.migration_id == migration_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _move(row)


def moves(connection: Connection, tenant: Tenant, after: float) -> list[Move]:
    """The tenant's moves that began later than a moment."""
    query = sa.select(tables.moves).where(
        _MOVES.tenant_domain == tenant.domain,
        _MOVES.tenant == tenant.name,
        _MOVES.began_at > after,
    )
    return [_move(row) for row in connection.execute(query.order_by(_MOVES.began_at))]


def forecasts(connection: Connection, currency: str) -> dict[str, Forecaster]:
    """The histories of prices in a currency, by cloud."""
    rows = tables.forecasts.c
    found = connection.execute(sa.select(tables.forecasts).where(rows.currency == currency))
    return {row.cloud_id: _forecaster(json.loads(row.forecaster)) for row in found}


def put_forecast(
    connection: Connection, currency: str, cloud_id: str, seen: Forecaster, now: float
) -> None:
    """Write a history, in place of what it was."""
    table, rows = tables.forecasts, tables.forecasts.c
    connection.execute(table.delete().where(rows.currency == currency, rows.cloud_id == cloud_id))
    connection.execute(
        table.insert().values(
            currency=currency, cloud_id=cloud_id, seen_at=now, forecaster=json.dumps(asdict(seen))
        )
    )


def prune(connection: Connection, now: float) -> None:
    """Forget what is old."""
    old = now - MACHINES_KEPT_SECONDS
    connection.execute(tables.machines.delete().where(_MACHINES.looked_at < old))
    connection.execute(tables.forecasts.delete().where(tables.forecasts.c.seen_at < old))
    connection.execute(tables.moves.delete().where(_MOVES.began_at < now - MOVES_KEPT_SECONDS))


def _of(held: Held) -> sa.ColumnElement[bool]:
    return sa.and_(
        _MACHINES.tenant_domain == held.tenant.domain,
        _MACHINES.tenant == held.tenant.name,
        _MACHINES.policy_id == held.policy_id,
    )


def _known(row: Any) -> Known:
    return Known(
        vm_id=row.vm_id,
        name=row.name,
        cloud_id=row.cloud_id,
        since=row.since,
        looked_at=row.looked_at,
        standing=Standing(**json.loads(row.standing)),
        burdens=json.loads(row.burdens),
        failed_at=row.failed_at,
    )


def _move(row: Any) -> Move:
    return Move(row.vm_id, row.from_cloud, row.to_cloud, row.began_at)


def _forecaster(said: dict[str, Any]) -> Forecaster:
    plain, rest = Process(**said.pop("plain")), Process(**said.pop("rest"))
    return Forecaster(plain=plain, rest=rest, season=tuple(said.pop("season")), **said)
