"""Problems by chance, from a seed: for benches and tests. Pure."""

import numpy as np

from broker.batch.problem import NOWHERE, Group, Level, Problem

FLAVOURS = (
    (1, 2, 10),
    (2, 4, 20),
    (2, 8, 40),
    (4, 8, 40),
    (4, 16, 80),
    (8, 32, 160),
    (16, 64, 320),
)
"""vCPUs, GiB of memory, GiB of disk."""

_CHANCE = (0.2, 0.2, 0.18, 0.16, 0.14, 0.08, 0.04)
_GIB = 2**30


def sample(
    seed: int,
    machines: int = 1000,
    clouds: int = 100,
    tightness: float = 0.95,
    hours: float = 720.0,
    distinct: float = 0.2,
) -> Problem:
    """Machines of some flavours, a share `distinct` of them with sizes of their own.

    Half are somewhere already, a third are in groups of 2 to 6. `tightness` is what all need of all
    room, in the scarcest class: the nearer to 1, the fewer choices there are.
    """
    rng = np.random.default_rng(seed)
    flavour = np.array(FLAVOURS)[rng.choice(len(FLAVOURS), machines, p=_CHANCE)]
    own = rng.random(machines) < distinct
    flavour[own, 1] += rng.integers(0, 8, own.sum())
    flavour[own, 2] += rng.integers(0, 40, own.sum())
    need = flavour * np.array([1, _GIB, _GIB])
    domains = np.array([np.arange(clouds), rng.integers(0, 20, clouds), rng.integers(0, 8, clouds)])
    # Rooms as uneven as clouds are, together as large as `tightness` says.
    share = rng.dirichlet(np.full(clouds, 2.0))
    skew = rng.uniform(0.9, 1.1, (clouds, 3))
    free = (share[:, None] * skew * need.sum(axis=0) / tightness).astype(np.int64)
    largest = np.minimum(free, np.array([32, 128 * _GIB, 2048 * _GIB]))
    largest[rng.random(clouds) < 1 / 4] //= 4
    prices = rng.lognormal(0, 0.25, (clouds, 1)) * np.array([0.02, 0.004, 0.0001])
    prices = prices * rng.uniform(0.85, 1.15, (clouds, 3))
    # What machines may ask for is one of a dozen sets of requirements.
    allowed_sets = rng.random((12, clouds)) < rng.uniform(0.3, 1.0, (12, 1))
    wanted = rng.integers(0, 12, machines)
    current = np.where(rng.random(machines) < 1 / 2, rng.integers(0, clouds, machines), NOWHERE)
    staying = current[:, None] == np.arange(clouds)[None, :]
    move = np.where((current[:, None] == NOWHERE) | staying, 0.0, 0.01 * flavour[:, 2:3])
    cost = flavour @ prices.T * hours + move
    group = np.full(machines, NOWHERE)
    groups: list[Group] = []
    at = 0
    while at < machines // 3:
        size = int(rng.integers(2, 7))
        group[at : at + size] = len(groups)
        groups.append(_rule(rng, size))
        at += size
    return Problem(
        need=need.astype(np.int64),
        current=current.astype(np.int64),
        group=group.astype(np.int64),
        weight=rng.choice([1.0, 2.0], machines, p=[0.9, 0.1]),
        feasible=allowed_sets[wanted] | staying,
        cost=cost,
        free=free,
        largest=largest,
        domains=domains.astype(np.int64),
        groups=tuple(groups),
    )


def _rule(rng: np.random.Generator, size: int) -> Group:
    if rng.random() < 1 / 2:
        return Group(per_cloud_max=int(rng.integers(1, 3)) if size > 2 else 1)
    return Group(together=Level(int(rng.integers(0, 3))))
