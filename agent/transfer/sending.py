"""One attempt at sending: workers look and pack, streams seal, a pilot steers both.

```
 units -> Board -> [workers] -> frames -> [data streams] --> receiver
            ^          \\-----> offers -> [offer stream] --/    |
            \\--------------- answers, acknowledgements --------/
```

Memory is bounded by the workers (one parent each), the queues and the credit. Everything ends with
the first error of any part.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from agent.seeds.fingerprints import Fingerprints
from agent.settings import TransferSettings
from agent.transfer import frames, plan
from agent.transfer.board import Board
from agent.transfer.crew import Crew, guarded
from agent.transfer.dataplane import Connections
from agent.transfer.flow import Channel, Credit, Failure, Throttle
from agent.transfer.geometry import LEAF_BYTES, STREAMS_MAX
from agent.transfer.keys import SessionKeys
from agent.transfer.load import Load
from agent.transfer.merkle import DigestKeys
from agent.transfer.meter import Meter
from agent.transfer.packing import Packer
from agent.transfer.probing import Prober
from agent.transfer.producing import Absent, Producer, Sink, SourceDisk
from agent.transfer.steering import PROBED_SECONDS, Seen, Steering
from agent.transfer.streams import Flow
from agent.transfer.watchdog import Watchdog
from watari import clock, errors

TICK_SECONDS = 0.25
"""How often the pilot looks."""

QUEUE_BYTES_MAX = 32 * 1024 * 1024
"""Packed frames that wait for a stream, beside the limit of their number."""

PACE_BURST_SECONDS = 0.02
"""What may go at once after a pause, as time at the pace."""

WORKERS_NICE = 5
"""How far workers step back (nice(2)): compressing can wait, packets and guests cannot. TCP takes
the delays of a busy processor for those of a busy link.
"""

BURST_LOOK_SECONDS = 0.01
"""How often it is looked whether all that may be sent of a sample has arrived."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Route:
    """Where the frames go, and what the receiver allows."""

    session_id: str
    keys: SessionKeys
    connections: Connections
    streams_max: int
    credit_bytes: int
    bytes_max: int
    """What the grant allows to be sent in this session."""


@dataclass(frozen=True)
class Source:
    """What is sent: open disks, in the order of their numbers on the wire."""

    disks: tuple[SourceDisk, ...]
    digests: DigestKeys
    fingerprints: Fingerprints
    full_read: bool

    @property
    def compared(self) -> bool:
        """Whether there is anything to negotiate."""
        return any(disk.compared for disk in self.disks)

    @property
    def whole(self) -> bool:
        """Whether a disk has to be read from beginning to end to know what changed."""
        there = [disk for disk in self.disks if not isinstance(disk.reader, Absent)]
        return any(disk.changed_bytes is None for disk in there)

    def units(self) -> Iterator[plan.Unit]:
        """Everything, disk by disk."""
        for number, disk in enumerate(self.disks):
            if isinstance(disk.reader, Absent):
                continue
            found = disk.reader.extents(LEAF_BYTES, full_read=self.full_read)
            units = plan.units(number, disk.reader.size, found)
            yield from plan.unchanged(units, disk.unchanged) if disk.unchanged else units


@dataclass(frozen=True)
class Burst:
    """For how long, and with how many bytes at most, a sample is sent."""

    seconds: float
    bytes_max: int


@dataclass(frozen=True)
class Survey:
    """What a survey found beside what the meter counted."""

    looked_seconds: float
    """How long reading and comparing took."""
    rate_bytes_per_second: float
    """What the way carries; 0 without a sample."""


class QueueSink:
    """Everything is packed and goes to the streams."""

    def __init__(self, channel: Channel[frames.Content]) -> None:
        self._channel = channel

    def wants(self, length: int) -> bool:
        """Always."""
        return length > 0

    def put(self, frame: frames.Content) -> None:
        """Waits for room."""
        self._channel.put(frame)


class Sending:
    """Sends everything once. `run` blocks; `failure.fail` from any thread ends it."""

    def __init__(
        self,
        source: Source,
        settings: TransferSettings,
        steering: Steering,
        throttle: Throttle,
        meter: Meter,
        failure: Failure,
        time: clock.Clock,
        *,
        dry_run: bool = False,
        ticked: Callable[[], None] = lambda: None,
    ) -> None:
        self._ticked = ticked
        self._source = source
        self._settings = settings
        self._steering = steering
        self._throttle = throttle
        self._meter = meter
        self._failure = failure
        self._clock = time
        self._board = Board(failure, source.units(), dry_run=dry_run)
        self._frames: Channel[frames.Content] = Channel(
            failure,
            settings.queue_frames_max * steering.queue_factor,
            QUEUE_BYTES_MAX,
            frames.message_bytes,
        )
        self._offers: Channel[frames.Frame] = Channel(failure, settings.queue_frames_max)

    def run(self, route: Route, complete: Callable[[list[int]], _Result]) -> _Result:
        """What `complete` returns, which is called with the frames of each stream once all have
        been sealed; the last may still be on their way. Raises the first error of any part.
        """

        def body(flow: Flow, crew: Crew) -> _Result:
            crew.grow(self._steering.streams)
            with self._piloted(flow, crew, route):
                self._produce(QueueSink(self._frames))
                self._frames.close()
                self._offers.close()
                crew.await_sealed()
            crew.await_sealed()  # of a stream too that the pilot had just added
            return complete(crew.frames_sealed())

        return self._connected(route, body)

    def survey(
        self,
        route: Route,
        sink: Sink,
        sample: Callable[[], Sequence[frames.Data]],
        burst: Burst,
    ) -> Survey:
        """Looks at everything and offers it, then sends `sample` again and again for a while.
        Raises the first error.
        """

        def body(flow: Flow, crew: Crew) -> Survey:
            rate, began = 0.0, self._clock.monotonic()
            self._produce(sink)
            self._offers.close()
            looked = self._clock.monotonic() - began
            chosen = sample()
            if chosen:
                crew.grow(self._steering.streams)
                with self._piloted(flow, crew, route):
                    rate = self._burst(chosen, burst)
            return Survey(looked, rate)

        return self._connected(route, body, cut=True)

    def _connected(
        self, route: Route, body: Callable[[Flow, Crew], _Result], *, cut: bool = False
    ) -> _Result:
        """Runs `body` with streams that end with it, at once when they are to be `cut`. Raises the
        first error of any part.
        """
        results: list[_Result] = []
        with ThreadPoolExecutor(STREAMS_MAX + 1, thread_name_prefix="stream") as pool:
            flow = self._flow(route)
            crew = Crew(pool, flow, route.connections, route.streams_max)
            try:
                with self._watched(crew):
                    if self._source.compared:
                        crew.start_offers()
                    results.append(body(flow, crew))
                if cut:
                    self._failure.fail(errors.Cancelled("CANCELLED", "the rest is not needed"))
            except errors.WatariError as error:
                self._failure.fail(error)
            except BaseException:
                self._failure.fail(errors.Internal("INTERNAL", "a part of the transfer broke"))
                raise
            crew.join()
        if not results:  # with one, it is the last word, however the streams ended after it
            self._failure.check()
        return results[0]

    def _burst(self, sample: Sequence[frames.Data], burst: Burst) -> float:
        """Bytes per second of the second half of the time, or of all when what may be sent did not
        last so long.
        """
        meter, began, left = self._meter, self._clock.monotonic(), burst.bytes_max
        half: tuple[float, int] | None = None
        given = itertools.cycle(sample)
        frame = next(given)
        while True:
            size = frames.message_bytes(frame)
            if size <= left:
                self._frames.put(frame)
                left -= size
                frame = next(given)
            else:
                self._clock.wait(threading.Event(), BURST_LOOK_SECONDS)
                self._failure.check()
            now, settled = self._clock.monotonic(), meter.settled_wire_bytes
            if now - began >= burst.seconds or settled >= burst.bytes_max - left:
                since, before = half or (began, 0)
                return (settled - before) / (now - since) if now > since else 0.0
            if half is None and now - began >= burst.seconds / 2:
                half = now, settled

    def _produce(self, sink: Sink) -> None:
        """Runs the workers until nothing is left. Raises the first error."""
        count = self._settings.workers
        with ThreadPoolExecutor(count, "worker", initializer=_give_way) as pool:
            producers = [self._producer(sink) for _ in range(count)]
            running = [pool.submit(guarded, self._failure, each.run) for each in producers]
        for each in running:
            each.result()
        self._failure.check()

    def _producer(self, sink: Sink) -> Producer:
        return Producer(
            self._source.disks,
            (self._source.digests, self._source.fingerprints),
            self._board,
            sink,
            self._offers,
            Packer(lambda: self._steering.level),
            self._frame_bytes,
            self._meter,
            self._clock,
        )

    def _frame_bytes(self, kept: float) -> int:
        """Content of the next frame."""
        left = self._meter.data_bytes - self._meter.read_bytes
        return self._steering.frame_bytes(left, kept)

    def _flow(self, route: Route) -> Flow:
        credit = self._steering.credit_bytes(self._credit_max(route))
        return Flow(
            route.session_id,
            route.keys,
            route.bytes_max,
            self._frames,
            self._offers,
            self._board,
            Credit(self._failure, credit),
            self._throttle,
            Throttle(self._failure, self._clock, 0, PACE_BURST_SECONDS),
            self._meter,
            self._failure,
            self._clock,
            lambda: self._steering.streams,
            self._meter.held,
            self._settings.transfer_seconds_max,
        )

    def _measured(self) -> tuple[float, float, float]:
        """(now, sealed bytes settled so far, frames settled so far)."""
        meter = self._meter
        return self._clock.monotonic(), meter.settled_wire_bytes, meter.settled_frames

    def _credit_max(self, route: Route) -> int:
        return min(route.credit_bytes, self._settings.credit_bytes)

    def _watched(self, crew: Crew) -> AbstractContextManager[None]:
        """Until the last frame is settled; the receiver may take longer to flush and sign."""
        seconds = self._settings.stall_seconds_max
        watchdog = Watchdog(self._failure, self._meter, self._clock, seconds)
        return watchdog.watching(lambda: crew.settled)

    @contextmanager
    def _piloted(self, flow: Flow, crew: Crew, route: Route) -> Iterator[None]:
        """Steers while the body runs."""
        done = threading.Event()
        credit_max = self._credit_max(route)
        prober = Prober(route.connections.ping, self._meter.round_trip_seconds, self._clock)

        def pilot() -> None:
            meter, last, load = self._meter, self._measured(), Load()
            while not self._clock.wait(done, TICK_SECONDS):
                now = self._measured()
                seconds, wire, frame_count = (a - b for a, b in zip(now, last, strict=True))
                seen = Seen(
                    seconds,
                    self._frames.fill,
                    int(wire),
                    int(frame_count),
                    meter.take_held(),
                    self._throttle.capped,
                    load.idle(),
                    prober.take_queued_seconds(),
                )
                last = now
                self._steering.tick(seen)
                self._ticked()
                flow.pacer.set(self._steering.pace_bytes_per_second)
                flow.credit.set(self._steering.credit_bytes(credit_max))
                crew.grow(min(self._steering.streams, route.streams_max))
                meter.streams, meter.level = self._steering.streams, self._steering.level

        self._meter.level = self._steering.level
        thread = threading.Thread(target=guarded, args=(self._failure, pilot), name="pilot")
        thread.start()
        far = self._meter.round_trip_seconds >= PROBED_SECONDS
        try:
            with prober.probing() if far else nullcontext():
                yield
        finally:
            done.set()
            thread.join()


def _give_way() -> None:
    """Makes the thread that calls it a little less important than others."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + WORKERS_NICE)
