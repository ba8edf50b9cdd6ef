"""The streams of a session at its sender: started when they are wanted, waited for together."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import grpc

from agent.transfer.dataplane import Connections
from agent.transfer.flow import WAIT_SECONDS_MAX, Failure
from agent.transfer.geometry import OFFER_STREAM
from agent.transfer.streams import DataStream, Flow, OfferStream
from watari import errors


class Crew:
    """The streams of a session, more of them as it goes on."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        flow: Flow,
        connections: Connections,
        streams_max: int,
    ) -> None:
        self._pool = pool
        self._flow = flow
        self._connections = connections
        self._streams_max = streams_max
        self._streams: dict[int, DataStream | OfferStream] = {}
        self._channels: list[grpc.Channel] = []
        self._running: list[Future[None]] = []

    def start_offers(self) -> None:
        """Starts the stream of offers."""
        self._start(OFFER_STREAM, OfferStream(self._flow, OFFER_STREAM, self._channel()))

    def grow(self, streams: int) -> None:
        """Starts data streams until there are `streams`."""
        for number in range(1, min(streams, self._streams_max) + 1):
            if number not in self._streams:
                self._start(number, DataStream(self._flow, number, self._channel()))

    def await_sealed(self) -> None:
        """Returns when every stream has sealed its last frame. Raises the first error."""
        with self._flow.failure.changed:
            while not all(each.sealed.is_set() for each in list(self._streams.values())):
                self._flow.failure.check()
                self._flow.failure.changed.wait(WAIT_SECONDS_MAX)

    def frames_sealed(self) -> list[int]:
        """Frames of each stream by number, 0 for one that was never started."""
        last = max(self._streams)
        found = [self._streams.get(number) for number in range(last + 1)]
        return [each.frames_sealed if each is not None else 0 for each in found]

    @property
    def settled(self) -> bool:
        """Whether all streams have ended, the last frame of each acknowledged."""
        return all(each.done() for each in list(self._running))

    def join(self) -> None:
        """Returns when all streams have ended; what they ran on may be used again."""
        for each in self._running:
            each.result()
        if self._flow.failure.error is None:
            self._connections.give_back(self._channels)

    def _channel(self) -> grpc.Channel:
        channel = self._connections.take()
        self._channels.append(channel)
        return channel

    def _start(self, number: int, stream: DataStream | OfferStream) -> None:
        self._streams[number] = stream
        self._running.append(self._pool.submit(guarded, self._flow.failure, stream.run))


def guarded(failure: Failure, part: Callable[[], None]) -> None:
    """Runs a part; its error becomes the transfer's, unless there is one already."""
    try:
        part()
    except errors.WatariError as error:
        failure.fail(error)
    except BaseException:
        failure.fail(errors.Internal("INTERNAL", "a part of the transfer broke"))
        raise
