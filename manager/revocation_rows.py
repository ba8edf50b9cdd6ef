"""The rows of revoked standing delegations. Runs in the caller's transaction.

A row holds for one tenant's delegations of an id, or, with `tenant` None, for everybody's. It is
kept until no document that it is about can be good any more, by a clock that may be set back a day;
one that was made out for longer, and is shown meanwhile, has it kept for longer.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables
from manager.ownership import Tenant, View
from manager.store import micros
from watari.standing import Standing

CLOCK_SKEW = 24 * 3600 * 1_000_000
"""Microseconds: the clock may be set back so far, or that of the next manager over the same
database be behind."""

_ROWS = tables.revoked_delegations.c
_WHOEVER = ("", "")


@dataclass(frozen=True)
class Revocation:
    """A standing delegation that nothing begins under any more."""

    delegation_id: str
    tenant: Tenant | None
    """Whose machines it is about; None: whoever's."""
    revoked_at: int
    """Microseconds since 1970, as all moments here."""
    revoked_by: str
    """SPIFFE id."""
    reason: str
    """As that party said; may be empty."""
    kept_until: int


def of(connection: Connection, delegation_id: str, tenant: Tenant | None) -> Revocation | None:
    """The first revocation that holds for a delegation of this tenant's machines; for None, the one
    that holds for everybody's.
    """
    tenants = [_WHOEVER] if tenant is None else [_WHOEVER, (tenant.domain, tenant.name)]
    row = connection.execute(
        sa.select(tables.revoked_delegations)
        .where(_ROWS.delegation_id == delegation_id)
        .where(sa.or_(*map(_is_of, tenants)))
        .order_by(_ROWS.revoked_at, _ROWS.tenant_domain)
        .limit(1)
    ).one_or_none()
    return None if row is None else _revocation(row)


def of_standing(connection: Connection, found: Standing) -> Revocation | None:
    """The first revocation that holds for a document."""
    said = found.message
    return of(connection, said.delegation_id, Tenant(said.tenant_domain, said.tenant))


def insert(connection: Connection, revocation: Revocation) -> None:
    """Write a new one. The tenant has none of that id yet."""
    tenant_domain, tenant = _key(revocation.tenant)
    connection.execute(
        tables.revoked_delegations.insert().values(
            delegation_id=revocation.delegation_id,
            tenant_domain=tenant_domain,
            tenant=tenant,
            revoked_at=revocation.revoked_at,
            revoked_by=revocation.revoked_by,
            reason=revocation.reason,
            kept_until=revocation.kept_until,
        )
    )


def outlasts(revocation: Revocation, found: Standing) -> bool:
    """Whether it is kept for as long as the document may be good."""
    return revocation.kept_until >= _over(found)


def keep(connection: Connection, revocation: Revocation, found: Standing) -> None:
    """Keep it for as long as the document may be good."""
    connection.execute(
        tables.revoked_delegations.update()
        .where(_ROWS.delegation_id == revocation.delegation_id)
        .where(_is_of(_key(revocation.tenant)))
        .where(_ROWS.kept_until < _over(found))
        .values(kept_until=_over(found))
    )


def forget(connection: Connection, now: int) -> None:
    """Delete those whose documents are over."""
    connection.execute(tables.revoked_delegations.delete().where(_ROWS.kept_until <= now))


def count(connection: Connection, domain: str, name: str | None = None) -> int:
    """How many tenants of a provider have, or one tenant; the domain "" is the operators'."""
    query = sa.select(sa.func.count()).where(_ROWS.tenant_domain == domain)
    if name is not None:
        query = query.where(_ROWS.tenant == name)
    return connection.scalar(query.select_from(tables.revoked_delegations)) or 0


def unseen(view: View) -> sa.Select[Any]:
    """Ids and tenants of those of the view of which no document was seen."""
    seen = tables.standing_delegations.c
    query = sa.select(
        _ROWS.delegation_id, _ROWS.tenant_domain, _ROWS.tenant, sa.literal("").label("digest")
    ).where(~sa.exists().where(seen.delegation_id == _ROWS.delegation_id))
    return query if view.tenant is None else query.where(_is_of(_key(view.tenant)))


def _is_of(key: tuple[str, str]) -> sa.ColumnElement[bool]:
    return sa.and_(_ROWS.tenant_domain == key[0], _ROWS.tenant == key[1])


def _key(tenant: Tenant | None) -> tuple[str, str]:
    return _WHOEVER if tenant is None else (tenant.domain, tenant.name)


def _over(found: Standing) -> int:
    return micros(found.expires_at) + CLOCK_SKEW


def _revocation(row: Any) -> Revocation:
    tenant = Tenant(row.tenant_domain, row.tenant)
    return Revocation(
        row.delegation_id,
        None if tenant == Tenant(*_WHOEVER) else tenant,
        row.revoked_at,
        row.revoked_by,
        row.reason,
        row.kept_until,
    )
