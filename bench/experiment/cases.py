"""What the experiment consists of. Pure."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FAST = ("watari", "zstd_ssh", "rsync", "watari_sibling", "watari_back")
"""Methods that take seconds."""

SLOW = ("nbd_tls", "casync", "paper_part", "paper_ipsec", "paper_whole")
"""Half a minute to seven minutes each at 100 Mbit/s, with 4 GiB."""

FAST_LINK_METHODS = ("watari", "zstd_ssh", "rsync")
FAST_LINK_SLOW = ("nbd_tls", "casync", "paper_part", "paper_plain", "paper_ipsec")
QUICK_METHODS = ("watari", "zstd_ssh", "rsync", "nbd_tls", "paper_part", "paper_ipsec")
OTHER_METHODS = ("watari", "zstd_ssh", "rsync")

ROUND_TRIPS_MS = (0, 20, 60, 80, 120, 160, 200)
FAST_LINK_MS = (0, 20, 60, 120, 200)
QUICK_MS = (0, 60, 120)
QUICK_MBIT = 200.0
FEWER_MS: Mapping[tuple[str, float], Sequence[float]] = {
    ("nbd_tls", 100): FAST_LINK_MS,
    ("casync", 100): FAST_LINK_MS,
    ("paper_part", 100): FAST_LINK_MS,
    ("paper_whole", 100): (160,),
    ("paper_ipsec", 1000): (60,),
    ("paper_ipsec", QUICK_MBIT): (0, 120),
}
"""Of methods at a rate that take long and whose line is nearly straight."""

OTHER_IMAGES = ("small", "full", "random", "qcow2")
OTHER_MS = (120,)


@dataclass(frozen=True)
class Case:
    """A method over a link, with an image."""

    method: str
    image: str
    rate_mbit: float
    rtt_ms: float
    repetition: int = 0

    @property
    def key(self) -> str:
        """Names it among all others."""
        link = f"{self.rate_mbit:g}m-{self.rtt_ms:g}ms"
        return f"{self.method}:{self.image}:{link}:{self.repetition}"


def full(repeat: int, slow_repeat: int) -> Iterator[Case]:
    """Everything: all methods at 100 Mbit/s, at 1 Gbit/s those that can use it, other images.

    Repetition by repetition, so that a run that is cut off has something of everything; in each,
    methods take turns at one link.
    """
    for repetition in range(max(repeat, slow_repeat)):
        fast, slow = repetition < repeat, repetition < slow_repeat
        methods = (FAST if fast else ()) + (SLOW if slow else ())
        yield from _grid("root", 100, ROUND_TRIPS_MS, methods, repetition)
        methods = (FAST_LINK_METHODS if fast else ()) + (FAST_LINK_SLOW if slow else ())
        yield from _grid("root", 1000, FAST_LINK_MS, methods, repetition)
        if fast:
            for image in OTHER_IMAGES:
                yield from _grid(image, 100, OTHER_MS, OTHER_METHODS, repetition)


def quick() -> Iterator[Case]:
    """Some minutes: three round trips, a small image, a faster link, one repetition."""
    yield from _grid("tiny", QUICK_MBIT, QUICK_MS, QUICK_METHODS, 0)
    yield from _grid("tiny", QUICK_MBIT, QUICK_MS[-1:], ("casync",), 0)


def own(
    methods: Sequence[str], image: str, rate_mbit: float, rtt_ms: float, repeat: int
) -> Iterator[Case]:
    """One's own case."""
    for repetition in range(repeat):
        yield from (Case(each, image, rate_mbit, rtt_ms, repetition) for each in methods)


def _grid(
    image: str,
    rate_mbit: float,
    round_trips_ms: Sequence[float],
    methods: Sequence[str],
    repetition: int,
) -> Iterator[Case]:
    for rtt_ms, method in itertools.product(round_trips_ms, methods):
        if rtt_ms in FEWER_MS.get((method, rate_mbit), round_trips_ms):
            yield Case(method, image, rate_mbit, rtt_ms, repetition)
