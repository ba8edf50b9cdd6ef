"""Words for what a screening found: who is rejected, why, and what would have fitted. Pure.

Only constraints that are missed are asked for words, and of offers that miss one for the same
reason, as all of a full region do, only the first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from broker import cloud_constraints, feasible, offer_constraints
from broker.columns import Bools, Codes, Rows
from broker.feasible import Rejection
from broker.question import Miss
from broker.screening import Screening

Places = npt.NDArray[np.intp]

ALIKE: Mapping[str, Callable[[Rows, Places], Codes]] = {
    "region": lambda rows, at: rows.region.take(at),
    "required_trait": lambda rows, at: rows.traits.take(at),
    "forbidden_trait": lambda rows, at: rows.traits.take(at),
    "any_trait": lambda rows, at: rows.traits.take(at),
    "label": lambda rows, at: rows.labels.take(at),
    "vm_max": lambda rows, at: rows.limit.take(at),
    "capacity": lambda rows, at: rows.room.take(at) - 1,
    "price": lambda rows, at: rows.sheet.take(at),
    "budget": lambda rows, at: rows.sheet.take(at),
}
"""By constraint, what some rows have in common that miss it in the same words; nothing where it is
negative.
"""


def every(screening: Screening) -> tuple[Rejection, ...]:
    """What every cloud and every offer misses, and unknown clouds that were named."""
    clouds, rows = _found(screening.of_clouds), _found(screening.of_offers)
    return _in_order(screening, [*_of_clouds(screening, clouds), *_of_offers(screening, rows)])


def nearest(screening: Screening) -> tuple[Rejection, ...]:
    """What clouds miss that were named, with all of their offers; what the nearest miss, each with
    its nearest offer; and unknown clouds that were named.
    """
    criteria, index = screening.question.criteria, screening.columns.index
    named = [index[one] for one in criteria.explained_clouds if one in index]
    near = screening.nearest(criteria.explained_clouds_max)
    others = [one for one in near if one not in named]
    first = [row for one in others if (row := screening.nearest_row(one)) is not None]
    places = np.array([*named, *others], np.intp)
    rows = np.concatenate([np.array(first, np.intp), *map(screening.rejected_rows, named)])
    found = [
        *_of_clouds(screening, _found(screening.of_clouds, places)),
        *_of_offers(screening, _found(screening.of_offers, rows)),
    ]
    return _in_order(screening, found)


def _in_order(screening: Screening, found: list[Rejection]) -> tuple[Rejection, ...]:
    return feasible.in_order([*feasible.unknown_clouds(screening.question), *found])


def _found(of: Mapping[str, Bools], among: Places | None = None) -> Iterator[tuple[str, Places]]:
    """By constraint, the places that miss it."""
    for name, mask in of.items():
        yield name, np.flatnonzero(mask) if among is None else among[mask.take(among)]


def _of_clouds(screening: Screening, found: Iterable[tuple[str, Places]]) -> Iterator[Rejection]:
    for name, places in found:
        for place in places.tolist():
            cloud = screening.columns.clouds[place]
            for miss in cloud_constraints.CONSTRAINTS[name](screening.question, cloud):
                yield Rejection(cloud.cloud_id, "", name, *miss)


def _of_offers(screening: Screening, found: Iterable[tuple[str, Places]]) -> Iterator[Rejection]:
    question, columns = screening.question, screening.columns
    for name, rows in found:
        if not len(rows):
            continue
        constraint = offer_constraints.CONSTRAINTS[name]
        codes = ALIKE[name](columns.rows, rows) if name in ALIKE else np.full(len(rows), -1)
        places = columns.cloud_of.take(rows)
        numbers = rows - columns.starts.take(places)
        said: dict[int, list[Miss]] = {}
        for place, number, code in zip(
            places.tolist(), numbers.tolist(), codes.tolist(), strict=True
        ):
            cloud = columns.clouds[place]
            offer = cloud.offers[number]
            misses = said.get(code)
            if misses is None:
                misses = list(constraint(question, cloud, offer))
                if code >= 0:
                    said[code] = misses
            for reason, would_fit in misses:
                yield Rejection(cloud.cloud_id, offer.name, name, reason, would_fit)
