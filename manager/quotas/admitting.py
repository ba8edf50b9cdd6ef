"""What tenants may still have, while several machines are admitted in one transaction.

Limits and use are read once for each tenant; from there on it is counted here, so that the next
admission of the transaction sees what the ones before it took.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from manager import inventory
from manager.inventory import Amounts
from manager.ownership import Tenant
from manager.quotas import budgets, consumption, limits, rows
from manager.quotas.budgets import Budget
from manager.quotas.limits import Limits
from manager.quotas.rows import QuotaRow
from watari.v1 import common_pb2

Holding = Callable[[Mapping[Tenant, QuotaRow], Tenant], tuple[Limits, Budget]]
"""What holds for a tenant, of quotas that were read."""

Spent = Callable[[Connection, Tenant], common_pb2.Money | None]
"""What a tenant is charged for this month so far; None where no accounts are kept."""


@dataclass
class _Account:
    """A tenant in this transaction."""

    limits: Limits
    budget: Budget
    used: Amounts | None = None
    """None as long as nothing depends on it."""


class Admitting:
    """The quotas of one transaction, in which nobody else changes what tenants have."""

    def __init__(
        self,
        connection: Connection,
        cloud_id: str,
        quotas: Mapping[Tenant, QuotaRow],
        holding: Holding,
        spent: Spent,
    ) -> None:
        self._connection = connection
        self._cloud_id = cloud_id
        self._quotas = quotas
        self._holding = holding
        self._spent = spent
        self._accounts: dict[Tenant, _Account] = {}

    def require(self, tenant: Tenant, amounts: Amounts, booked: Amounts) -> list[str]:
        """Whether a machine of a tenant may be let in, who has `booked` so much for the time that
        matters; returns the classes of which the tenant is then beyond a soft limit. `count` it
        once it is let in.

        Raises Exhausted QUOTA_EXCEEDED and BUDGET_EXCEEDED; Conflict GENERATION_CONFLICT, to be
        repeated.
        """
        account = self._account(tenant)
        if account.limits == Limits() and account.budget == Budget():
            return []
        if account.used is None:
            # Before the use is read: whoever else admits for the tenant waits, or loses.
            rows.admit(self._connection, tenant)
            account.used = self._read(tenant)
        budgets.require_left(tenant, account.budget, self._spent(self._connection, tenant))
        more = limits.asked(amounts)
        used = inventory.total((account.used, booked))
        limits.require_within(tenant, account.limits, used, more)
        over = limits.beyond(account.limits.soft, {}, inventory.total((used, more)))
        return [each.name for each in over]

    def count(self, tenant: Tenant, amounts: Amounts) -> None:
        """A machine that `require` let in is there from now on."""
        account = self._account(tenant)
        if account.used is not None:
            account.used = inventory.total((account.used, limits.asked(amounts)))

    def warnings(self, tenant: Tenant, booked: Amounts) -> list[common_pb2.Problem]:
        """The soft limits that a tenant is beyond, who has `booked` so much."""
        account = self._account(tenant)
        warnings: list[common_pb2.Problem] = []
        if account.limits.soft:
            if account.used is None:
                account.used = self._read(tenant)
            used = inventory.total((account.used, booked))
            warnings += limits.warnings(tenant, account.limits, used)
        if account.budget.soft is not None:
            spent = self._spent(self._connection, tenant)
            warnings += budgets.warnings(tenant, account.budget, spent)
        return warnings

    def _account(self, tenant: Tenant) -> _Account:
        if tenant not in self._accounts:
            self._accounts[tenant] = _Account(*self._holding(self._quotas, tenant))
        return self._accounts[tenant]

    def _read(self, tenant: Tenant) -> Amounts:
        return consumption.of_tenant(self._connection, self._cloud_id, tenant)
