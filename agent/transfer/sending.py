"""One attempt at sending: pieces are read, hashed and compressed by workers, and sealed by streams.

```
 extents -> pieces -> [workers: read, find zeros, hash, compress] -> channel -> [streams: seal] ->
                                    credit <------------------------------- acknowledgements <----
```

Memory is bounded by the workers (one piece each), the channel and the credit. Everything ends with
the first error of any part.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import zstandard

from agent.disks.extents import extents
from agent.disks.raw import RawReader
from agent.settings import TransferSettings
from agent.transfer import dataplane, frames, plan
from agent.transfer.flow import Channel, Credit, Failure, Throttle
from agent.transfer.geometry import LEAF_BYTES
from agent.transfer.keys import Opener, SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.meter import Meter
from watari import clock, errors, failpoint

FRAME_SENT = failpoint.declare("agent.sending.frame_sent")


class StreamBroken(errors.Unavailable):
    """A data stream ended too early. Why, only the receiver's control port can say."""


@dataclass(frozen=True)
class Route:
    """Where the frames go, and what the receiver allows."""

    session_id: str
    data_address: str
    streams: int
    credit_bytes: int


@dataclass(frozen=True)
class Source:
    """What is sent: open disks and their trees, in the order of disk numbers on the wire."""

    readers: tuple[RawReader, ...]
    trees: tuple[DiskTree, ...]
    full_read: bool


class Sending:
    """Sends everything once. `run` blocks; `failure.fail` from any thread ends it."""

    def __init__(
        self,
        source: Source,
        digest_keys: DigestKeys,
        settings: TransferSettings,
        level: int,
        throttle: Throttle,
        meter: Meter,
        failure: Failure,
        time: clock.Clock,
    ) -> None:
        self._source = source
        self._digests = digest_keys
        self._settings = settings
        self._level = level
        self._throttle = throttle
        self._meter = meter
        self._failure = failure
        self._clock = time
        self._pieces = self._all_pieces()
        self._pieces_lock = threading.Lock()
        self._channel: Channel[frames.Frame] = Channel(failure, settings.queue_frames_max)

    def run(self, route: Route, keys: SessionKeys) -> list[int]:
        """Frames sent on each stream, once the receiver has settled all of them. Raises the first
        error of any part.
        """
        credit = Credit(self._failure, min(route.credit_bytes, self._settings.credit_bytes))
        streams = [_Stream(self, route, keys, number, credit) for number in range(route.streams)]
        watchdog = _Watchdog(self._failure, self._meter, self._clock, self._settings)
        with ThreadPoolExecutor(len(streams), thread_name_prefix="stream") as stream_pool:
            running = [stream_pool.submit(self._guard, stream.run) for stream in streams]
            with watchdog.watching():
                self._produce()
                for each in running:
                    each.result()
            self._failure.check()
        return [stream.frames_sealed for stream in streams]

    def next_frame(self) -> frames.Frame | None:
        """What a stream sends next; None at the end. Raises the first error."""
        return self._channel.get()

    def settled(self, frame_bytes: int) -> None:
        """Content that the receiver has verified and written."""
        self._meter.add(settled=frame_bytes)

    def sent(self, message_bytes: int) -> None:
        """A sealed frame was handed to the network."""
        self._meter.add(wire=message_bytes)
        failpoint.hit(FRAME_SENT)

    def pace(self, message_bytes: int, credit: Credit) -> None:
        """Waits for the receiver's credit and the bandwidth cap."""
        began = self._clock.monotonic()
        credit.take(message_bytes)
        self._throttle.pace(message_bytes)
        self._meter.add_busy(network=self._clock.monotonic() - began)

    @property
    def timeout_seconds(self) -> float:
        """Deadline of a stream."""
        return self._settings.transfer_seconds_max

    @property
    def failure(self) -> Failure:
        """The attempt's first error."""
        return self._failure

    def _produce(self) -> None:
        count = self._settings.workers
        with ThreadPoolExecutor(count, thread_name_prefix="worker") as pool:
            for each in [pool.submit(self._guard, self._work) for _ in range(count)]:
                each.result()
        self._channel.close()

    def _guard(self, part: Callable[[], None]) -> None:
        """Runs a part; its error becomes the transfer's, unless there is one already."""
        try:
            part()
        except errors.WatariError as error:
            self._failure.fail(error)
        except BaseException:
            self._failure.fail(errors.Internal("INTERNAL", "a part of the transfer broke"))
            raise

    def _all_pieces(self) -> Iterator[plan.Piece]:
        for number, reader in enumerate(self._source.readers):
            reader.flush()
            found = extents(
                reader.descriptor, reader.size, LEAF_BYTES, full_read=self._source.full_read
            )
            yield from plan.pieces(number, found)

    def _next_piece(self) -> plan.Piece | None:
        with self._pieces_lock:
            return next(self._pieces, None)

    def _work(self) -> None:
        compressor = zstandard.ZstdCompressor(level=self._level, write_content_size=True)
        while (piece := self._next_piece()) is not None:
            self._failure.check()
            for frame in self._frames(piece, compressor):
                self._channel.put(frame)

    def _frames(
        self, piece: plan.Piece, compressor: zstandard.ZstdCompressor
    ) -> Iterable[frames.Frame]:
        if piece.hole:
            return [self._zeros(piece.disk, piece.offset, piece.length)]
        began = self._clock.monotonic()
        content = self._source.readers[piece.disk].read(piece.offset, piece.length)
        read = self._clock.monotonic()
        self._meter.add(read=piece.length)
        found = [
            self._zeros(piece.disk, piece.offset + run.start, run.end - run.start)
            if run.zero
            else self._data(piece, run, content[run.start : run.end], compressor)
            for run in plan.runs(content)
        ]
        self._meter.add_busy(read=read - began, cpu=self._clock.monotonic() - read)
        return found

    def _zeros(self, disk: int, offset: int, length: int) -> frames.Zeros:
        self._source.trees[disk].put_zeros(offset, length)
        self._meter.add(zero=length)
        return frames.Zeros(disk, offset, length)

    def _data(
        self,
        piece: plan.Piece,
        run: plan.Run,
        content: bytes,
        compressor: zstandard.ZstdCompressor,
    ) -> frames.Data:
        offset = piece.offset + run.start
        digests = self._digests.leaves(content)
        self._source.trees[piece.disk].put_leaves(offset, digests)
        packed = compressor.compress(content)
        compressed = len(packed) < len(content)
        self._meter.add(sent=len(content))
        return frames.Data(
            piece.disk,
            offset,
            len(content),
            b"".join(digests),
            packed if compressed else content,
            compressed,
        )


class _Stream:
    """One data connection: seals what the channel gives, and takes acknowledgements."""

    def __init__(
        self, sending: Sending, route: Route, keys: SessionKeys, number: int, credit: Credit
    ) -> None:
        self._sending = sending
        self._route = route
        self._id = dataplane.StreamId(route.session_id, number)
        self._sealer, self._opener = keys.sender_stream(number)
        self._credit = credit
        self._unsettled: dict[int, int] = {}
        self._settled_frames = 0
        self._settled_bytes = 0

    @property
    def frames_sealed(self) -> int:
        """Frames sealed so far."""
        return self._sealer.frames

    def run(self) -> None:
        """Returns when the receiver has settled the final frame. Raises the first error."""
        with dataplane.connect(self._route.data_address) as channel:
            call = dataplane.open_stream(
                channel, self._id, self._messages(), self._sending.timeout_seconds
            )
            with _cancelled_on_failure(self._sending.failure, call):
                try:
                    self._acknowledgements(call, self._opener)
                except grpc.RpcError as error:
                    self._sending.failure.check()
                    cause = errors.from_rpc_error(error)
                    raise StreamBroken(
                        "PEER_ERROR", f"a data stream broke: {cause.message}", cause=cause.reason
                    ) from error

    def _messages(self) -> Iterator[bytes]:
        """What gRPC sends, in a thread of its own; ends early once there is an error."""
        try:
            while (frame := self._sending.next_frame()) is not None:
                yield self._seal(frame)
            yield self._seal(frames.End())
        except errors.WatariError as error:
            self._sending.failure.fail(error)

    def _seal(self, frame: frames.Frame) -> bytes:
        message = self._sealer.seal(frame)
        self._unsettled[self._sealer.frames] = _content_bytes(frame)
        self._sending.pace(len(message), self._credit)
        self._sending.sent(len(message))
        return message

    def _acknowledgements(self, call: dataplane.DataCall, opener: Opener) -> None:
        for message in call:
            ack = opener.open(message)
            if not isinstance(ack, frames.Ack) or ack.frames > self._sealer.frames:
                raise frames.invalid("the receiver settles what was never sent")
            self._credit.give_back(ack.sealed_bytes - self._settled_bytes)
            self._settled_bytes = ack.sealed_bytes
            while self._settled_frames < ack.frames:
                self._settled_frames += 1
                self._sending.settled(self._unsettled.pop(self._settled_frames))
        if not opener.ended:
            raise StreamBroken("PEER_ERROR", "the receiver ended a data stream early")


def _content_bytes(frame: frames.Frame) -> int:
    return frame.length if isinstance(frame, frames.Data | frames.Zeros) else 0


@contextmanager
def _cancelled_on_failure(failure: Failure, call: dataplane.DataCall) -> Iterator[None]:
    """Cancels a running call as soon as any part of the transfer fails."""
    done = threading.Event()

    def wait() -> None:
        with failure.changed:
            failure.changed.wait_for(lambda: failure.error is not None or done.is_set())
        if failure.error is not None:
            call.cancel()

    waiter = threading.Thread(target=wait, name="stream-cancel", daemon=True)
    waiter.start()
    try:
        yield
    finally:
        done.set()
        with failure.changed:
            failure.changed.notify_all()
        waiter.join()


class _Watchdog:
    """Fails a transfer in which nothing has been settled for too long."""

    def __init__(
        self, failure: Failure, meter: Meter, time: clock.Clock, settings: TransferSettings
    ) -> None:
        self._failure = failure
        self._meter = meter
        self._clock = time
        self._seconds_max = settings.stall_seconds_max

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the body runs."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,), name="watchdog", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event) -> None:
        seen, since = self._activity(), self._clock.monotonic()
        while not self._clock.wait(done, min(1.0, self._seconds_max / 4)):
            now = self._clock.monotonic()
            if self._activity() != seen:
                seen, since = self._activity(), now
            elif now - since > self._seconds_max:
                self._failure.fail(
                    errors.Unavailable(
                        "PEER_UNAVAILABLE", f"no data has moved for {self._seconds_max:.0f} s"
                    )
                )
                return

    def _activity(self) -> tuple[int, int]:
        return self._meter.settled_bytes, self._meter.wire_bytes
