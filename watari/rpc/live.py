"""A channel that outlives certificates: stubs that are made once call on the connection of now.

A connection shows the certificate that was in force when it was made. Its peer looks at that one
with every call, and refuses it once it has run out. So every call asks for the channel of now;
calls and streams that run stay on the connection that they began on.
"""

from collections.abc import Callable
from typing import Any

import grpc

from watari import errors

_Make = Callable[[grpc.Channel], Any]


class LiveChannel(grpc.Channel):
    """Stands for the channel that `current` gives at the time of a call, and raises its errors."""

    def __init__(self, current: Callable[[], grpc.Channel]) -> None:
        self._asked = current
        self._last: grpc.Channel | None = None

    def parting(self) -> grpc.Channel:
        """The channel of now; the one before where its peer is not trusted any more. For telling it
        that something has ended, and nothing else. Raises Unauthenticated when there was none.
        """
        try:
            return self._current()
        except errors.Unauthenticated:
            if self._last is None:
                raise
            return self._last

    def _current(self) -> grpc.Channel:
        self._last = self._asked()
        return self._last

    def unary_unary(self, method: str, *rest: Any, **named: Any) -> Any:
        return _LiveMethod(
            self._current, lambda channel: channel.unary_unary(method, *rest, **named)
        )

    def unary_stream(self, method: str, *rest: Any, **named: Any) -> Any:
        return _LiveMethod(
            self._current, lambda channel: channel.unary_stream(method, *rest, **named)
        )

    def stream_unary(self, method: str, *rest: Any, **named: Any) -> Any:
        return _LiveMethod(
            self._current, lambda channel: channel.stream_unary(method, *rest, **named)
        )

    def stream_stream(self, method: str, *rest: Any, **named: Any) -> Any:
        return _LiveMethod(
            self._current, lambda channel: channel.stream_stream(method, *rest, **named)
        )

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool | None = False) -> None:
        self._current().subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        self._current().unsubscribe(callback)

    def close(self) -> None:
        """Nothing: channels are let go by whoever gives them out."""

    def __enter__(self) -> "LiveChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LiveMethod:
    """A method of a stub, of whichever kind."""

    def __init__(self, current: Callable[[], grpc.Channel], make: _Make) -> None:
        self._current = current
        self._make = make
        self._made: tuple[grpc.Channel, Any] | None = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._method()(*arguments, **named)

    def future(self, *arguments: Any, **named: Any) -> Any:
        """As gRPC's own."""
        return self._method().future(*arguments, **named)

    def with_call(self, *arguments: Any, **named: Any) -> Any:
        """As gRPC's own."""
        return self._method().with_call(*arguments, **named)

    def _method(self) -> Any:
        channel, made = self._current(), self._made
        if made is None or made[0] is not channel:
            made = self._made = (channel, self._make(channel))
        return made[1]
