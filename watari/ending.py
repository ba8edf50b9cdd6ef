"""What tells a process to end before its server takes the signals: it may wait then for long.

Without handlers SIGTERM ends a process at once, except the first one of a container: the kernel
hands process 1 no signal that it has no handler for.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT set `stopping` within the block; a second one ends the process at once.

    For the main thread only; the signals' former handlers are put back.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._former: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        self._former = {kind: signal.signal(kind, self._on_signal) for kind in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.stopping.is_set():
            os._exit(128 + number)
        self.stopping.set()
