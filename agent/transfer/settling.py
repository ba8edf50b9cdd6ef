"""Group commit at the receiver: what is acknowledged is on stable storage.

```
streams -> [written, not yet stable] -> sync disks -> record digests -> sync journals -> ACK
```

While one group is being synced the next gathers, so a slow disk makes groups larger and not the
transfer slower.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.transfer import frames
from agent.transfer.flow import WAIT_SECONDS_MAX, Channel, Failure
from agent.transfer.target import Record, Target
from watari import clock, errors, failpoint

FRAME_WRITTEN = failpoint.declare("agent.receiving.frame_written")
RECORDED = failpoint.declare("agent.settling.recorded")

GROUP_SECONDS = 0.01
"""What gathers for so long is synced together: a fast disk need not be synced for every frame."""

GROUP_FRAMES_MAX = 512
"""Frames of a group; further streams wait, and their windows hold back a sender without manners."""

_HELD_MICROSECONDS_MAX = (1 << 32) - 1


@dataclass(frozen=True)
class Written:
    """A frame whose effects are written and not yet stable."""

    stream: int
    frames: int
    sealed_bytes: int
    final: bool
    arrived: float
    """Monotonic seconds at which the frame was read from its connection."""
    records: tuple[Record, ...] = ()
    rejected: tuple[tuple[int, int], ...] = ()


@dataclass
class _Due:
    """What a stream is to be told next."""

    frames: int = 0
    sealed_bytes: int = 0
    final: bool = False
    arrived: float = 0.0
    rejected: list[tuple[int, int]] = field(default_factory=list)


class Settler:
    """One thread that makes groups of frames stable and releases their acknowledgements."""

    def __init__(self, failure: Failure, time: clock.Clock) -> None:
        self._failure = failure
        self._clock = time
        self._written: Channel[Written] = Channel(failure, GROUP_FRAMES_MAX)
        self._due: dict[int, _Due] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._thread.start()

    def add(self, written: Written) -> None:
        """Hands over a frame; waits while too many are unsettled. Raises the first error."""
        failpoint.hit(FRAME_WRITTEN)
        self._written.put(written)

    def acknowledgements(self, stream: int, gone: threading.Event) -> Iterator[frames.Ack]:
        """What becomes stable of a stream, until its final frame or, once `gone` is set and the
        bell has rung, at once. Raises the first error.
        """
        told = frames.Ack(0, 0)
        while not told.final:
            with self._failure.changed:
                while stream not in self._due:
                    self._failure.check()
                    if gone.is_set():
                        return
                    self._failure.changed.wait(WAIT_SECONDS_MAX)
                due = self._due.pop(stream)
            held = int((self._clock.monotonic() - due.arrived) * 1e6)
            yield from _messages(due, told, max(0, min(held, _HELD_MICROSECONDS_MAX)))
            told = frames.Ack(due.frames, due.sealed_bytes, due.final)

    def close(self) -> None:
        """Stops once what was handed over is stable, or at the first error."""
        self._written.close()
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while group := self._group():
                self._settle(group)
        except errors.WatariError as error:
            self._failure.fail(error)
        except BaseException:
            self._failure.fail(errors.Internal("INTERNAL", "settling broke"))
            raise

    def _group(self) -> list[Written]:
        first = self._written.get()
        if first is None:
            return []
        if not first.final:
            self._clock.wait(self._stopped, GROUP_SECONDS)
        return [first, *self._written.drain()]

    def _settle(self, group: list[Written]) -> None:
        records = [record for written in group for record in written.records]
        targets: set[Target] = {record.target for record in records}
        for target in targets:
            target.flush()
        for record in records:
            record.target.record(record)
        for target in targets:
            target.sync_journal()
        if records:
            failpoint.hit(RECORDED)
        with self._failure.changed:
            for written in group:
                due = self._due.setdefault(written.stream, _Due())
                due.frames, due.sealed_bytes = written.frames, written.sealed_bytes
                due.final = due.final or written.final
                due.arrived = written.arrived
                due.rejected.extend(written.rejected)
            self._failure.changed.notify_all()


def _messages(due: _Due, told: frames.Ack, held: int) -> Iterator[frames.Ack]:
    """The acknowledgement. Rejected leaves beyond what one may name go before it, in others that
    repeat the last totals: no frame is settled before its rejects are told.
    """
    rejected = due.rejected
    while len(rejected) > frames.REJECTS_MAX:
        part, rejected = rejected[: frames.REJECTS_MAX], rejected[frames.REJECTS_MAX :]
        yield frames.Ack(told.frames, told.sealed_bytes, rejected=tuple(part))
    yield frames.Ack(due.frames, due.sealed_bytes, due.final, tuple(rejected), held)
