"""Builds under way: what was asked for, made one at a time by whichever thread drains the queue.

Nobody waits: builds rest between chunks, and altogether while the host is busy with transfers.
Somebody waits: they do not.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.seeds.images import Image
from watari import errors, logs
from watari.clock import Clock

JOIN_SECONDS_MAX = 10.0
"""How long closing waits for a chunk that is under way."""

REST_SECONDS_MAX = 1.0
"""Longest rest at once, whatever a chunk took."""

_log = logs.get(__name__)

Pace = Callable[[], None]


@dataclass(frozen=True)
class BuildLimits:
    """How much of the host builds may take."""

    rest_ratio: float = field(default=1.0, metadata={"min": 0})
    """Rest after a chunk, in terms of the time that the chunk took: 1 is half of one processor."""

    rebuild_seconds_min: float = field(default=300.0, metadata={"min": 0})
    """Between two builds of one image in the background: a running machine writes all the time."""

    retry_seconds_min: float = field(default=300.0, metadata={"min": 0})
    """After a build that failed, before that index is tried again, whoever asks."""


@dataclass(frozen=True)
class Job:
    """One index to be made."""

    target: Path
    scope: str
    image: Image
    done: threading.Event = field(default_factory=threading.Event, compare=False)
    """Set when it was tried, with or without success."""


class Builds:
    """The queue. `work` makes one index and calls the given pace after every chunk."""

    def __init__(
        self,
        work: Callable[[Job, Pace], None],
        time: Clock,
        limits: BuildLimits,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._work = work
        self._busy = busy
        self._clock = time
        self._limits = limits
        self._lock = threading.Lock()
        self._queue: dict[Path, Job] = {}
        self._current: Job | None = None
        self._draining = False
        self._waiting = 0
        self._built_at: dict[Path, float] = {}
        self._failed_at: dict[Path, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, jobs: Iterable[Job], *, urgent: bool) -> list[Job]:
        """Queues what is due, urgent ones first; returns the jobs that will be or are being done.

        A job for the same target that is queued already stands for the new one.
        """
        with self._lock:
            accepted = []
            for job in jobs:
                if self._current is not None and self._current.target == job.target:
                    accepted.append(self._current)
                elif job.target in self._queue:
                    accepted.append(self._queue[job.target])
                elif self._is_due(job.target, urgent):
                    accepted.append(job)
            asked = {job.target: job for job in accepted if job is not self._current}
            first, then = (asked, self._queue) if urgent else (self._queue, asked)
            self._queue = {**first, **then}
            return accepted

    def drain(self, stopping: threading.Event) -> None:
        """Makes what is queued until nothing is left or `stopping` is set.

        Returns at once when another thread does so already.
        """
        with self._lock:
            if self._draining:
                return
            self._draining = True
        self._drain(stopping)

    def wait(self, jobs: Iterable[Job], seconds_max: float) -> None:
        """Returns when all are done or the time has passed; starts a thread if nobody drains."""
        deadline = self._clock.monotonic() + seconds_max
        with self._lock:
            self._waiting += 1
            if self._queue and not self._draining and not self._closed.is_set():
                self._draining = True
                self._thread = threading.Thread(
                    target=self._drain, args=(self._closed,), name="seed-builds", daemon=True
                )
                self._thread.start()
        try:
            for job in jobs:
                self._clock.wait(job.done, deadline - self._clock.monotonic())
        finally:
            with self._lock:
                self._waiting -= 1

    def forget(self, needed: Callable[[Path], bool]) -> None:
        """Drops what is remembered and queued of targets that are not needed any more."""
        with self._lock:
            for memory in (self._built_at, self._failed_at):
                for target in [each for each in memory if not needed(each)]:
                    del memory[target]
            for target in [each for each in self._queue if not needed(each)]:
                self._queue.pop(target).done.set()

    def close(self) -> None:
        """Ends what is under way and makes nothing more."""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(JOIN_SECONDS_MAX)

    def _drain(self, stopping: threading.Event) -> None:
        while (job := self._next(stopping)) is not None:
            try:
                self._make(job, stopping)
            finally:
                with self._lock:
                    self._current = None
                job.done.set()

    def _make(self, job: Job, stopping: threading.Event) -> None:
        image = str(job.image.path)
        try:
            self._work(job, self._pace(stopping))
        except errors.Cancelled:
            _log.info("block index given up: the agent stops", image=image)
        except (errors.WatariError, OSError) as error:
            self._finish(job, self._failed_at)
            _log.warning("block index not built", image=image, error=str(error))
        except Exception:  # noqa: BLE001 - one image must not keep the others from their turn
            self._finish(job, self._failed_at)
            _log.exception("block index not built", image=image)
        else:
            self._finish(job, self._built_at)

    def _next(self, stopping: threading.Event) -> Job | None:
        with self._lock:
            if stopping.is_set() or self._closed.is_set() or not self._queue:
                self._draining = False
                return None
            target = next(iter(self._queue))
            self._current = self._queue.pop(target)
            return self._current

    def _is_due(self, target: Path, urgent: bool) -> bool:
        now, limits = self._clock.monotonic(), self._limits
        failed, built = self._failed_at.get(target), self._built_at.get(target)
        if failed is not None and now < failed + limits.retry_seconds_min:
            return False
        return urgent or built is None or now >= built + limits.rebuild_seconds_min

    def _finish(self, job: Job, memory: dict[Path, float]) -> None:
        with self._lock:
            self._built_at.pop(job.target, None)
            self._failed_at.pop(job.target, None)
            memory[job.target] = self._clock.monotonic()

    def _pace(self, stopping: threading.Event) -> Pace:
        since = self._clock.monotonic()

        def pace() -> None:
            nonlocal since
            took = self._clock.monotonic() - since
            rest = min(took * self._limits.rest_ratio, REST_SECONDS_MAX)
            while not self._waiting and not stopping.is_set():
                self._clock.wait(stopping, rest)
                if not self._busy():
                    break
                rest = REST_SECONDS_MAX
            if stopping.is_set() or self._closed.is_set():
                raise errors.Cancelled("CANCELLED", "the agent stops")
            since = self._clock.monotonic()

        return pace
