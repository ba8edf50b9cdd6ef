"""The quotas of one cloud: set by its operators, seen by tenants, asked by whatever admits."""

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy.engine import Connection

from manager import audit, capacity, inventory, shape_rows
from manager import store as stores
from manager.bookings import ALWAYS, of_tenant
from manager.inventory import Amounts
from manager.ownership import Tenant, View
from manager.quotas import budgets, consumption, limits, rows
from manager.quotas.admitting import Admitting
from manager.quotas.budgets import Budget, Spending
from manager.quotas.limits import Limits
from manager.quotas.rows import QuotaRow
from manager.statements import Ask, Told
from watari import errors, money
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2

QUOTAS_MAX = 10_000
"""Quotas of a cloud: a listing reads all of them."""

Position = tuple[str, str]
"""Provider and name of the last tenant of a page."""


class Quotas:
    """Sets, shows and enforces quotas. From any thread."""

    def __init__(
        self,
        store: stores.Store,
        clock: Clock,
        cloud_id: str,
        own_domain: str,
        spending: Spending,
    ) -> None:
        self._spending = spending
        self._store = store
        self._clock = clock
        self._cloud_id = cloud_id
        self._own_domain = own_domain

    @staticmethod
    def reading(tenants: Collection[Tenant]) -> Ask:
        """Reads every quota that may hold for one of these tenants; for `admitting`."""
        scopes = {scope for tenant in tenants for scope in limits.scopes(tenant)}
        return rows.finding(limits.ordered(scopes))

    def admitting(self, connection: Connection, told: Told) -> Admitting:
        """For the admissions of one write transaction."""
        return Admitting(connection, self._cloud_id, rows.found(told), _holding, self._spent)

    def look(
        self, connection: Connection, tenant: Tenant, amounts: Amounts
    ) -> tuple[list[common_pb2.Problem], list[common_pb2.Problem]]:
        """What would keep a machine from being let in, and what would be worth knowing."""
        found, budget = self._holding(connection, tenant)
        used = inventory.total(
            (
                consumption.of_tenant(connection, self._cloud_id, tenant),
                of_tenant(capacity.booked(connection), tenant, ALWAYS, limits.MACHINES),
            )
        )
        more = limits.asked(amounts)
        spent = self._spent(connection, tenant)
        checks: list[Callable[[], None]] = [
            lambda: limits.require_within(tenant, found, used, more),
            lambda: budgets.require_left(tenant, budget, spent),
        ]
        warnings = limits.warnings(tenant, found, inventory.total((used, more)))
        warnings += budgets.warnings(tenant, budget, spent)
        return [problem for check in checks for problem in _finding(check)], warnings

    def put(self, quota: manager_pb2.Quota, request_id: str, caller: SpiffeId) -> manager_pb2.Quota:
        """Set a quota in place of all that it said; idempotent by request id.

        Raises Conflict GENERATION_CONFLICT, AlreadyExists ID_REUSED, Exhausted QUOTA_EXCEEDED,
        Unimplemented NOT_SERVED for a budget where nobody knows what is spent.
        """
        budgets.require_settable(budgets.of_quota(quota), self._spending.currency)
        tenant = self.tenant(quota.tenant_domain, quota.tenant)
        with self._store.write() as connection:
            limits.require_present(limits.of_quota(quota), shape_rows.renamed(connection))
            known = rows.get(connection, tenant)
            if known is None or known.request_id != request_id:
                self._put(connection, known, tenant, quota, request_id, caller)
            elif known.quota != quota:
                raise errors.AlreadyExists(
                    "ID_REUSED",
                    f"request_id {request_id} was used before with other content",
                    hint="make a new UUID",
                    field="request_id",
                )
            return self._message(connection, tenant)

    def delete(self, tenant: Tenant, generation: int, caller: SpiffeId) -> None:
        """Delete a tenant's quota; nothing when it has none. Raises Conflict GENERATION_CONFLICT
        when it is not of that generation; 0 is any.
        """
        with self._store.write() as connection:
            known = rows.get(connection, tenant)
            if known is None or known.quota is None:
                return
            _require_generation(known, generation or known.generation)
            rows.write(connection, known, tenant, None, "")
            self._note(connection, "quota.deleted", tenant, caller, {})

    def page(
        self, view: View, only: Tenant | None, *, after: Position | None, limit: int
    ) -> list[manager_pb2.Quota]:
        """Quotas by provider, then tenant, after a position. `only` narrows to one tenant."""
        with self._store.read() as connection:
            quotas = rows.every(connection)
            used = consumption.by_tenant(connection, self._cloud_id)
            chosen = self._chosen(view, only, quotas.keys() | used.keys(), after)[:limit]
            return [
                self._shown(connection, tenant, quotas, used.get(tenant, {})) for tenant in chosen
            ]

    @staticmethod
    def _chosen(
        view: View, only: Tenant | None, known: AbstractSet[Tenant], after: Position | None
    ) -> Sequence[Tenant]:
        shown = known
        if view.tenant is not None:
            shown = {view.tenant}
        if only is not None:
            shown = {only} & shown if view.tenant is not None else {only}
        return [
            tenant
            for tenant in limits.ordered(shown)
            if after is None or (tenant.domain, tenant.name) > after
        ]

    def tenant(self, domain: str, name: str) -> Tenant:
        """The tenant that a request names; the own provider's where it names none."""
        return Tenant(domain or self._own_domain, name)

    def _holding(self, connection: Connection, tenant: Tenant) -> tuple[Limits, Budget]:
        return _holding(rows.those(connection, limits.scopes(tenant)), tenant)

    def _spent(self, connection: Connection, tenant: Tenant) -> common_pb2.Money | None:
        if self._spending.currency is None:
            return None
        spent = self._spending.in_month(connection, tenant, self._clock.now())
        return money.from_decimal(spent, self._spending.currency)

    def _put(
        self,
        connection: Connection,
        known: QuotaRow | None,
        tenant: Tenant,
        quota: manager_pb2.Quota,
        request_id: str,
        caller: SpiffeId,
    ) -> None:
        if known is not None and known.quota is not None:
            _require_generation(known, quota.generation)
        elif quota.generation:
            raise _conflict(tenant, quota.generation, 0)
        elif rows.count(connection) >= QUOTAS_MAX:
            raise errors.Exhausted(
                "QUOTA_EXCEEDED",
                f"the cloud has {QUOTAS_MAX} quotas already",
                hint="delete some, or set one for all tenants of a provider",
                limit=QUOTAS_MAX,
            )
        rows.write(connection, known, tenant, quota, request_id)
        said = limits.of_quota(quota)
        told = {f"hard.{name}": str(amount) for name, amount in sorted(said.hard.items())}
        told |= {f"soft.{name}": str(amount) for name, amount in sorted(said.soft.items())}
        for name in ("budget_month", "budget_month_soft"):
            if quota.HasField(name):
                told[name] = budgets.shown(getattr(quota, name))
        self._note(connection, "quota.set", tenant, caller, told)

    def _message(self, connection: Connection, tenant: Tenant) -> manager_pb2.Quota:
        used = consumption.of_tenant(connection, self._cloud_id, tenant)
        return self._shown(connection, tenant, rows.every(connection), used)

    def _shown(
        self,
        connection: Connection,
        tenant: Tenant,
        quotas: dict[Tenant, QuotaRow],
        used: Amounts,
    ) -> manager_pb2.Quota:
        own = quotas.get(tenant) or QuotaRow(tenant, None, "", 0)
        found, budget = _holding(quotas, tenant)
        return manager_pb2.Quota(
            tenant_domain=tenant.domain,
            tenant=tenant.name,
            hard=limits.to_resources(own.limits.hard),
            soft=limits.to_resources(own.limits.soft),
            used=limits.to_resources(used),
            effective_hard=limits.to_resources(found.hard),
            effective_soft=limits.to_resources(found.soft),
            generation=own.generation,
            budget_month=own.budget.hard,
            budget_month_soft=own.budget.soft,
            effective_budget_month=budget.hard,
            effective_budget_month_soft=budget.soft,
            spent_month=None if tenant.name == limits.ALL else self._spent(connection, tenant),
        )

    def _note(
        self,
        connection: Connection,
        action: str,
        tenant: Tenant,
        caller: SpiffeId,
        told: dict[str, str],
    ) -> None:
        audit.append(
            connection,
            stores.micros(self._clock.now()),
            actor=caller,
            action=action,
            subject=f"{tenant.domain}/{tenant.name}",
            details=told,
        )


def _holding(quotas: Mapping[Tenant, QuotaRow], tenant: Tenant) -> tuple[Limits, Budget]:
    """What holds for a tenant."""
    holding = [quotas[scope] for scope in limits.scopes(tenant) if scope in quotas]
    return (
        limits.effective(each.limits for each in holding),
        budgets.effective(each.budget for each in holding),
    )


def _finding(check: Callable[[], None]) -> list[common_pb2.Problem]:
    try:
        check()
    except errors.Exhausted as error:
        return [errors.to_problem(error)]
    return []


def _require_generation(known: QuotaRow, expected: int) -> None:
    if known.generation != expected:
        raise _conflict(known.tenant, expected, known.generation)


def _conflict(tenant: Tenant, expected: int, actual: int) -> errors.Conflict:
    return errors.Conflict(
        "GENERATION_CONFLICT",
        f"the quota of tenant {tenant.name} of {tenant.domain} is of generation {actual}, "
        f"not {expected}",
        hint="read it again, then decide",
        expected=expected,
        actual=actual,
    )
