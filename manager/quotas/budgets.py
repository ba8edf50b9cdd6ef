"""Budgets as arithmetic: what a tenant may be charged in a billing month.

A budget stops admissions and nothing else: what runs goes on, and goes on costing. What was spent
is told by the cloud's accounts, through `Spending`; nothing in here guesses it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from sqlalchemy.engine import Connection

from manager.ownership import Tenant
from watari import errors, money
from watari.v1 import common_pb2, manager_pb2


class Spending(Protocol):
    """What the cloud's accounts know. Every answer is a fact that was booked, never an estimate."""

    @property
    def currency(self) -> str | None:
        """The currency that tenants are charged in; None where no accounts are kept: then no budget
        is set, as nobody could tell when it is spent.
        """

    def in_month(self, connection: Connection, tenant: Tenant, now: datetime) -> Decimal:
        """What a tenant is charged for the billing month of `now`, so far, in `currency`.

        Runs in the transaction that admits, and takes no longer than a query.
        """


@dataclass(frozen=True)
class Budget:
    """What a tenant may be charged in a month; None is no limit."""

    hard: common_pb2.Money | None = None
    soft: common_pb2.Money | None = None


def of_quota(quota: manager_pb2.Quota) -> Budget:
    """The budget that a quota's message says."""
    return Budget(
        quota.budget_month if quota.HasField("budget_month") else None,
        quota.budget_month_soft if quota.HasField("budget_month_soft") else None,
    )


def effective(budgets: Iterable[Budget]) -> Budget:
    """What holds where several are for the tenant, the narrowest first."""
    hard = soft = None
    for each in budgets:
        hard = hard if hard is not None else each.hard
        soft = soft if soft is not None else each.soft
    return Budget(hard, soft)


def require_settable(budget: Budget, currency: str | None) -> None:
    """Raises Unimplemented NOT_SERVED for a budget where no accounts are kept, InvalidArgument
    INVALID_FIELD for one in another currency, below zero, or whose soft part is the larger one.
    """
    for name, amount in (("budget_month", budget.hard), ("budget_month_soft", budget.soft)):
        if amount is None:
            continue
        if currency is None:
            raise errors.Unimplemented(
                "NOT_SERVED",
                "this cloud keeps no accounts: what a tenant has spent is not known, so that no "
                "budget can hold",
                hint="leave the budget out; limit resources instead",
            )
        if amount.currency_code != currency or money.to_decimal(amount) < 0:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"quota.{name}: {shown(amount)} is no budget here",
                hint=f"at least 0, in {currency}",
                field=f"quota.{name}",
            )
    hard, soft = budget.hard, budget.soft
    if hard is not None and soft is not None and money.to_decimal(soft) > money.to_decimal(hard):
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            "quota.budget_month_soft: is more than the budget itself",
            hint="a soft budget warns before the hard one refuses",
            field="quota.budget_month_soft",
        )


def require_left(tenant: Tenant, budget: Budget, spent: common_pb2.Money | None) -> None:
    """Raises Exhausted BUDGET_EXCEEDED when nothing is left of the month's budget, or when that
    cannot be told any more: the cloud charges in another currency now, or keeps no accounts.
    """
    hard = budget.hard
    if hard is None:
        return
    if spent is None or hard.currency_code != spent.currency_code:
        charged = "keeps no accounts" if spent is None else f"charges in {spent.currency_code}"
        raise errors.Exhausted(
            "BUDGET_EXCEEDED",
            f"tenant {tenant.name} of {tenant.domain} has a budget of {shown(hard)}, and the cloud "
            f"{charged}",
            hint="the cloud's operator has to set the budget anew, or delete it",
        )
    if money.to_decimal(spent) >= money.to_decimal(hard):
        raise errors.Exhausted(
            "BUDGET_EXCEEDED",
            f"tenant {tenant.name} of {tenant.domain} has spent {shown(spent)} of {shown(hard)} "
            "this month",
            hint="what runs goes on; wait for the next month, or ask the cloud's operator for more",
            limit=shown(hard),
            spent=shown(spent),
        )


def warnings(
    tenant: Tenant, budget: Budget, spent: common_pb2.Money | None
) -> list[common_pb2.Problem]:
    """That a tenant has spent its soft budget, if so."""
    soft = budget.soft
    if soft is None or spent is None or soft.currency_code != spent.currency_code:
        return []
    if money.to_decimal(spent) < money.to_decimal(soft):
        return []
    warning = errors.Exhausted(
        "BUDGET_EXCEEDED",
        f"tenant {tenant.name} of {tenant.domain} has spent {shown(spent)} this month, "
        f"{shown(soft)} were planned",
        hint="nothing is refused for it",
        limit=shown(soft),
        spent=shown(spent),
    )
    return [errors.to_problem(warning)]


def shown(amount: common_pb2.Money) -> str:
    """Such as "1200.5 JPY"."""
    return f"{money.to_decimal(amount).normalize():f} {amount.currency_code}"
