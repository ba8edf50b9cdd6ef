"""How much the link carries from moment to moment."""

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from bench.link import Link

LOOK_SECONDS = 0.05

Sample = tuple[float, int]
"""Seconds since 1970, and the bytes that the link had sent to the destination by then."""


class Sampling:
    """A thread that asks the link twenty times a second; use it as a context manager."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._samples: list[Sample] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def samples(self) -> list[Sample]:
        """All so far."""
        return list(self._samples)

    def _run(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            sent = int(self._link.counters()["there"]["sent_bytes"])
            self._samples.append((time.time(), sent))


def within(samples: Sequence[Sample], began: float, ended: float) -> list[Sample]:
    """Of the seconds between two moments: (seconds since the first, bytes since the first)."""
    chosen = [each for each in samples if began <= each[0] <= ended]
    return [(round(at - began, 3), sent - chosen[0][1]) for at, sent in chosen]
