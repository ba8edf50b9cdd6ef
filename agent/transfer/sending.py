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
from dataclasses import dataclass

import zstandard

from agent.disks.extents import extents
from agent.disks.raw import RawReader
from agent.settings import TransferSettings
from agent.transfer import frames, plan
from agent.transfer.flow import Channel, Credit, Failure, Throttle
from agent.transfer.geometry import LEAF_BYTES
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.meter import Meter
from agent.transfer.streams import Flow, Route, Stream
from agent.transfer.watchdog import Watchdog
from watari import clock, errors


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
        flow = self._flow(route)
        streams = [Stream(flow, route, keys, number) for number in range(route.streams)]
        watchdog = Watchdog(
            self._failure, self._meter, self._clock, self._settings.stall_seconds_max
        )
        with ThreadPoolExecutor(len(streams), thread_name_prefix="stream") as stream_pool:
            running = [stream_pool.submit(self._guard, stream.run) for stream in streams]
            with watchdog.watching():
                self._produce()
                for each in running:
                    each.result()
            self._failure.check()
        return [stream.frames_sealed for stream in streams]

    def _flow(self, route: Route) -> Flow:
        return Flow(
            self._channel,
            Credit(self._failure, min(route.credit_bytes, self._settings.credit_bytes)),
            self._throttle,
            self._meter,
            self._failure,
            self._clock,
            self._settings.transfer_seconds_max,
        )

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
