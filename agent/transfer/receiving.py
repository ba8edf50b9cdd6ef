"""One session at the receiver: opens frames, settles them, then checks the whole.

Nothing from the wire is trusted: sizes and offsets are checked against the grant before memory is
taken, each leaf against its digest before it counts, and all of it against the sealed manifest
before a receipt is built. Files are closed only when no stream can write any more.

```
stream 0      offers -> Comparing -> answers
stream 1..N   frames -> Target (verify, write) -> Settler (sync, record) -> acknowledgements
```
"""

import datetime
import hmac
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
import zstandard
from google.protobuf.message import DecodeError

from agent import receipts
from agent.transfer import frames
from agent.transfer.comparing import Comparing
from agent.transfer.dataplane import Refused
from agent.transfer.flow import Failure
from agent.transfer.geometry import OFFER_STREAM
from agent.transfer.keys import Opener, SessionKeys
from agent.transfer.merkle import DigestKeys
from agent.transfer.settling import Settler, Written
from agent.transfer.tally import Tally
from agent.transfer.target import Record, Target
from watari import clock, errors, failpoint
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

OFFER_ANSWERED = failpoint.declare("agent.receiving.offer_answered")
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
    """Data streams, numbered from 1."""
    sender: SpiffeId
    opened_at: datetime.datetime
    """When the sender proved who it is."""
    dry_run: bool = False


class Receiving:
    """One session. Streams come in from the data port, `complete` from the control port."""

    def __init__(
        self, offer: Offer, keys: SessionKeys, disks: Sequence[Comparing], time: clock.Clock
    ) -> None:
        self.offer = offer
        self._keys = keys
        self._clock = time
        self._disks = disks
        self._failure = Failure()
        self._changed = self._failure.changed
        self._settler = Settler(self._failure, time)
        self._released = False
        first = OFFER_STREAM if self.seeds() else OFFER_STREAM + 1
        numbers = range(first, offer.streams + 1)
        self._tally = Tally(offer.session_id, offer.grant, numbers, self._failure, time)

    @property
    def migration_id(self) -> str:
        """The migration that the session serves."""
        return self.offer.grant.migration_id

    @property
    def problem(self) -> errors.WatariError | None:
        """What broke the session, if anything did."""
        return self._failure.error

    def seeds(self) -> list[agent_pb2.DiskSeed]:
        """What there is to compare with, for the disks that have anything."""
        specs = sorted(self.offer.grant.disks, key=lambda disk: disk.disk_id)
        return [
            agent_pb2.DiskSeed(
                disk_id=spec.disk_id, same_offset=disk.same_offset, any_offset=disk.any_offset
            )
            for spec, disk in zip(specs, self._disks, strict=True)
            if disk.same_offset or disk.any_offset
        ]

    def admits(self, number: int, proof: bytes) -> bool:
        """Whether a stream may begin: it is one of this session's, has not begun, and whoever opens
        it knows the session's keys. Never waits.
        """
        return self._tally.is_free(number) and hmac.compare_digest(
            proof, self._keys.stream_proof(number)
        )

    def stream(
        self, number: int, messages: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        """Settles the frames of one stream and yields what it is answered. Raises WatariError."""
        self._tally.enter(number, cut)
        try:
            if number == OFFER_STREAM:
                yield from self._answers(messages)
            else:
                yield from self._acknowledgements(number, messages)
        except Refused:
            raise
        except errors.WatariError as error:
            self.fail(error)
            raise
        except grpc.RpcError:
            return  # the sender or the network went away: not an error of the session's content
        finally:
            self._leave(number)

    def await_manifest(self, sealed_manifest: bytes) -> None:
        """Returns when just the frames that a manifest counts have come. Raises DataLoss."""
        manifest = self._read_manifest(sealed_manifest)
        self._tally.await_frames(manifest.stream_frames)

    def complete(self, sealed_manifest: bytes) -> common_pb2.Receipt:
        """Checks everything, flushes, and returns the receipt; after `await_manifest`. Raises
        DataLoss, Exhausted.
        """
        manifest = self._read_manifest(sealed_manifest)
        self._settler.close()
        self._failure.check()
        specs = sorted(self.offer.grant.disks, key=lambda disk: disk.disk_id)
        targets = [disk.target for disk in self._disks]
        receipt = receipts.build(
            self.offer.grant,
            self.offer.digest_keys,
            [(spec, target.tree) for spec, target in zip(specs, targets, strict=True)],
            self.offer.definition_xml,
            self._tally.wire_bytes,
        )
        if list(receipt.disks) != list(manifest.disks):
            raise errors.DataLoss("DIGEST_MISMATCH", "a disk differs from what the sender read")
        for target in targets:
            target.flush()
        failpoint.hit(FLUSHED)
        return receipt

    def idle_seconds(self) -> float:
        """Seconds since the last frame, or since the session was opened."""
        return self._clock.monotonic() - self._tally.active_at

    def fail(self, error: errors.WatariError) -> None:
        """Keeps the first error and ends all streams: the attempt is lost."""
        self._tally.fail(error)

    def progress(self) -> common_pb2.Progress:
        """What has arrived."""
        total = sum(disk.target.size for disk in self._disks)
        progress = common_pb2.Progress(
            total_bytes=total, wire_bytes=self._tally.wire_bytes, eta_seconds=-1.0
        )
        progress.measured_at.FromDatetime(self._clock.now())
        return progress

    @property
    def crossed_bytes(self) -> tuple[int, int]:
        """What has come: content before compression, and sealed bytes."""
        return self._tally.raw_bytes, self._tally.wire_bytes

    def close(self) -> None:
        """Cuts the streams and closes the files once nobody writes. Never raises."""
        self._tally.close(STREAM_END_SECONDS_MAX)
        self._settler.close()
        with self._changed:
            self._release()

    def _leave(self, number: int) -> None:
        if self._tally.leave(number):
            self._settler.close()
            with self._changed:
                self._release()

    def _release(self) -> None:
        """Closes the files when the last writer is gone; called with the lock held."""
        if self._tally.deserted and not self._released:
            self._released = True
            for disk in self._disks:
                disk.close()
                disk.target.close()

    def _answers(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        sealer, opener = self._keys.receiver_stream(OFFER_STREAM)
        for frame, _ in self._opened(OFFER_STREAM, messages, opener):
            match frame:
                case frames.ParentOffer():
                    answer, records = self._disk(frame.disk).parent(frame)
                case frames.LeavesOffer():
                    answer, records = self._disk(frame.disk).leaves(frame)
                case frames.End():
                    self._tally.end(OFFER_STREAM)
                    yield sealer.seal(frames.Ack(opener.frames, 0, final=True))
                    return
                case _:
                    raise frames.invalid(f"{type(frame).__name__} on the stream of offers")
            self._settler.add(
                Written(
                    OFFER_STREAM, opener.frames, 0, False, self._tally.active_at, tuple(records)
                )
            )
            failpoint.hit(OFFER_ANSWERED)
            yield sealer.seal(answer)

    def _acknowledgements(self, number: int, messages: Iterator[bytes]) -> Iterator[bytes]:
        """A thread of its own reads, because acknowledgements come when they come."""
        sealer, opener = self._keys.receiver_stream(number)
        gone = threading.Event()
        reader = threading.Thread(
            target=self._read, args=(number, messages, opener, gone), name="data-in", daemon=True
        )
        reader.start()
        try:
            for ack in self._settler.acknowledgements(number, gone):
                yield sealer.seal(ack)
            if gone.is_set():
                with self._changed:
                    self._tally.check_open()  # a session that was closed says so
                    if not opener.frames:
                        raise _not_begun(number)
        finally:
            if not opener.ended:
                self._tally.cut(number)
            reader.join()

    def _read(
        self, number: int, messages: Iterator[bytes], opener: Opener, gone: threading.Event
    ) -> None:
        settled = False
        try:
            self._settle_all(number, messages, opener)
            settled = True
        except Refused:
            pass  # it never was part of the session
        except errors.WatariError as error:
            self.fail(error)
        except grpc.RpcError:
            pass  # as in `stream`: not an error of the session's content
        except BaseException:
            self.fail(errors.Internal("INTERNAL", "receiving broke; see the agent's log"))
            raise
        finally:
            if not settled:  # in a session that was closed nothing else ends the acknowledgements
                gone.set()
                with self._changed:
                    self._changed.notify_all()

    def _settle_all(self, number: int, messages: Iterator[bytes], opener: Opener) -> None:
        decompressor = zstandard.ZstdDecompressor()
        sealed_bytes = 0
        for frame, message_bytes in self._opened(number, messages, opener):
            sealed_bytes += message_bytes
            arrived = self._clock.monotonic()
            records: Sequence[Record] = ()
            rejected: tuple[tuple[int, int], ...] = ()
            match frame:
                case frames.Data():
                    self._tally.add_content(frame.length)
                    records, leaves = self._target(frame.disk).data(frame, decompressor)
                    rejected = tuple((frame.disk, leaf) for leaf in leaves)
                case frames.Zeros():
                    self._target(frame.disk).zeros(frame.offset, frame.length)
                case frames.End():
                    pass
                case _:
                    raise frames.invalid(f"{type(frame).__name__} from the sender")
            ended = isinstance(frame, frames.End)
            self._settler.add(
                Written(
                    number, opener.frames, sealed_bytes, ended, arrived, tuple(records), rejected
                )
            )
            if ended:
                self._tally.end(number)
                return

    def _opened(
        self, number: int, messages: Iterator[bytes], opener: Opener
    ) -> Iterator[tuple[frames.Frame, int]]:
        """(frame, bytes of its message) of a stream until its end."""
        for message in messages:
            frame = self._open(number, message, opener)
            self._tally.count(number, opener.frames, len(message))
            yield frame, len(message)
        with self._changed:
            self._tally.check_open()  # a session that was closed has cut its streams
        if not opener.frames:
            raise _not_begun(number)
        raise frames.invalid("a stream ended without its final frame")

    @staticmethod
    def _open(number: int, message: bytes, opener: Opener) -> frames.Frame:
        """A frame. Who begins a stream with what does not open under its key is not the sender,
        however it got the proof: the stream is as if it had never begun.
        """
        try:
            return opener.open(message)
        except errors.DataLoss:
            if opener.frames:
                raise
            raise _not_begun(number) from None

    def _disk(self, number: int) -> Comparing:
        if number >= len(self._disks):
            raise frames.invalid(f"disk {number} of {len(self._disks)}")
        return self._disks[number]

    def _target(self, number: int) -> Target:
        return self._disk(number).target

    def _read_manifest(self, sealed: bytes) -> agent_pb2.Manifest:
        plain = self._keys.open_manifest(sealed)
        try:
            manifest = agent_pb2.Manifest.FromString(plain)
        except DecodeError:
            raise frames.invalid("the manifest cannot be read") from None
        if manifest.session_id != self.offer.session_id or self.offer.dry_run:
            raise frames.invalid("the manifest is of another session")
        return manifest


def _not_begun(number: int) -> Refused:
    return Refused(f"stream {number} began with nothing that opens under its key")
