"""What admissions ask of the rows of reservations: compiled once, and sent together.

Decides nothing. What is asked for seldom is in `manager.reservation_rows`.
"""

from collections.abc import Collection, Sequence
from functools import cache

import sqlalchemy as sa

from manager import reservation_rows, tables
from manager.ownership import Tenant
from manager.reservation import LIVE, Reservation, State
from manager.statements import Ask, AskRows, Rows, Statement, Told, of_row, padded

_ROWS = tables.reservations.c
_NAMES = [column.name for column in _ROWS]
_LIVE = _ROWS.state.in_([state.value for state in LIVE])
_COUNT_LIVE = Statement(sa.select(sa.func.count()).select_from(tables.reservations).where(_LIVE))
_COUNT_HELD = Statement(
    sa.select(_ROWS.tenant_domain, _ROWS.tenant, sa.func.count())
    .where(_ROWS.state == State.HELD.value)
    .group_by(_ROWS.tenant_domain, _ROWS.tenant)
)
_INSERT = Rows.inserting(
    tables.reservations,
    [
        *("reservation_id", "migration_id", "vm_id", "from_cloud", "requested_by"),
        *("tenant_domain", "tenant", "host_id", "state", "expires_at", "created_at"),
        *("price_version", "request", "grant", "starts_at", "ends_at", "resources"),
    ],
)
_DUE_ANY = Statement(
    sa.select(_ROWS.reservation_id)
    .where(reservation_rows.WAITS, _ROWS.expires_at <= sa.bindparam("now"))
    .limit(1)
)


def _confirming(count: int) -> sa.Update:
    rows = [
        sa.and_(
            _ROWS.reservation_id == of_row("key", row),
            _ROWS.expires_at == of_row("known_expiry", row),
            _ROWS.resolution.is_not_distinct_from(of_row("known_resolution", row, sa.Integer())),
            _ROWS.hand_over.is_(None) == of_row("not_handed_over", row, sa.Boolean()),
        )
        for row in range(count)
    ]
    return (
        tables.reservations.update()
        .where(_ROWS.state == State.PENDING.value, sa.or_(*rows))
        .values(state=State.CONFIRMED.value)
    )


_CONFIRM = Rows(_confirming)


@cache
def _find(keys: int, moved: int) -> Statement:
    by_key = _ROWS.reservation_id.in_([sa.bindparam(f"key{each}") for each in range(keys)])
    by_migration = _ROWS.migration_id.in_([sa.bindparam(f"moved{each}") for each in range(moved)])
    return Statement(sa.select(tables.reservations).where(by_key | by_migration))


def inserting(new: Sequence[Reservation]) -> AskRows:
    """Writes new reservations."""
    return AskRows(
        _INSERT,
        [
            {
                "reservation_id": each.reservation_id,
                "migration_id": each.migration_id,
                "vm_id": each.vm_id,
                "from_cloud": each.from_cloud,
                "requested_by": each.requested_by,
                "tenant_domain": each.owner.domain,
                "tenant": each.owner.name,
                "host_id": each.host_id,
                "state": each.state.value,
                "expires_at": each.expires_at,
                "created_at": each.created_at,
                "price_version": each.price_version,
                "request": each.request.SerializeToString(deterministic=True),
                "grant": each.grant.SerializeToString(deterministic=True),
                "starts_at": each.starts_at,
                "ends_at": each.ends_at,
                "resources": reservation_rows.resources_blob(each.resources),
            }
            for each in new
        ],
    )


def finding(reservation_ids: Collection[str], migration_ids: Collection[str]) -> Ask:
    """Reads those with one of these ids, or of one of these migrations; `found` tells them."""
    keys, moved = padded(reservation_ids), padded(migration_ids or reservation_ids)
    values = {f"key{number}": key for number, key in enumerate(keys)}
    values |= {f"moved{number}": key for number, key in enumerate(moved)}
    return Ask(_find(len(keys), len(moved)), values)


def found(told: Told) -> list[Reservation]:
    """What `finding` read."""
    return [reservation_rows.from_row(dict(zip(_NAMES, row, strict=True))) for row in told.rows]


def due_any(now: int) -> Ask:
    """Reads whether `reservation_rows.due` finds any: a row if so."""
    return Ask(_DUE_ANY, {"now": now})


def counting() -> Ask:
    """Reads the number of reservations that hold room."""
    return Ask(_COUNT_LIVE)


def counting_held() -> Ask:
    """Reads how many each tenant has held; `held_by_tenant` tells it."""
    return Ask(_COUNT_HELD)


def held_by_tenant(told: Told) -> dict[Tenant, int]:
    """What `counting_held` read."""
    return {Tenant(domain, name): int(count) for domain, name, count in told.rows}


def confirming(rows: Sequence[Reservation]) -> AskRows:
    """Makes pending reservations firm: fewer are changed when another changed one meanwhile."""
    return AskRows(
        _CONFIRM,
        [
            {
                "key": row.reservation_id,
                "known_expiry": row.expires_at,
                "known_resolution": row.resolution,
                "not_handed_over": row.hand_over is None,
            }
            for row in rows
        ],
    )
