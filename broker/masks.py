"""The hard constraints over all clouds and offers at once. Pure.

A mask says of each cloud, or of each offer, whether it misses one constraint; None that the request
does not ask for it, or that nobody misses it. Each agrees with the function of the same name in
`broker.cloud_constraints` or `broker.offer_constraints`, which has the words for it; tests compare
them on federations made at random.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from broker import charges, cloud_constraints
from broker.charges import Costs
from broker.columns import PLAIN, Bools, Codes, Columns, Sizes, moment
from broker.question import Question


@dataclass(frozen=True)
class Asked:
    """A question and the columns that it is put to."""

    question: Question
    columns: Columns

    @cached_property
    def costs(self) -> Costs:
        """What the machine would cost."""
        return Costs(self.columns, self.question.criteria.needed)

    def texts(self, codes: Codes, outside: tuple[str, ...]) -> Bools:
        """Of codes of texts, whether each is outside of these."""
        return self.columns.where("text", codes, lambda text: text not in outside)

    def places(self, cloud_ids: tuple[str, ...]) -> Bools:
        """Of each cloud, whether it is one of these."""
        found = np.zeros(len(self.columns.clouds), bool)
        index = self.columns.index
        found[[index[cloud_id] for cloud_id in cloud_ids if cloud_id in index]] = True
        return found


Mask = Callable[[Asked], Bools | None]


def asked_for(asked: Asked) -> Bools | None:
    wanted = asked.question.criteria.clouds
    return ~asked.places(wanted) if wanted else None


def not_excluded(asked: Asked) -> Bools | None:
    excluded = asked.question.criteria.excluded_clouds
    return asked.places(excluded) if excluded else None


def not_the_source(asked: Asked) -> Bools | None:
    source = asked.question.criteria.source_cloud
    return asked.places((source,)) if source is not None else None


def jurisdiction(asked: Asked) -> Bools | None:
    wanted = asked.question.criteria.jurisdictions
    return asked.texts(asked.columns.heads.jurisdiction, wanted) if wanted else None


def fresh_cloud(asked: Asked) -> Bools | None:
    return asked.columns.heads.stale


def untainted(asked: Asked) -> Bools | None:
    return asked.columns.heads.tainted


def reachable_manager(asked: Asked) -> Bools | None:
    return ~asked.columns.heads.manager


def near_the_source(asked: Asked) -> Bools | None:
    criteria = asked.question.criteria
    if criteria.rtt_ms_max is None or criteria.source_cloud is None:
        return None
    return _farther(asked, criteria.source_cloud, criteria.rtt_ms_max, 0)


def provider(asked: Asked) -> Bools | None:
    wanted = asked.question.criteria.providers
    return asked.texts(asked.columns.heads.provider, wanted) if wanted else None


def not_excluded_provider(asked: Asked) -> Bools | None:
    excluded = asked.question.criteria.excluded_providers
    return ~asked.texts(asked.columns.heads.provider, excluded) if excluded else None


def residency(asked: Asked) -> Bools | None:
    criteria = asked.question.criteria
    if not criteria.residency:
        return None
    clouds = asked.question.snapshot.clouds
    for held, _ in cloud_constraints.holders(criteria):
        if held not in clouds or clouds[held].jurisdiction not in criteria.residency:
            return np.ones(len(asked.columns.clouds), bool)
    return asked.texts(asked.columns.heads.jurisdiction, criteria.residency)


def links(asked: Asked) -> Bools | None:
    return _any(
        [
            _farther(asked, limit.cloud_id, limit.rtt_ms_max, limit.throughput_min)
            for limit in asked.question.criteria.links
        ]
    )


def images(asked: Asked) -> Bools | None:
    keys = [need.key for need in asked.question.criteria.images if need.required]
    if not keys:
        return None
    wanted = frozenset(keys)
    return np.array([not wanted <= held for held in asked.columns.images], bool)


def delegated(asked: Asked) -> Bools | None:
    named = asked.question.criteria.to_clouds
    return ~asked.places(named) if named else None


def sells_something(asked: Asked) -> Bools | None:
    nothing: Bools = asked.columns.heads.offers == 0
    return nothing


CLOUD_MASKS: Mapping[str, Mask] = {
    "cloud": asked_for,
    "excluded_cloud": not_excluded,
    "source": not_the_source,
    "jurisdiction": jurisdiction,
    "stale": fresh_cloud,
    "taint": untainted,
    "manager": reachable_manager,
    "rtt": near_the_source,
    "provider": provider,
    "excluded_provider": not_excluded_provider,
    "residency": residency,
    "link": links,
    "image": images,
    "delegation": delegated,
    "offer": sells_something,
}
"""Of each cloud; as `cloud_constraints.CONSTRAINTS`."""


def region(asked: Asked) -> Bools | None:
    wanted, columns = asked.question.criteria.regions, asked.columns
    if not wanted:
        return None
    return columns.where("region", columns.rows.region, lambda name: name not in wanted)


def required_trait(asked: Asked) -> Bools | None:
    wanted = asked.question.criteria.required_traits
    return _any([~_has(asked, trait) for trait in wanted], asked.columns.rows.traits)


def forbidden_trait(asked: Asked) -> Bools | None:
    forbidden = asked.question.criteria.forbidden_traits
    return _any([_has(asked, trait) for trait in forbidden], asked.columns.rows.traits)


def any_trait(asked: Asked) -> Bools | None:
    choices = asked.question.criteria.any_traits
    return _any(
        [~reduce(np.logical_or, [_has(asked, trait) for trait in choice]) for choice in choices],
        asked.columns.rows.traits,
    )


def label(asked: Asked) -> Bools | None:
    wanted, columns = asked.question.criteria.labels, asked.columns
    return _any([~columns.holding("labels", pair) for pair in wanted.items()], columns.rows.labels)


def validity(asked: Asked) -> Bools | None:
    begins, ends = map(moment, asked.question.stay)
    rows, ends = asked.columns.rows, max(begins + 1, ends)
    latest, earliest = rows.valid
    if latest <= begins and ends <= earliest:
        return None
    return (begins < rows.valid_from) | (ends > rows.valid_until)


def fresh_offer(asked: Asked) -> Bools | None:
    columns = asked.columns
    stale, clouds = columns.rows.stale, columns.heads.stale
    # Most catalogues have little that is stale, and what there is needs no look at every row.
    if columns.rooms.stale.any():
        stale = stale | columns.rooms.stale.take(columns.rows.room)
    elif not columns.rows.some_stale:
        return None
    return stale & ~clouds.take(columns.cloud_of) if clouds.any() else stale


def vm_max(asked: Asked) -> Bools | None:
    limits = asked.columns.limits
    less = _smaller(asked, limits.most, limits.other, unlimited=True)
    found: Bools = less.take(asked.columns.rows.limit)
    return found


def capacity(asked: Asked) -> Bools | None:
    rooms = asked.columns.rooms
    lacking = _smaller(asked, rooms.fit, rooms.fit_other, unlimited=False)
    lacking[0] = True  # no capacity record at all
    found: Bools = lacking.take(asked.columns.rows.room)
    return found


def price(asked: Asked) -> Bools | None:
    criteria = asked.question.criteria
    if criteria.ceiling is None:
        return None
    return asked.costs.dearer(criteria.ceiling, charges.HOUR)


def budget(asked: Asked) -> Bools | None:
    criteria = asked.question.criteria
    if criteria.budget is None:
        return None
    return asked.costs.dearer(criteria.budget.amount, criteria.budget.seconds)


OFFER_MASKS: Mapping[str, Mask] = {
    "region": region,
    "required_trait": required_trait,
    "forbidden_trait": forbidden_trait,
    "any_trait": any_trait,
    "label": label,
    "validity": validity,
    "stale": fresh_offer,
    "vm_max": vm_max,
    "capacity": capacity,
    "price": price,
    "budget": budget,
}
"""Of each offer; as `offer_constraints.CONSTRAINTS`."""


def _any(masks: list[Bools], codes: Codes | None = None) -> Bools | None:
    """Where one of the masks holds; with `codes`, masks are of their values, and looked up."""
    if not masks:
        return None
    found: Bools = reduce(np.logical_or, masks)
    return found if codes is None else found.take(codes)


def _farther(asked: Asked, near: str, rtt_ms_max: float | None, throughput_min: int) -> Bools:
    """Of each cloud, whether it is another one and too far from `near`, or not known to be near."""
    rtt_ms, throughput = asked.question.snapshot.ways(near).at(moment(asked.question.now))
    missed = np.zeros(len(rtt_ms), bool)
    if rtt_ms_max is not None:
        missed |= ~(rtt_ms <= rtt_ms_max)
    if throughput_min:
        missed |= throughput < np.uint64(throughput_min)
    return missed & ~asked.places((near,))


def _has(asked: Asked, trait: str) -> Bools:
    """Of each set of traits."""
    return asked.columns.holding("traits", trait)


def _smaller(asked: Asked, sizes: Sizes, others: Codes, *, unlimited: bool) -> Bools:
    """Of each limit or room, whether it has less of something than what is needed. With `unlimited`
    0 is no limit.
    """
    missed = np.zeros(sizes.shape[1], bool)
    needed = asked.question.criteria.needed
    for place, kind in enumerate(PLAIN):
        column = sizes[place]
        if amount := needed.get(kind, 0):
            less = column < np.uint64(amount)
            missed |= less & (column > 0) if unlimited else less
    further = {kind: amount for kind, amount in needed.items() if kind not in PLAIN and amount}
    if further:

        def lacks(value: object) -> bool:
            held: dict[str, int] = dict(value)  # type: ignore[call-overload]
            return any(
                held.get(kind, 0) < amount and not (unlimited and not held.get(kind, 0))
                for kind, amount in further.items()
            )

        missed |= asked.columns.where("other", others, lacks)
    return missed
