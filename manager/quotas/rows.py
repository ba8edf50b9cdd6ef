"""The rows of quotas. Runs in the caller's transaction; decides nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager.ownership import Tenant
from manager.quotas import budgets, tables
from manager.quotas.budgets import Budget
from manager.quotas.limits import Limits, of_quota
from manager.statements import Ask, Statement, Told, padded, run
from watari import errors
from watari.v1 import manager_pb2

_ROWS = tables.quotas.c
_NAMES = [column.name for column in _ROWS]


@dataclass(frozen=True)
class QuotaRow:
    """The quota of a tenant, or that it has none of its own."""

    tenant: Tenant
    quota: manager_pb2.Quota | None
    """As it was asked for."""

    request_id: str
    generation: int

    @property
    def budget(self) -> Budget:
        """What it says of money; nothing where there is none."""
        return Budget() if self.quota is None else budgets.of_quota(self.quota)

    @property
    def limits(self) -> Limits:
        """What it says; nothing where there is none."""
        return Limits() if self.quota is None else of_quota(self.quota)


def get(connection: Connection, tenant: Tenant) -> QuotaRow | None:
    """The row of a tenant, or None."""
    query = sa.select(tables.quotas).where(_is(tenant))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


def finding(tenants: Collection[Tenant]) -> Ask:
    """Reads the rows of these tenants; `found` tells them."""
    wanted = padded(tenants)
    values = {f"domain{number}": each.domain for number, each in enumerate(wanted)}
    values |= {f"name{number}": each.name for number, each in enumerate(wanted)}
    return Ask(_find(len(wanted)), values)


def found(told: Told) -> dict[Tenant, QuotaRow]:
    """What `finding` read, where there is any."""
    rows = [_row(dict(zip(_NAMES, row, strict=True))) for row in told.rows]
    return {row.tenant: row for row in rows}


def those(connection: Connection, tenants: Collection[Tenant]) -> dict[Tenant, QuotaRow]:
    """The rows of these tenants, where there are any."""
    return found(run(connection, [finding(tenants)])[0])


def every(connection: Connection) -> dict[Tenant, QuotaRow]:
    """Every quota that there is."""
    query = sa.select(tables.quotas).where(_ROWS.quota.is_not(None))
    rows = [_row(row) for row in connection.execute(query).mappings()]
    return {row.tenant: row for row in rows}


def count(connection: Connection) -> int:
    """How many quotas there are."""
    query = sa.select(sa.func.count()).where(_ROWS.quota.is_not(None))
    return connection.scalar(query) or 0


def write(
    connection: Connection,
    known: QuotaRow | None,
    tenant: Tenant,
    quota: manager_pb2.Quota | None,
    request_id: str,
) -> None:
    """Put a quota, or that there is none, in place of `known`.

    Raises Conflict GENERATION_CONFLICT when another did so meanwhile.
    """
    values = {
        "quota": None if quota is None else quota.SerializeToString(deterministic=True),
        "request_id": request_id,
    }
    if known is None:
        _insert(connection, tenant, generation=1, **values)
        return
    changed = connection.execute(
        tables.quotas.update()
        .where(_is(tenant), _ROWS.generation == known.generation)
        .values(generation=known.generation + 1, **values)
    )
    if changed.rowcount != 1:
        raise _changed(tenant)


def admit(connection: Connection, tenant: Tenant) -> None:
    """Count an admission, before the use is: whoever else admits for the tenant waits for this
    transaction, or loses.
    """
    changed = connection.execute(
        tables.quotas.update().where(_is(tenant)).values(admissions=_ROWS.admissions + 1)
    )
    if changed.rowcount == 0:
        _insert(connection, tenant, generation=0, quota=None, request_id="")


def _insert(connection: Connection, tenant: Tenant, **values: object) -> None:
    try:
        connection.execute(
            tables.quotas.insert().values(
                tenant_domain=tenant.domain, tenant=tenant.name, admissions=0, **values
            )
        )
    except sa.exc.IntegrityError as error:
        raise _changed(tenant) from error


def _changed(tenant: Tenant) -> errors.Conflict:
    return errors.Conflict(
        "GENERATION_CONFLICT",
        f"the quota of tenant {tenant.name} of {tenant.domain} changed meanwhile",
        hint="repeat the call",
        retryable=True,
    )


def _is(tenant: Tenant) -> sa.ColumnElement[bool]:
    return sa.and_(_ROWS.tenant_domain == tenant.domain, _ROWS.tenant == tenant.name)


@cache
def _find(count: int) -> Statement:
    wanted = [
        sa.and_(
            _ROWS.tenant_domain == sa.bindparam(f"domain{each}"),
            _ROWS.tenant == sa.bindparam(f"name{each}"),
        )
        for each in range(count)
    ]
    return Statement(sa.select(tables.quotas).where(sa.or_(*wanted)))


def _row(row: RowMapping | dict[str, Any]) -> QuotaRow:
    blob = row["quota"]
    return QuotaRow(
        tenant=Tenant(row["tenant_domain"], row["tenant"]),
        quota=None if blob is None else manager_pb2.Quota.FromString(blob),
        request_id=row["request_id"],
        generation=row["generation"],
    )
