"""Standing delegations that people end in this cloud, and the list of those that it knows.

A tenant ends those of its own machines, whoever signed them; an operator everybody's of that id.
The cloud need not have seen the document, and remembers the revocation for as long as one could be
good.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import audit, revocation_rows, tables
from manager.ownership import Tenant, View
from manager.revocation_rows import CLOCK_SKEW, Revocation
from manager.store import Store, micros
from watari import errors, standing
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

TENANT_MAX = 100
"""Revocations of one tenant: a policy has one delegation at a time, and a new one a month."""

PROVIDER_MAX = 10_000
"""Of all tenants of one provider, and of this cloud's operators: none are in another's way."""

Position = tuple[str, str, str, str]
"""Delegation, provider, tenant and document of the last entry of a page."""

_LIFE = standing.LIFE_SECONDS_MAX * 1_000_000
_SEEN = tables.standing_delegations.c


class Revocations:
    """Ends delegations. May be used from any thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def revoke(
        self, delegation_id: str, reason: str, view: View, caller: SpiffeId
    ) -> manager_pb2.KnownDelegation:
        """End a delegation of the view, whether it was seen or not; one that was ended stays so.

        Once this returns, no write transaction begins a move under it. Raises Exhausted
        TOO_MANY_REVOCATIONS.
        """
        now = micros(self._clock.now())
        with self._store.write() as connection:
            revocation_rows.forget(connection, now)
            present = revocation_rows.of(connection, delegation_id, view.tenant)
            if present is None:
                _require_room(connection, view.tenant)
                kept_until = now + _LIFE + CLOCK_SKEW
                present = Revocation(
                    delegation_id, view.tenant, now, str(caller), reason, kept_until
                )
                revocation_rows.insert(connection, present)
                audit.append(
                    connection,
                    now,
                    actor=caller,
                    action="delegation.revoked",
                    subject=delegation_id,
                    details=_told(present),
                )
            seen = connection.execute(
                sa.select(tables.standing_delegations)
                .where(_SEEN.delegation_id == delegation_id, _of(view))
                .order_by(_SEEN.seen_at)
                .limit(1)
            ).one_or_none()
        return _message(delegation_id, view.tenant, seen, present)

    def page(
        self, view: View, after: Position | None, limit: int
    ) -> list[tuple[Position, manager_pb2.KnownDelegation]]:
        """Delegations of the view that were seen or ended here, with their positions."""
        seen = sa.select(
            _SEEN.delegation_id, _SEEN.tenant_domain, _SEEN.tenant, _SEEN.digest
        ).where(_SEEN.delegation_id.is_not(None), _of(view))
        known = sa.union_all(seen, revocation_rows.unseen(view)).subquery()
        query = sa.select(known).order_by(*known.c).limit(limit)
        if after is not None:
            query = query.where(sa.tuple_(*known.c) > sa.tuple_(*after))
        with self._store.read() as connection:
            return [(tuple(row), _known(connection, row)) for row in connection.execute(query)]


def _known(connection: Connection, row: Any) -> manager_pb2.KnownDelegation:
    tenant = Tenant(row.tenant_domain, row.tenant) if row.tenant else None
    seen = connection.execute(
        sa.select(tables.standing_delegations).where(_SEEN.digest == row.digest)
    ).one_or_none()
    revoked = revocation_rows.of(connection, row.delegation_id, tenant)
    return _message(row.delegation_id, tenant, seen, revoked)


def _message(
    delegation_id: str, tenant: Tenant | None, seen: Any, revoked: Revocation | None
) -> manager_pb2.KnownDelegation:
    made = manager_pb2.KnownDelegation(delegation_id=delegation_id)
    if tenant is not None:
        made.tenant_domain, made.tenant = tenant.domain, tenant.name
    if seen is not None:
        made.tenant_domain, made.tenant = seen.tenant_domain, seen.tenant
        made.delegate, made.signer = seen.delegate, seen.signer
        made.seen_at.FromMicroseconds(seen.seen_at)
        made.expires_at.FromMicroseconds(seen.expires_at)
    if revoked is not None:
        made.revoked_by, made.reason = revoked.revoked_by, revoked.reason
        made.revoked_at.FromMicroseconds(revoked.revoked_at)
    return made


def _of(view: View) -> sa.ColumnElement[bool]:
    if view.tenant is None:
        return sa.true()
    return sa.and_(_SEEN.tenant_domain == view.tenant.domain, _SEEN.tenant == view.tenant.name)


def _told(revocation: Revocation) -> dict[str, object]:
    """For the audit log."""
    told: dict[str, object] = {"reason": revocation.reason}
    if revocation.tenant is not None:
        told |= {"tenant_domain": revocation.tenant.domain, "tenant": revocation.tenant.name}
    return told


def _require_room(connection: Connection, tenant: Tenant | None) -> None:
    domain, name = ("", "") if tenant is None else (tenant.domain, tenant.name)
    held = [(revocation_rows.count(connection, domain), PROVIDER_MAX)]
    if tenant is not None:
        held.append((revocation_rows.count(connection, domain, name), TENANT_MAX))
    for count, most in held:
        if count >= most:
            raise errors.Exhausted(
                "TOO_MANY_REVOCATIONS",
                f"{count} delegations are revoked here already, as many as may be",
                hint="an operator of the cloud revokes it, or takes the broker out of "
                "manager.brokers",
            )
