"""Clouds that can be emptied: worth it when that saves more than moving everybody costs. Pure.

Greedy: the cloud with the fewest machines first, each machine to the cloud that suits it best of
those that stay in use. A solver may replace it: it has the same interface as `closings`.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from broker.policies import reckoning, words
from broker.policies.model import Machine, Situation
from broker.policies.saving import Option

Unfit = Callable[[Machine, str, Sequence[Machine]], str]
"""Whether a cloud takes a machine beside what is planned already, and the group that is being
planned: empty, or why not."""

Held = Callable[[Machine], bool]
"""Whether a machine may not be moved now, wherever to."""


def closings(
    situation: Situation, leaving: Collection[str], unfit: Unfit, held: Held
) -> Iterator[Sequence[tuple[Machine, Option]]]:
    """For each cloud that is worth emptying, where its machines go; one at a time, since each
    changes what the next may count on. Machines `leaving` already are no longer there.
    """
    policy = situation.policy
    present: dict[str, list[Machine]] = defaultdict(list)
    for machine in situation.machines:
        if machine.vm_id not in leaving:
            present[machine.cloud_id].append(machine)
    kept = set(present) - set(situation.taints)
    worth = policy.presence_hour_price * reckoning.discounted_hours(policy)
    receiving: set[str] = set()
    for cloud_id in sorted(kept, key=lambda each: (len(present[each]), each)):
        if cloud_id in receiving or any(held(machine) for machine in present[cloud_id]):
            continue
        targets = [each for each in situation.clouds if each in kept and each != cloud_id]
        group = _emptied(situation, present[cloud_id], targets, unfit)
        if group is None:
            continue
        margin = sum(option.reckoning.margin for _, option in group) + worth
        if margin <= 0.0:
            continue
        kept.discard(cloud_id)
        receiving |= {option.cloud_id for _, option in group}
        told = (
            f"emptying {cloud_id} of {len(group)} machines saves "
            f"{words.money(worth, policy.currency)} of presence in "
            f"{words.span(policy.horizon_seconds)}, "
            f"{words.money(margin, policy.currency)} more than it needs"
        )
        stays = f"stays if that is {words.money(margin, policy.currency)} less"
        yield [
            (machine, Option(option.cloud_id, option.reckoning, reason=told, moves=stays))
            for machine, option in group
        ]


def _emptied(
    situation: Situation, machines: Sequence[Machine], targets: Sequence[str], unfit: Unfit
) -> list[tuple[Machine, Option]] | None:
    """The best target of each machine; None when one of them has to stay."""
    group: list[tuple[Machine, Option]] = []
    for machine in machines:
        if machine.busy or machine.vm_id not in situation.standings:
            return None
        found = [
            Option(cloud_id, one)
            for cloud_id in targets
            if not unfit(machine, cloud_id, _going(group, cloud_id))
            and (one := reckoning.reckon(situation, machine, cloud_id)) is not None
        ]
        if not found:
            return None
        group.append((machine, max(found, key=lambda option: option.reckoning.margin)))
    return group


def _going(group: Sequence[tuple[Machine, Option]], cloud_id: str) -> list[Machine]:
    return [machine for machine, option in group if option.cloud_id == cloud_id]
