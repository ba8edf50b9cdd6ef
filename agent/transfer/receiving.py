"""One session at the receiver: opens, decompresses, verifies and writes, then checks the whole.

Nothing from the wire is trusted: sizes and offsets are checked against the grant before memory is
taken, each leaf against its digest before it is written, and all of it against the sealed manifest
before a receipt is built. Files are closed only when no stream can write any more.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import zstandard
from google.protobuf.message import DecodeError

from agent import receipts
from agent.disks.raw import RawWriter
from agent.transfer import frames
from agent.transfer.geometry import LEAF_BYTES
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from watari import clock, errors, failpoint
from watari.v1 import agent_pb2, common_pb2

FRAME_WRITTEN = failpoint.declare("agent.receiving.frame_written")
FLUSHED = failpoint.declare("agent.receiving.flushed")

STREAM_END_SECONDS_MAX = 10.0
"""How long closing a session waits for its streams to stop writing."""


@dataclass(frozen=True)
class Offer:
    """What a session was opened with, checked."""

    session_id: str
    grant: common_pb2.Grant
    definition_xml: str
    digest_keys: DigestKeys
    streams: int


class Receiving:
    """One session. Streams come in from the data port, `complete` from the control port."""

    def __init__(
        self,
        offer: Offer,
        keys: SessionKeys,
        folder: Path,
        file_name: Callable[[str], str],
        time: clock.Clock,
    ) -> None:
        self.offer = offer
        self.problem: errors.WatariError | None = None
        self._keys = keys
        self._digest_keys = offer.digest_keys
        self._clock = time
        self._changed = threading.Condition()
        self._cuts: dict[int, Callable[[], object]] = {}
        self._frames: dict[int, int] = {}
        self._ended: set[int] = set()
        self._closed = False
        self._released = False
        self._wire_bytes = 0
        self._active_at = time.monotonic()
        self._specs = sorted(offer.grant.disks, key=lambda disk: disk.disk_id)
        self._trees = [DiskTree(self._digest_keys, disk.size_bytes) for disk in self._specs]
        self._writers: list[RawWriter] = []
        try:
            for disk in self._specs:
                self._writers.append(RawWriter(folder / file_name(disk.disk_id), disk.size_bytes))
        except errors.WatariError:
            self.close()
            raise

    @property
    def migration_id(self) -> str:
        """The migration that the session serves."""
        return self.offer.grant.migration_id

    def stream(
        self, number: int, messages: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        """Settles the frames of one stream and yields acknowledgements. Raises WatariError."""
        self._enter(number, cut)
        try:
            yield from self._settle_all(number, messages)
        except errors.WatariError as error:
            self._fail(error)
            raise
        except grpc.RpcError:
            return  # the sender or the network went away: not an error of the session's content
        finally:
            self._leave(number)

    def complete(self, sealed_manifest: bytes) -> common_pb2.Receipt:
        """Checks everything, flushes, and returns the receipt. Raises DataLoss, Exhausted."""
        manifest = self._read_manifest(self._keys.open_manifest(sealed_manifest))
        with self._changed:
            self._check_open()
            counted = [self._frames.get(number, 0) for number in range(self.offer.streams)]
            unfinished = self._frames.keys() - self._ended
        if unfinished:  # a frame that is counted may not be written yet
            raise frames.invalid(f"the manifest came before the end of streams {unfinished}")
        if list(manifest.stream_frames) != counted or manifest.session_id != self.offer.session_id:
            raise frames.invalid("the manifest is about other frames than those that arrived")
        trees = list(zip(self._specs, self._trees, strict=True))
        receipt = receipts.build(
            self.offer.grant,
            self._digest_keys,
            trees,
            self.offer.definition_xml,
            self._wire_bytes,
        )
        if list(receipt.disks) != list(manifest.disks):
            raise errors.DataLoss("DIGEST_MISMATCH", "a disk differs from what the sender read")
        for writer in self._writers:
            writer.flush()
        failpoint.hit(FLUSHED)
        return receipt

    def idle_seconds(self) -> float:
        """Seconds since the last frame, or since the session was opened."""
        return self._clock.monotonic() - self._active_at

    def progress(self) -> common_pb2.Progress:
        """What has arrived."""
        total = sum(disk.size_bytes for disk in self._specs)
        progress = common_pb2.Progress(
            total_bytes=total, wire_bytes=self._wire_bytes, eta_seconds=-1.0
        )
        progress.measured_at.FromDatetime(self._clock.now())
        return progress

    def close(self) -> None:
        """Cuts the streams and closes the files once nobody writes. Never raises."""
        with self._changed:
            self._closed = True
            for cut in self._cuts.values():
                cut()
            self._changed.wait_for(lambda: not self._cuts, STREAM_END_SECONDS_MAX)
            self._release()

    def _enter(self, number: int, cut: Callable[[], object]) -> None:
        with self._changed:
            self._check_open()
            if number >= self.offer.streams or number in self._frames:
                raise frames.invalid(f"stream {number} of {self.offer.streams}, or a repeat of it")
            self._frames[number] = 0
            self._cuts[number] = cut

    def _leave(self, number: int) -> None:
        with self._changed:
            del self._cuts[number]
            if self._closed:
                self._release()
            self._changed.notify_all()

    def _release(self) -> None:
        """Closes the files when the last writer is gone; called with the lock held."""
        if not self._cuts and not self._released:
            self._released = True
            for writer in self._writers:
                writer.close()

    def _check_open(self) -> None:
        if self.problem is not None:
            raise self.problem
        if self._closed:
            raise errors.NotFound(
                "SESSION_NOT_FOUND", "the session was closed", session=self.offer.session_id
            )

    def _fail(self, error: errors.WatariError) -> None:
        """Keeps the first error and ends the other streams: the attempt is lost."""
        with self._changed:
            if self.problem is None and not self._closed:
                self.problem = error
            for cut in self._cuts.values():
                cut()

    def _settle_all(self, number: int, messages: Iterator[bytes]) -> Iterator[bytes]:
        sealer, opener = self._keys.receiver_stream(number)
        decompressor = zstandard.ZstdDecompressor()
        sealed_bytes = 0
        for message in messages:
            frame = opener.open(message)
            sealed_bytes += len(message)
            self._count(number, opener.frames, len(message))
            self._settle(frame, decompressor)
            failpoint.hit(FRAME_WRITTEN)
            if opener.ended:
                self._ended.add(number)
            yield sealer.seal(frames.Ack(opener.frames, sealed_bytes, final=opener.ended))
            if opener.ended:
                return
        raise frames.invalid("a stream ended without its final frame")

    def _count(self, number: int, frame_count: int, message_bytes: int) -> None:
        with self._changed:
            self._check_open()
            self._frames[number] = frame_count
            self._wire_bytes += message_bytes
            self._active_at = self._clock.monotonic()
            if self._wire_bytes > self.offer.grant.bytes_max:
                raise errors.Denied(
                    "GRANT_EXCEEDED",
                    f"more than the {self.offer.grant.bytes_max} bytes that the grant allows",
                )

    def _settle(self, frame: frames.Frame, decompressor: zstandard.ZstdDecompressor) -> None:
        match frame:
            case frames.Data():
                self._check_range(frame.disk, frame.offset, frame.length)
                content = _content(frame, decompressor)
                self._verify(frame, content)
                self._writers[frame.disk].write(frame.offset, content)
            case frames.Zeros():
                self._check_range(frame.disk, frame.offset, frame.length)
                self._trees[frame.disk].put_zeros(frame.offset, frame.length)
            case frames.Ack():
                raise frames.invalid("an acknowledgement from the sender")
            case frames.End():
                pass

    def _check_range(self, disk: int, offset: int, length: int) -> None:
        """A frame must lie within its disk and end on a leaf or at the disk's end."""
        size = self._specs[disk].size_bytes if disk < len(self._specs) else -1
        end = offset + length
        if not 0 < length <= end <= size or (end % LEAF_BYTES and end != size):
            raise frames.invalid(f"{length} bytes at {offset} of disk {disk} with {size} bytes")

    def _verify(self, frame: frames.Data, content: bytes) -> None:
        digests = self._digest_keys.leaves(content)
        if b"".join(digests) != frame.digests:
            raise errors.DataLoss(
                "DIGEST_MISMATCH",
                f"a leaf of disk {frame.disk} near {frame.offset} is not what the sender read",
                hint="check the memory and the storage of both hosts",
            )
        self._trees[frame.disk].put_leaves(frame.offset, digests)

    def _read_manifest(self, plain: bytes) -> agent_pb2.Manifest:
        try:
            return agent_pb2.Manifest.FromString(plain)
        except DecodeError:
            raise frames.invalid("the manifest cannot be read") from None


def _content(frame: frames.Data, decompressor: zstandard.ZstdDecompressor) -> bytes:
    """The content of a frame; its announced size is checked before memory is taken for it."""
    if not frame.compressed:
        return frame.body
    try:
        announced = zstandard.frame_content_size(frame.body)
        if announced != frame.length:
            raise frames.invalid(f"zstd announces {announced} bytes, the header {frame.length}")
        content = decompressor.decompress(frame.body, max_output_size=frame.length)
    except zstandard.ZstdError as error:
        raise frames.invalid(f"zstd: {error}") from error
    if len(content) != frame.length:
        raise frames.invalid(f"zstd gave {len(content)} bytes of {frame.length}")
    return content
