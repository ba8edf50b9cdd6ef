"""Every strategy through the worlds of several seeds, audited: numbers for JSON, and a table."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.policies import audit, clairvoyant, strategies
from bench.policies import world as worlds
from bench.policies.running import Run, Strategy
from broker.policies.model import Automation, Policy

POLICY = Policy("policy", "tenant", automation=Automation.AUTOMATIC)
"""The product's defaults, whatever they are."""

STRATEGIES: Mapping[str, Callable[[Policy], Strategy]] = {
    "stay": lambda _: strategies.Stay(),
    "cheapest": lambda _: strategies.Cheapest(),
    "cheapest_evacuating": lambda _: strategies.Cheapest(evacuates=True),
    "evacuate": strategies.evacuating,
    "automatic": strategies.Automatic,
}

BOUNDED = frozenset({"stay", "evacuate", "automatic"})
"""Strategies that have budgets to keep."""

LABELS: Mapping[str, str] = {
    "stay": "stay",
    "cheapest": "always cheapest",
    "cheapest_evacuating": "cheapest, evacuates",
    "evacuate": "evacuate only",
    "automatic": "automatic",
    "bound": "bound by hindsight",
}


@dataclass(frozen=True)
class Size:
    """Of what is simulated."""

    seeds: int = 10
    """1, 2, and so on."""
    days: int = 30
    clouds: int = 12
    machines: int = 100


def run(setting: str, size: Size, policy: Policy = POLICY) -> dict[str, Any]:
    """One setting: the seeds, and what they say together."""
    seeds = {}
    for seed in range(1, size.seeds + 1):
        world = worlds.make(worlds.SETTINGS[setting], seed, size.clouds, size.machines, size.days)
        seeds[str(seed)] = one(world, policy)
    return {"told": worlds.SETTINGS[setting].told, "seeds": seeds, **_together(seeds)}


def one(world: worlds.World, policy: Policy = POLICY) -> dict[str, Any]:
    """All strategies through one world.

    Raises ArithmeticError where the log of one says something else than its bill, or where one that
    has budgets did not keep them.
    """
    return {
        "bound": clairvoyant.total(world, policy),
        "strategies": {name: _lived(world, policy, name) for name in STRATEGIES},
    }


def _lived(world: worlds.World, policy: Policy, name: str) -> dict[str, Any]:
    begun = time.process_time()
    run = Run(world, policy)
    bill = run.live(STRATEGIES[name](policy))
    seconds = time.process_time() - begun
    books = audit.audit(world, policy, run.log)
    audit.compare(books, bill)
    if name in BOUNDED:
        audit.within_budgets(books, policy)
    return {
        "total": bill.total,
        "price": bill.price,
        "moving": bill.moving,
        "standstill": bill.standstill,
        "moves": bill.moves,
        "failed": bill.failed,
        "causes": dict(bill.causes),
        "moves_per_vm_day": books.moves_per_vm_day,
        "moves_per_cloud_hour": books.moves_per_cloud_hour,
        "moves_per_hour": books.moves_per_hour,
        "daily": [round(each, 2) for each in bill.hourly[23::24]],
        "cpu_seconds": seconds,
    }


def _together(seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Means of EUR over the seeds, and shares of one strategy's total in another's."""
    runs = list(seeds.values())
    totals = {name: [each["strategies"][name]["total"] for each in runs] for name in STRATEGIES} | {
        "bound": [each["bound"] for each in runs]
    }
    return {
        "mean": {name: statistics.fmean(each) for name, each in totals.items()},
        "automatic_against": {
            name: _against(totals["automatic"], totals[name])
            for name in totals
            if name != "automatic"
        },
        "moves_mean": {
            name: statistics.fmean(each["strategies"][name]["moves"] for each in runs)
            for name in STRATEGIES
        },
    }


def _against(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Shares by which ours is more, seed by seed; negative is cheaper."""
    shares = [one / other - 1 for one, other in zip(ours, theirs, strict=True)]
    return {
        "mean": statistics.fmean(shares),
        "least": min(shares),
        "most": max(shares),
        "cheaper_on": sum(share < 0 for share in shares),
    }


def text(found: Mapping[str, Any]) -> str:
    """Two Markdown tables: EUR, and what automatic placement pays against each of the others."""
    names = [*STRATEGIES, "bound"]
    lines = [
        _line(["EUR", *(LABELS[name] for name in names)]),
        _line(["---", *["---:"] * len(names)]),
    ]
    for setting, row in found.items():
        lines.append(_line([setting, *(f"{row['mean'][name]:,.0f}" for name in names)]))
    others = [name for name in names if name != "automatic"]
    lines += [
        "",
        _line(["automatic against", *(LABELS[name] for name in others)]),
        _line(["---", *["---:"] * len(others)]),
    ]
    for setting, row in found.items():
        against = row["automatic_against"]
        lines.append(_line([setting, *(_shares(against[name], row) for name in others)]))
    return "\n".join(lines) + "\n"


def _shares(share: Mapping[str, float], row: Mapping[str, Any]) -> str:
    least, mean, most = (f"{100 * share[name]:+.1f}" for name in ("least", "mean", "most"))
    return f"{mean} % ({least} to {most}; {share['cheaper_on']}/{len(row['seeds'])})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
