"""The rows of plans. Runs in the caller's transaction."""

from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.automation import tables
from broker.automation.policy_rows import Tenant, View, within
from broker.policies import messages
from broker.policies.plans import Plan
from watari.v1 import broker_pb2

_ROWS = tables.plans.c

Position = tuple[int, str]
"""Creation and id of the last plan of a page."""


@dataclass(frozen=True)
class Kept:
    """A plan with whose it is."""

    tenant: Tenant
    currency: str
    plan: Plan

    def message(self) -> broker_pb2.Plan:
        """As it travels."""
        message = messages.plan_message(self.plan, self.currency)
        message.tenant_domain = self.tenant.domain
        return message

    def with_plan(self, plan: Plan) -> "Kept":
        """The same, as it is now."""
        return replace(self, plan=plan)

    @property
    def position(self) -> Position:
        """Its place among plans."""
        return _micros(self.plan), self.plan.plan_id


def put(connection: Connection, kept: Kept) -> None:
    """Write it, in place of the one of its id."""
    plan = kept.plan
    connection.execute(tables.plans.delete().where(_ROWS.plan_id == plan.plan_id))
    connection.execute(
        tables.plans.insert().values(
            plan_id=plan.plan_id,
            tenant_domain=kept.tenant.domain,
            tenant=kept.tenant.name,
            policy_id=plan.policy_id,
            created_at=_micros(plan),
            live=bool(plan.live()),
            currency=kept.currency,
            plan=kept.message().SerializeToString(deterministic=True),
        )
    )


def get(connection: Connection, plan_id: str) -> Kept | None:
    """The plan, or None."""
    query = sa.select(tables.plans).where(_ROWS.plan_id == plan_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _kept(row)


def live(connection: Connection, tenant: Tenant) -> list[Kept]:
    """The tenant's plans that have not ended, oldest first."""
    view = View(tenant.domain, tenant.name)
    query = sa.select(tables.plans).where(within(_ROWS, view), _ROWS.live)
    rows = connection.execute(query.order_by(_ROWS.created_at, _ROWS.plan_id))
    return [_kept(row) for row in rows]


def page(
    connection: Connection,
    view: View,
    *,
    policy_id: str,
    live_only: bool,
    after: Position | None,
    limit: int,
) -> list[Kept]:
    """Plans of the view, newest first, after a position."""
    query = sa.select(tables.plans).where(within(_ROWS, view))
    if policy_id:
        query = query.where(_ROWS.policy_id == policy_id)
    if live_only:
        query = query.where(_ROWS.live)
    if after is not None:
        query = query.where(
            (_ROWS.created_at < after[0])
            | ((_ROWS.created_at == after[0]) & (_ROWS.plan_id > after[1]))
        )
    ordered = query.order_by(_ROWS.created_at.desc(), _ROWS.plan_id).limit(limit)
    return [_kept(row) for row in connection.execute(ordered)]


def prune(connection: Connection, plans_max: int) -> None:
    """Delete the oldest plans that have ended, as long as there are more than so many."""
    count = connection.scalar(sa.select(sa.func.count()).select_from(tables.plans)) or 0
    if count <= plans_max:
        return
    oldest = sa.select(_ROWS.plan_id).where(~_ROWS.live)
    oldest = oldest.order_by(_ROWS.created_at, _ROWS.plan_id).limit(count - plans_max)
    connection.execute(tables.plans.delete().where(_ROWS.plan_id.in_(oldest)))


def _micros(plan: Plan) -> int:
    return round(plan.created_at * 1_000_000)


def _kept(row: Any) -> Kept:
    plan = messages.plan_of(broker_pb2.Plan.FromString(row.plan))
    return Kept(Tenant(row.tenant_domain, row.tenant), row.currency, plan)
