"""What the experiment consists of. Pure."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SLOW = ("paper_ipsec", "paper_whole")
"""Methods that send all of the image: minutes each at 100 Mbit/s."""

QUICK_METHODS = ("watari", "zstd_ssh", "rsync", "nbd_tls", "paper_part")
METHODS = (*QUICK_METHODS, *SLOW, "watari_sibling", "watari_back")
FAST_LINK_METHODS = ("watari", "zstd_ssh", "rsync", "nbd_tls", "paper_part", "paper_ipsec")

ROUND_TRIPS_MS = (0, 20, 60, 80, 120, 160, 200)
FAST_LINK_MS = (20, 60, 120, 200)
QUICK_MS = (0, 60, 120)
QUICK_MBIT = 200.0


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
        return f"{self.method}/{self.image}/{link}/{self.repetition}"


def full(repeat: int, slow_repeat: int) -> Iterator[Case]:
    """Everything: all methods at 100 Mbit/s, and at 1 Gbit/s those that can use it.

    Repetition by repetition, so that a run that is cut off has something of everything; in each,
    methods take turns at one link.
    """
    for repetition in range(max(repeat, slow_repeat)):
        fast = METHODS if repetition < repeat else ()
        methods = [each for each in METHODS if each in fast and each not in SLOW]
        methods += SLOW if repetition < slow_repeat else ()
        yield from _grid("root", 100, ROUND_TRIPS_MS, methods, repetition)
        methods = [each for each in FAST_LINK_METHODS if each in methods]
        yield from _grid("root", 1000, FAST_LINK_MS, methods, repetition)


def quick() -> Iterator[Case]:
    """Some minutes: three round trips, a small image, a faster link, one repetition."""
    yield from _grid("tiny", QUICK_MBIT, QUICK_MS, (*QUICK_METHODS, *SLOW), 0)


def own(
    methods: Sequence[str], image: str, rate_mbit: float, rtt_ms: float, repeat: int
) -> Iterator[Case]:
    """One's own case."""
    for repetition in range(repeat):
        yield from _grid(image, rate_mbit, (rtt_ms,), methods, repetition)


def _grid(
    image: str,
    rate_mbit: float,
    round_trips_ms: Sequence[float],
    methods: Sequence[str],
    repetition: int,
) -> Iterator[Case]:
    for rtt_ms, method in itertools.product(round_trips_ms, methods):
        yield Case(method, image, rate_mbit, rtt_ms, repetition)
