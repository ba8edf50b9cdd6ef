"""Decisions in words: both numbers, and what would have to be different. Pure."""

import math

from broker.policies.model import DAY, HOUR, MoveCost, Policy, Reckoning

SMALLEST = 1e-9
"""What the contract's money can have; less is nothing."""


def money(amount: float, currency: str) -> str:
    """Such as "0.40 EUR": two digits behind the point, or two that count where it is small."""
    if not SMALLEST <= abs(amount) < 0.1:
        return f"{amount:.2f} {currency}"
    digits = 1 - math.floor(math.log10(abs(amount)))
    return f"{amount:.{digits}f}".rstrip("0") + f" {currency}"


def span(seconds: float) -> str:
    """Such as "7 days" or "90 min"."""
    for unit, name, plural in ((DAY, "day", "days"), (HOUR, "h", "h")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name if seconds == unit else plural}"
    return f"{seconds / 60:.3g} min"


def compared(reckoning: Reckoning, policy: Policy) -> str:
    """The two numbers of a decision."""
    currency = policy.currency
    return (
        f"saves {money(reckoning.sure_saving, currency)} in {span(policy.horizon_seconds)} "
        f"({money(reckoning.saving, currency)} expected, give or take "
        f"{money(reckoning.deviation, currency)}), needs {money(reckoning.needed, currency)} "
        f"for a move of {money(reckoning.move_cost.total, currency)}"
        f"{costs(reckoning.move_cost, policy)}"
    )


def costs(cost: MoveCost, policy: Policy) -> str:
    """What a move takes, by part, such as " (egress 3.00 EUR for 33.5 GiB, flat 0.10 EUR)"; empty
    where one part is all of it."""
    parts = [
        (cost.egress, f"for {cost.transfer_bytes / 1024**3:.3g} GiB", "egress"),
        (cost.flat, "", "flat"),
        (cost.overlap, "", "overlap"),
        (cost.downtime, f"for {cost.downtime_seconds:.0f} s", "standstill"),
    ]
    told = [
        " ".join(filter(None, (name, money(amount, policy.currency), why)))
        for amount, why, name in parts
        if amount
    ]
    return f" ({', '.join(told)})" if len(told) > 1 else ""


def moves_when(reckoning: Reckoning, policy: Policy) -> str:
    """What a saving lacks."""
    return f"moves when the saving is {money(-reckoning.margin, policy.currency)} more"


def stays_when(reckoning: Reckoning, policy: Policy) -> str:
    """What a saving has to spare."""
    return f"stays if the saving is {money(reckoning.margin, policy.currency)} less"
