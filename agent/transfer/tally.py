"""What came on each stream of a session: which have begun, which have ended, how much of what.

```
free -> begun, nothing counts yet -> frames counted -> ended
  ^                 |
  +-----------------+  it broke, or what came first was none of it
```

All is under the bell of the session's failure, which wakes who waits.
"""

from collections.abc import Callable, Sequence

from agent.transfer import frames
from agent.transfer.dataplane import Refused
from agent.transfer.flow import WAIT_SECONDS_MAX, Failure
from agent.transfer.meter import RECEIVED
from watari import clock, errors
from watari.v1 import common_pb2

MANIFEST_WAIT_SECONDS_MAX = 60.0
"""How long a manifest waits for the frames that it counts, which come on other connections, while
nothing comes.
"""


class Tally:
    """The streams of one session. May be used from any thread."""

    def __init__(
        self,
        session_id: str,
        grant: common_pb2.Grant,
        numbers: range,
        failure: Failure,
        time: clock.Clock,
    ) -> None:
        """`numbers` are those of the streams that there may be."""
        self._session_id = session_id
        self._grant = grant
        self._numbers = numbers
        self._failure = failure
        self._changed = failure.changed
        self._clock = time
        self._cuts: dict[int, Callable[[], object]] = {}
        self._frames: dict[int, int] = {}
        self._ended: set[int] = set()
        self._closed = False
        self.wire_bytes = 0
        """Messages of all streams together."""
        self.raw_bytes = 0
        """Content in them, before compression."""
        self.active_at = time.monotonic()
        """Of the last frame, or of the beginning."""

    def check_open(self) -> None:
        """Raises the session's error, NotFound SESSION_NOT_FOUND once it is closed."""
        self._failure.check()
        if self._closed:
            raise errors.NotFound(
                "SESSION_NOT_FOUND", "the session was closed", session=self._session_id
            )

    def is_free(self, number: int) -> bool:
        """Whether a stream may begin. Never waits."""
        alive = not self._closed and self._failure.error is None
        return alive and number in self._numbers and number not in self._frames

    def enter(self, number: int, cut: Callable[[], object]) -> None:
        """A stream begins. Raises Refused, or as `check_open`."""
        with self._changed:
            self.check_open()
            if not self.is_free(number):
                raise Refused(f"stream {number} of {self._numbers}, or a repeat of it")
            self._frames[number] = 0
            self._cuts[number] = cut

    def cut(self, number: int) -> None:
        """Ends a stream at once."""
        self._cuts[number]()

    def leave(self, number: int) -> bool:
        """A stream is over; whether it was the last one of a session that was closed."""
        with self._changed:
            del self._cuts[number]
            if not self._frames[number]:  # nothing of it counts, and the sender may begin it yet
                del self._frames[number]
            self._changed.notify_all()
            return self.deserted

    @property
    def deserted(self) -> bool:
        """Whether nobody writes and nobody will."""
        return self._closed and not self._cuts

    def count(self, number: int, frame_count: int, message_bytes: int) -> None:
        """One more frame came. Raises Denied GRANT_EXCEEDED, or as `check_open`."""
        with self._changed:
            self.check_open()
            self._frames[number] = frame_count
            self.wire_bytes += message_bytes
            RECEIVED.inc(message_bytes)
            self.active_at = self._clock.monotonic()
            if self.wire_bytes > self._grant.bytes_max:
                raise errors.Denied(
                    "GRANT_EXCEEDED",
                    f"more than the {self._grant.bytes_max} bytes that the grant allows",
                )

    def add_content(self, content_bytes: int) -> None:
        """So much content was in a frame."""
        with self._changed:
            self.raw_bytes += content_bytes

    def end(self, number: int) -> None:
        """The final frame of a stream came."""
        with self._changed:
            self._ended.add(number)
            self._changed.notify_all()

    def await_frames(self, expected: Sequence[int]) -> None:
        """Returns when just these frames have come, by stream number, and all streams ended. Raises
        DataLoss FRAME_INVALID, or as `check_open`.
        """
        began = self._clock.monotonic()
        counted = {number: count for number, count in enumerate(expected) if count}
        with self._changed:
            while not counted.keys() <= self._ended:
                self.check_open()
                since = max(began, self.active_at)
                left = since + MANIFEST_WAIT_SECONDS_MAX - self._clock.monotonic()
                if left <= 0:
                    raise frames.invalid(
                        f"streams {sorted(counted.keys() - self._ended)} did not end"
                    )
                self._changed.wait(min(left, WAIT_SECONDS_MAX))
            self.check_open()
            if self._frames != counted or self._frames.keys() - self._ended:
                raise frames.invalid("the manifest is about other frames than those that arrived")

    def fail(self, error: errors.WatariError) -> None:
        """Keeps the first error and ends all streams: the attempt is lost."""
        with self._changed:
            if not self._closed:
                self._failure.fail(error)
            self._cut_all()

    def close(self, wait_seconds_max: float) -> None:
        """Cuts the streams and waits until they are over; first for last words, if there are any on
        their way.
        """
        with self._changed:
            if self._frames and self._frames.keys() == self._ended:
                self._changed.wait_for(lambda: not self._cuts, wait_seconds_max)
            self._closed = True
            self._cut_all()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._cuts, wait_seconds_max)

    def _cut_all(self) -> None:
        for cut in self._cuts.values():
            cut()
