"""Limits as arithmetic: which holds for a tenant, what is beyond it, and what would fit.

Pure functions of values. A class that a limit does not name is not limited by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from manager import inventory
from manager.inventory import Amounts
from manager.ownership import Tenant
from watari import errors, units
from watari.v1 import common_pb2, manager_pb2

MACHINES = "machines"
"""The class that counts machines, those that are arriving included."""

ALL = "*"
"""As a tenant's name: every tenant of the provider; as its provider too: every one's."""


@dataclass(frozen=True)
class Limits:
    """What a tenant may consume, by resource class."""

    hard: Amounts = field(default_factory=dict)
    soft: Amounts = field(default_factory=dict)


@dataclass(frozen=True)
class Excess:
    """A class of which there would be more than a limit allows."""

    name: str
    limit: int
    used: int
    asked: int

    @property
    def left(self) -> int:
        """What would still fit."""
        return max(0, self.limit - self.used)

    def __str__(self) -> str:
        shown = [_shown(self.name, each) for each in (self.asked, self.used, self.limit)]
        return f"{self.name}: {shown[0]} asked, {shown[1]} of {shown[2]} used"


def scopes(tenant: Tenant) -> tuple[Tenant, Tenant, Tenant]:
    """Whose quotas hold for a tenant, the narrowest first."""
    return tenant, Tenant(tenant.domain, ALL), Tenant(ALL, ALL)


def named(resources: common_pb2.Resources) -> Amounts:
    """What a quota's message limits: a field that is 0 nothing, an entry of `other` always."""
    return inventory.amounts(resources) | dict(resources.other)


def of_quota(quota: manager_pb2.Quota) -> Limits:
    """The limits that a quota's message says."""
    return Limits(named(quota.hard), named(quota.soft))


def effective(quotas: Iterable[Limits]) -> Limits:
    """What holds where several are for the tenant, the narrowest first: class by class, the first
    that names it.
    """
    hard: Amounts = {}
    soft: Amounts = {}
    for each in quotas:
        hard = each.hard | hard
        soft = each.soft | soft
    return Limits(hard, soft)


def asked(amounts: Amounts) -> Amounts:
    """What one machine counts as: its amounts without what is internal, and one machine."""
    counted = {name: amount for name, amount in amounts.items() if name != inventory.STORAGE}
    return counted | {MACHINES: 1}


def beyond(limits: Amounts, used: Amounts, more: Amounts) -> list[Excess]:
    """The classes of `more` of which there would be more than the limit, by name.

    A class of which nothing is asked is not looked at: a limit that was lowered below what is used
    stops nothing else.
    """
    found = [
        Excess(name, limits[name], used.get(name, 0), amount)
        for name, amount in sorted(more.items())
        if amount and name in limits
    ]
    return [each for each in found if each.used + each.asked > each.limit]


def require_within(tenant: Tenant, limits: Limits, used: Amounts, more: Amounts) -> None:
    """Raises Exhausted QUOTA_EXCEEDED, which says of each class how much is asked, used and
    allowed, and what would fit.
    """
    over = beyond(limits.hard, used, more)
    if not over:
        return
    first = over[0]
    fits = ", ".join(f"{_shown(each.name, each.left)} of {each.name}" for each in over)
    raise errors.Exhausted(
        "QUOTA_EXCEEDED",
        f"the quota of tenant {tenant.name} of {tenant.domain} does not allow it: "
        f"{'; '.join(map(str, over))}",
        hint=f"what is left: {fits}; free some, or ask the cloud's operator for more",
        resource=first.name,
        limit=first.limit,
        used=first.used,
        asked=first.asked,
    )


def warnings(tenant: Tenant, limits: Limits, used: Amounts) -> list[common_pb2.Problem]:
    """The soft limits that `used` is beyond."""
    over = beyond(limits.soft, {}, used)
    return [
        errors.to_problem(
            errors.Exhausted(
                "QUOTA_EXCEEDED",
                f"tenant {tenant.name} of {tenant.domain} is beyond a soft limit: "
                f"{_shown(each.name, each.asked)} of {each.name} used, "
                f"{_shown(each.name, each.limit)} planned",
                hint="nothing is refused for it; free some, or ask the cloud's operator for more",
                resource=each.name,
                limit=each.limit,
                used=each.asked,
            )
        )
        for each in over
    ]


def require_consistent(limits: Limits) -> None:
    """Raises InvalidArgument INVALID_FIELD for a soft limit that is above its hard one."""
    for name, amount in limits.soft.items():
        most = limits.hard.get(name, amount)
        if amount > most:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"quota.soft.{name}: {amount} is more than the hard limit {most}",
                hint="a soft limit warns before the hard one refuses",
                field=f"quota.soft.{name}",
            )


def require_present(limits: Limits, renamed: Mapping[str, str]) -> None:
    """Raises InvalidArgument INVALID_FIELD for a class that has another name now: nothing would
    ever be counted by the old one.
    """
    for name in sorted({*limits.hard, *limits.soft}):
        if name in renamed:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"quota: {name!r} is called {renamed[name]!r} now",
                hint="write the new name",
                field=f"quota.hard.{name}",
            )


def to_resources(amounts: Amounts) -> common_pb2.Resources:
    """The message of some limits or of some use."""
    return inventory.to_resources(amounts)


def ordered(tenants: Iterable[Tenant]) -> Sequence[Tenant]:
    """In the order in which they are listed."""
    return sorted(tenants, key=lambda tenant: (tenant.domain, tenant.name))


def _shown(name: str, amount: int) -> str:
    return units.format_bytes(amount) if name.endswith("_bytes") else str(amount)
