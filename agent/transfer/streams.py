"""One data connection at the sender: seals frames within credit and cap, takes acknowledgements."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from agent.transfer import dataplane, frames
from agent.transfer.flow import Channel, Credit, Failure, Throttle
from agent.transfer.keys import Opener, SessionKeys
from agent.transfer.meter import Meter
from watari import clock, errors, failpoint

FRAME_SENT = failpoint.declare("agent.sending.frame_sent")


class StreamBroken(errors.Unavailable):
    """A data stream ended too early. Why, only the receiver's control port can say."""


class Cancellable(Protocol):
    """A call that is under way."""

    def cancel(self) -> bool:
        """Ends it at once."""


@dataclass(frozen=True)
class Route:
    """Where the frames go, and what the receiver allows."""

    session_id: str
    data_address: str
    streams: int
    credit_bytes: int


@dataclass(frozen=True)
class Flow:
    """What all streams of a session share."""

    frames: Channel[frames.Frame]
    credit: Credit
    throttle: Throttle
    meter: Meter
    failure: Failure
    clock: clock.Clock
    timeout_seconds: float
    """Deadline of a stream."""


class Stream:
    """One data connection."""

    def __init__(self, flow: Flow, route: Route, keys: SessionKeys, number: int) -> None:
        self._flow = flow
        self._route = route
        self._id = dataplane.StreamId(route.session_id, number)
        self._sealer, self._opener = keys.sender_stream(number)
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
                channel, self._id, self._messages(), self._flow.timeout_seconds
            )
            with cancelled_on_failure(self._flow.failure, call):
                try:
                    self._acknowledgements(call, self._opener)
                except grpc.RpcError as error:
                    self._flow.failure.check()
                    cause = errors.from_rpc_error(error)
                    raise StreamBroken(
                        "PEER_ERROR", f"a data stream broke: {cause.message}", cause=cause.reason
                    ) from error

    def _messages(self) -> Iterator[bytes]:
        """What gRPC sends, in a thread of its own; ends early once there is an error."""
        try:
            while (frame := self._flow.frames.get()) is not None:
                yield self._seal(frame)
            yield self._seal(frames.End())
        except errors.WatariError as error:
            self._flow.failure.fail(error)

    def _seal(self, frame: frames.Frame) -> bytes:
        message = self._sealer.seal(frame)
        self._unsettled[self._sealer.frames] = _content_bytes(frame)
        began = self._flow.clock.monotonic()
        self._flow.credit.take(len(message))
        self._flow.throttle.pace(len(message))
        self._flow.meter.add_busy(network=self._flow.clock.monotonic() - began)
        self._flow.meter.add(wire=len(message))
        failpoint.hit(FRAME_SENT)
        return message

    def _acknowledgements(self, call: dataplane.DataCall, opener: Opener) -> None:
        for message in call:
            ack = opener.open(message)
            if not isinstance(ack, frames.Ack) or ack.frames > self._sealer.frames:
                raise frames.invalid("the receiver settles what was never sent")
            self._flow.credit.give_back(ack.sealed_bytes - self._settled_bytes)
            self._settled_bytes = ack.sealed_bytes
            while self._settled_frames < ack.frames:
                self._settled_frames += 1
                self._flow.meter.add(settled=self._unsettled.pop(self._settled_frames))
        if not opener.ended:
            raise StreamBroken("PEER_ERROR", "the receiver ended a data stream early")


def _content_bytes(frame: frames.Frame) -> int:
    return frame.length if isinstance(frame, frames.Data | frames.Zeros) else 0


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
