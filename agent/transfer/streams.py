"""Connections at the sender. A data stream seals frames within credit and cap and takes
acknowledgements; the stream of offers takes answers.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from agent.transfer import dataplane, frames
from agent.transfer.board import Board, Offered
from agent.transfer.flow import WAIT_SECONDS_MAX, Channel, Credit, Failure, Throttle
from agent.transfer.frames import Verdict
from agent.transfer.geometry import LEAF_BYTES, leaf_bytes, masked_bytes
from agent.transfer.keys import Opener, SessionKeys
from agent.transfer.meter import Meter
from watari import clock, errors, failpoint

FRAMES_AHEAD_FIRST = 2
"""Frames that a stream may have unsettled before anything is known about it: one on its way, and
one behind it. Later it may always have one.
"""

HORIZON_SECONDS, HORIZON_ROUND_TRIPS = 0.4, 3.0
"""Beyond that a stream takes no frame that it would not get through in so long at its own pace. A
stream that a loss slowed down would else sit on frames while the others have nothing left to do.
"""

PACE_SECONDS = 1.0
"""Time over which the pace of a stream is measured."""

FRAME_SENT = failpoint.declare("agent.sending.frame_sent")


class StreamBroken(errors.Unavailable):
    """A data stream ended too early. Why, only the receiver's control port can say."""


class Cancellable(Protocol):
    """A call that is under way."""

    def cancel(self) -> bool:
        """Ends it at once."""


@dataclass(frozen=True)
class Flow:
    """What all streams of a session share."""

    session_id: str
    keys: SessionKeys
    bytes_max: int
    """What may be sent on all streams together."""
    queue: Channel[frames.Content]
    offers: Channel[frames.Frame]
    board: Board
    credit: Credit
    throttle: Throttle
    pacer: Throttle
    """Keeps what credit lets go at once from flooding the queues on the way."""
    meter: Meter
    failure: Failure
    clock: clock.Clock
    streams_used: Callable[[], int]
    """How many of the streams carry frames at the moment."""
    held: Callable[[float, float], None]
    """Told how many seconds a frame was at the receiver, and how many since it was sealed."""
    timeout_seconds: float
    """Deadline of a stream."""


class _Stream(ABC):
    """One connection: what it seals is made by `_outgoing`, what comes back is taken by `_take`."""

    def __init__(self, flow: Flow, number: int, channel: grpc.Channel) -> None:
        self._flow = flow
        self._channel = channel
        proof = flow.keys.stream_proof(number)
        self._id = dataplane.StreamId(flow.session_id, number, proof)
        self._sealer, self._opener = flow.keys.sender_stream(number)
        self._over = threading.Event()
        self.sealed = threading.Event()
        """Set once the final frame has been sealed: `frames_sealed` is the last word then."""

    @property
    def frames_sealed(self) -> int:
        """Frames sealed so far."""
        return self._sealer.frames

    def run(self) -> None:
        """Returns when the receiver has settled the final frame. Raises the first error."""
        call = dataplane.open_stream(
            self._channel, self._id, self._messages(), self._flow.timeout_seconds
        )
        try:
            with cancelled_on_failure(self._flow.failure, call):
                self._answers(call, self._opener)
        except grpc.RpcError as error:
            self._flow.failure.check()
            cause = errors.from_rpc_error(error)
            raise StreamBroken(
                "PEER_ERROR", f"a data stream broke: {cause.message}", cause=cause.reason
            ) from error
        finally:
            self._over.set()

    def _messages(self) -> Iterator[bytes]:
        """What gRPC sends, in a thread of its own; ends early once there is an error."""
        try:
            yield from self._outgoing()
            last = self._sealer.seal(frames.End())
            self._account(len(last))
            self._ending(last)
            self.sealed.set()
            with self._flow.failure.changed:
                self._flow.failure.changed.notify_all()
            yield last  # after which gRPC may never come back, when the receiver was quick
        except errors.WatariError as error:
            self._flow.failure.fail(error)
            # The call is cancelled now. An end of the messages would come to the receiver as a
            # stream that was cut short, and its complaint would hide the reason.
            self._over.wait(WAIT_SECONDS_MAX)

    def _account(self, message_bytes: int, offered: int = 0) -> None:
        """Counts a message before it goes. Raises Denied GRANT_EXCEEDED."""
        self._flow.meter.add(wire=message_bytes, offered_wire=offered)
        if self._flow.meter.wire_bytes > self._flow.bytes_max:
            raise errors.Denied(
                "GRANT_EXCEEDED",
                f"more than the {self._flow.bytes_max} bytes that the grant allows",
            )

    def _answers(self, call: dataplane.DataCall, opener: Opener) -> None:
        for message in call:
            self._take(opener.open(message))
        if not opener.ended:
            raise StreamBroken("PEER_ERROR", "the receiver ended a data stream early")

    def _ending(self, message: bytes) -> None:  # noqa: B027 - most have nothing to do
        """Called with the last message before it goes."""

    @abstractmethod
    def _outgoing(self) -> Iterator[bytes]:
        """The messages of this stream, until there are no more."""

    @abstractmethod
    def _take(self, frame: frames.Frame) -> None:
        """Takes what the receiver says. Raises DataLoss FRAME_INVALID."""


class DataStream(_Stream):
    """Carries content."""

    def __init__(self, flow: Flow, number: int, channel: grpc.Channel) -> None:
        super().__init__(flow, number, channel)
        self._unsettled: dict[int, tuple[frames.Frame, float]] = {}
        self._settled_frames = 0
        self._settled_bytes = 0
        self._outstanding_bytes = 0
        self._lately: deque[tuple[float, int]] = deque()
        self._refused_at: float | None = None
        self._horizon = HORIZON_SECONDS + HORIZON_ROUND_TRIPS * flow.meter.round_trip_seconds

    def _outgoing(self) -> Iterator[bytes]:
        while (frame := self._flow.queue.get(self._wanted)) is not None:
            yield self._seal(frame)

    def _ending(self, message: bytes) -> None:
        """Its bytes are acknowledged like any other's, so they take credit too."""
        self._flow.credit.take(len(message))

    def _wanted(self, frame: frames.Content) -> bool:
        """Whether this stream takes a frame now, with the credit for it: a stream that took one and
        then waited for credit would keep it from the others, and the largest would wait longest.
        """
        if not self._has_room():
            return False
        if self._flow.credit.try_take(frames.message_bytes(frame)):
            return True
        if self._refused_at is None:
            self._refused_at = self._flow.clock.monotonic()
        return False

    def _has_room(self) -> bool:
        """Not while other streams are enough, nor while what this one has will keep it busy longer
        than it takes the others.
        """
        if self._id.number > self._flow.streams_used():
            return False
        waiting = len(self._unsettled)
        least = 1 if self._settled_bytes else FRAMES_AHEAD_FIRST
        return waiting < least or self._outstanding_bytes < self._pace() * self._horizon

    def _pace(self) -> float:
        """Bytes per second that this stream got through lately."""
        now = self._flow.clock.monotonic()
        while self._lately and now - self._lately[0][0] > PACE_SECONDS:
            self._lately.popleft()
        return sum(each for _, each in self._lately) / PACE_SECONDS

    def _seal(self, frame: frames.Content) -> bytes:
        message = self._sealer.seal(frame)
        self._outstanding_bytes += len(message)
        now, refused_at = self._flow.clock.monotonic(), self._refused_at
        began, self._refused_at = now if refused_at is None else refused_at, None
        self._flow.throttle.pace(len(message))
        self._flow.pacer.pace(len(message))
        sealed_at = self._flow.clock.monotonic()
        self._unsettled[self._sealer.frames] = _without_content(frame), sealed_at
        self._flow.meter.add_busy(away=sealed_at - began)
        self._account(len(message))
        if isinstance(frame, frames.Data):
            self._flow.meter.add(carried=frame.length)
        failpoint.hit(FRAME_SENT)
        return message

    def _take(self, frame: frames.Frame) -> None:
        if not isinstance(frame, frames.Ack) or not (
            self._settled_frames <= frame.frames <= self._sealer.frames
        ):
            raise frames.invalid("the receiver settles what was never sent")
        for disk, leaf in frame.rejected:
            self._reject(disk, leaf)
        self._flow.credit.give_back(frame.sealed_bytes - self._settled_bytes)
        self._flow.meter.add(
            settled_wire=frame.sealed_bytes - self._settled_bytes,
            settled_frames=frame.frames - self._settled_frames,
        )
        settled = frame.sealed_bytes - self._settled_bytes
        self._outstanding_bytes -= settled
        now = self._flow.clock.monotonic()
        self._lately.append((now, settled))
        self._settled_bytes = frame.sealed_bytes
        sealed_at = now
        while self._settled_frames < frame.frames:
            self._settled_frames += 1
            sent, sealed_at = self._unsettled.pop(self._settled_frames, (frames.End(), sealed_at))
            if isinstance(sent, frames.Data | frames.Zeros):
                self._flow.meter.add(settled=sent.length)
            if isinstance(sent, frames.Data):
                first = sent.offset // LEAF_BYTES
                leaves = range(first, first + len(sent.masks))
                found = self._flow.board.settled(sent.disk, leaves)
                self._flow.meter.add(deduplicated=found, settled=found)
        if sealed_at < now:
            self._flow.held(frame.held_microseconds / 1e6, now - sealed_at)

    def _reject(self, disk: int, leaf: int) -> None:
        """Counts a leaf that has to be sent whole; what was sent of it is not settled."""
        if not self._has_sent(disk, leaf):
            raise frames.invalid(f"leaf {leaf} is rejected, of which nothing was sent here")
        offered, mask = self._flow.board.rejected(disk, leaf)
        length = leaf_bytes(offered.length, leaf * LEAF_BYTES - offered.offset)
        sent = masked_bytes(mask, length)
        self._flow.meter.add(needed=length - sent, settled=-sent)

    def _has_sent(self, disk: int, leaf: int) -> bool:
        """Whether blocks of a leaf are in a frame of this stream that is not settled yet."""
        for sent, _ in list(self._unsettled.values()):
            if isinstance(sent, frames.Data) and sent.disk == disk:
                index = leaf - sent.offset // LEAF_BYTES
                if 0 <= index < len(sent.masks) and sent.masks[index]:
                    return True
        return False


class OfferStream(_Stream):
    """Carries offers, and takes what the receiver says to them."""

    def _outgoing(self) -> Iterator[bytes]:
        while (frame := self._flow.offers.get()) is not None:
            message = self._sealer.seal(frame)
            self._account(len(message), offered=len(message))
            yield message

    def _take(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Ack) and frame.final:
            return
        if not isinstance(frame, frames.Answer):
            raise frames.invalid("no answer on the stream of offers")
        offered, verdict = self._flow.board.answered(frame)
        if verdict is not Verdict.OPEN:
            self._count(offered, frame.masks)

    def _count(self, offered: Offered, masks: tuple[int, ...]) -> None:
        """Leaves that the receiver has are settled with its answer; those that it has blocks of
        once the others are there. In a dry run nothing is ever sent, so all counts at once.
        """
        needed = zeros = 0
        found = 0 if offered.digests else offered.length
        for index, digest in enumerate(offered.digests):
            length = leaf_bytes(offered.length, index * LEAF_BYTES)
            mask = masks[index] if masks else 0
            wanted = masked_bytes(mask, length) if mask else 0
            needed += wanted
            if digest is None:
                zeros += length
            elif not wanted or self._flow.board.dry_run:
                found += length - wanted
        self._flow.meter.add(needed=needed, deduplicated=found, settled=found + zeros)


def _without_content(frame: frames.Frame) -> frames.Frame:
    """What has to be remembered of a frame until it is settled."""
    if not isinstance(frame, frames.Data):
        return frame
    return frames.Data(frame.disk, frame.offset, frame.length, frame.masks, b"", b"", False)


@contextmanager
def cancelled_on_failure(failure: Failure, call: Cancellable) -> Iterator[None]:
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
