"""Whether to leave a tainted cloud or to wait for the end of it: two amounts. Pure.

Waiting costs the policy's price of standstill for as long as the taint is expected to go on, as if
the machine could not be used until then. Leaving costs the move. Where nobody knows the end there
is nothing to wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from broker.policies import words
from broker.policies.model import HOUR, Machine, Policy, Reckoning, Situation

Way = tuple[str, Reckoning]
"""A cloud that the machine may go to, and what that takes."""


@dataclass(frozen=True)
class Waiting:
    """What it costs one machine to wait for the end of its cloud's taint."""

    seconds: float
    """Until that end, as it is expected now."""
    cost: float
    """Money."""


def waiting(situation: Situation, machine: Machine) -> Waiting | None:
    """None where no end is known.

    An end that has passed was wrong, and how wrong it still is nobody knows: it is taken to lie as
    far ahead as it lies back. So a taint that goes on some minutes longer than was said empties no
    cloud, and one that goes on for hours does.
    """
    end = situation.taint_ends.get(machine.cloud_id)
    if end is None:
        return None
    seconds = abs(end - situation.now)
    hourly = situation.policy.downtime_hour_price if machine.runs else 0.0
    return Waiting(seconds, seconds / HOUR * hourly)


def worth_leaving(ways: Sequence[Way], waits: Waiting, unknown: Reckoning) -> list[Way]:
    """The ways that cost less than to wait, in their order, then those of which nobody knows what
    they cost; none when all that are known cost as much or more.
    """
    known = [way for way in ways if way[1] is not unknown]
    cheaper = [way for way in known if way[1].move_cost.total < waits.cost]
    if known and not cheaper:
        return []
    return [*cheaper, *(way for way in ways if way[1] is unknown)]


def compared(waits: Waiting, way: Reckoning, policy: Policy) -> str:
    """Both amounts in words."""
    return (
        f"to wait {words.span(waits.seconds)} for its expected end costs "
        f"{words.money(waits.cost, policy.currency)}, to leave "
        f"{words.money(way.move_cost.total, policy.currency)}"
        f"{words.costs(way.move_cost, policy)}"
    )


def leaves_when(way: Reckoning, machine: Machine, policy: Policy) -> str:
    """What would make who waits leave, in words."""
    even = _breaks_even(way, machine, policy)
    return f"its end is {even} away or more" if even else "nobody knows when it ends"


def waits_when(way: Reckoning, machine: Machine, policy: Policy) -> str:
    """What would make who leaves wait, in words."""
    return f"its end is {_breaks_even(way, machine, policy)} away or less"


def _breaks_even(way: Reckoning, machine: Machine, policy: Policy) -> str:
    """The time until the end that costs as much as the move; empty if none does."""
    hourly = policy.downtime_hour_price if machine.runs else 0.0
    return words.span(way.move_cost.total / hourly * HOUR) if hourly > 0.0 else ""
