"""The rows of policies. Runs in the caller's transaction."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.automation import tables
from broker.policies import messages, model
from watari.v1 import broker_pb2, common_pb2

_ROWS = tables.policies.c

Position = tuple[str, str, str]
"""Provider, tenant and name of the last policy of a page."""


@dataclass(frozen=True)
class Tenant:
    """Whose policy it is."""

    domain: str
    name: str

    def __str__(self) -> str:
        return f"tenant {self.name} of {self.domain}"


@dataclass(frozen=True)
class View:
    """What somebody may see: one tenant's, or all of a provider's tenants'."""

    domain: str
    name: str | None
    """None: every tenant."""

    def sees(self, tenant: Tenant) -> bool:
        """Whether this tenant's is in it."""
        return self.domain == tenant.domain and self.name in (None, tenant.name)


def within(columns: Any, view: View | None) -> sa.ColumnElement[bool]:
    """Holds for rows of the view; None is everything. The table has `tenant_domain`, `tenant`."""
    if view is None:
        return sa.true()
    held: sa.ColumnElement[bool] = columns.tenant_domain == view.domain
    return held if view.name is None else sa.and_(held, columns.tenant == view.name)


@dataclass(frozen=True)
class Held:
    """A policy as it is kept."""

    tenant: Tenant
    policy_id: str
    generation: int
    message: broker_pb2.Policy
    document: common_pb2.SignedDocument
    """The standing delegation, as it was signed."""
    delegated_by: str
    deleted: bool = False

    @cached_property
    def policy(self) -> model.Policy:
        """As decisions take it; it was checked when it was put."""
        return messages.policy_of(self.message)

    @cached_property
    def delegation(self) -> common_pb2.StandingDelegation:
        """What the document says; its signature was proved when it was put."""
        return common_pb2.StandingDelegation.FromString(self.document.payload)

    @property
    def key(self) -> Position:
        """Its place among policies."""
        return self.tenant.domain, self.tenant.name, self.policy_id

    def shown(self) -> broker_pb2.Policy:
        """As it travels, without its evaluation."""
        shown = broker_pb2.Policy()
        shown.CopyFrom(self.message)
        shown.generation, shown.delegated_by = self.generation, self.delegated_by
        shown.delegation.CopyFrom(self.delegation)
        return shown


def get(connection: Connection, tenant: Tenant, policy_id: str) -> Held | None:
    """The policy, deleted or not."""
    row = connection.execute(sa.select(tables.policies).where(_is(tenant, policy_id))).one_or_none()
    return None if row is None else _held(row)


def put(connection: Connection, held: Held) -> None:
    """Write it, in place of the one of its name."""
    remove(connection, held)
    connection.execute(
        tables.policies.insert().values(
            tenant_domain=held.tenant.domain,
            tenant=held.tenant.name,
            policy_id=held.policy_id,
            generation=held.generation,
            policy=held.message.SerializeToString(deterministic=True),
            delegation=held.document.SerializeToString(deterministic=True),
            delegated_by=held.delegated_by,
            deleted=held.deleted,
        )
    )


def remove(connection: Connection, held: Held) -> None:
    """Delete the row, if there is one."""
    connection.execute(tables.policies.delete().where(_is(held.tenant, held.policy_id)))


def count(connection: Connection, view: View | None = None) -> int:
    """How many of the view there are, deleted ones apart."""
    query = sa.select(sa.func.count()).select_from(tables.policies)
    return connection.scalar(query.where(within(_ROWS, view), ~_ROWS.deleted)) or 0


def page(connection: Connection, view: View, after: Position | None, limit: int) -> list[Held]:
    """Policies of the view by provider, tenant and name, after a position."""
    query = sa.select(tables.policies).where(within(_ROWS, view), ~_ROWS.deleted)
    if after is not None:
        query = query.where(sa.tuple_(*_ORDER) > sa.tuple_(*after))
    return [_held(row) for row in connection.execute(query.order_by(*_ORDER).limit(limit))]


def everything(connection: Connection) -> list[Held]:
    """All of them, deleted ones included."""
    return [_held(row) for row in connection.execute(sa.select(tables.policies).order_by(*_ORDER))]


_ORDER = (_ROWS.tenant_domain, _ROWS.tenant, _ROWS.policy_id)


def _is(tenant: Tenant, policy_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        _ROWS.tenant_domain == tenant.domain,
        _ROWS.tenant == tenant.name,
        _ROWS.policy_id == policy_id,
    )


def _held(row: Any) -> Held:
    return Held(
        tenant=Tenant(row.tenant_domain, row.tenant),
        policy_id=row.policy_id,
        generation=row.generation,
        message=broker_pb2.Policy.FromString(row.policy),
        document=common_pb2.SignedDocument.FromString(row.delegation),
        delegated_by=row.delegated_by,
        deleted=row.deleted,
    )
