"""When a guest said what, by the host's clock: follows the file that its serial port writes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import console
from tests.lab.console import Ack, Event

LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Heard:
    """A line of the guest, and when it was there; seconds since 1970."""

    at: float
    event: Event


class Following:
    """A thread that looks a hundred times a second; use it as a context manager.

    `find` gives the file, or None while it is not known.
    """

    def __init__(self, find: Callable[[], Path | None]) -> None:
        self._find = find
        self._heard: list[Heard] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)

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

    def heard(self) -> list[Heard]:
        """All so far."""
        return list(self._heard)

    def acks(self) -> list[Heard]:
        """The acknowledgements among them."""
        return [each for each in self.heard() if isinstance(each.event, Ack)]

    def wait_ack(self, seconds: float) -> Heard:
        """The first acknowledgement. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (acks := self.acks()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest acknowledged nothing in {seconds} s")
            time.sleep(LOOK_SECONDS)
        return acks[0]

    def _run(self) -> None:
        read, rest = 0, ""
        while not self._end.wait(LOOK_SECONDS):
            path = self._find()
            if path is None or not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(read)
                content = file.read()
            if not content:
                continue
            now = time.time()
            read += len(content)
            *lines, rest = (rest + content.decode(errors="replace")).split("\n")
            said = console.events("\n".join([*lines, ""]))
            self._heard += [Heard(now, each) for each in said]
