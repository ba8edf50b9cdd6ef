"""Work that comes again at an interval, in a thread of its own, until it is stopped."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from watari import clock, logs

JOIN_SECONDS_MAX = 10.0
"""How long stopping waits for a round that is under way."""

_log = logs.get(__name__)


class Periodic:
    """Calls every function in turn at each interval. As a context manager: runs within the block.

    A round that fails is logged and comes again: what it left is still due, and a loop that ended
    with a full disk would never notice that there is room again.
    """

    def __init__(
        self,
        name: str,
        interval_seconds: float,
        time: clock.Clock,
        *functions: Callable[[], None],
    ) -> None:
        self._interval_seconds = interval_seconds
        self._clock = time
        self._functions = functions
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(JOIN_SECONDS_MAX)

    def _run(self) -> None:
        while not self._clock.wait(self._stopped, self._interval_seconds):
            for function in self._functions:
                try:
                    function()
                except Exception:  # noqa: BLE001 - logged, and due again
                    _log.exception("periodic work failed", work=self._thread.name)
