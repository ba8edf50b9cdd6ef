"""Calls to one server: deadlines, repetition, and errors that name who did not answer.

Every call has its deadline. Only reading is repeated after a passing fault; what changes something
is repeated by the user, with the same id.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import grpc

from watari import errors, rpc
from watari.retry import Backoff
from watari.settings import EndpointSettings

READ_BACKOFF = Backoff(initial_seconds=0.1, attempts_max=3)
"""Bridges a dropped connection; a server that is down is reported at once."""

DETAIL_CHARS_MAX = 300
"""Of what gRPC says about a connection that fails."""

ITEMS_MAX = 100_000
"""Entries of one list that are fetched: bounds the command's memory."""

PAGE_SIZE = 500
"""Entries that are asked for at a time."""

_REFUSED = "Connection refused"
_STATUS_DETAILS_KEY = "grpc-status-details-bin"

_Item = TypeVar("_Item")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True)
class Peer:
    """A server, by what people call it, and how long its answers may take."""

    title: str
    endpoint: EndpointSettings
    channel: grpc.Channel
    call_seconds_max: float

    def read(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request
    ) -> _Response:
        """The response of a call that changes nothing. Raises WatariError."""
        return self._call(method, request, idempotent=True)

    def change(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request
    ) -> _Response:
        """The response of a call that changes something. Raises WatariError."""
        return self._call(method, request, idempotent=False)

    def patient(self, seconds_max: float) -> "Peer":
        """The same server, whose answers may take so long."""
        return replace(self, call_seconds_max=seconds_max)

    def named(self, error: errors.WatariError) -> errors.WatariError:
        """The error, saying who did not answer where gRPC only says that a connection failed."""
        if not isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
            return error
        if _is_from_peer(error):
            return error
        problem = f"gave no answer in {self.call_seconds_max:g} s"
        if isinstance(error, errors.Unavailable):
            problem = "cannot be reached"
            if _REFUSED not in error.message:  # such as a certificate that has run out
                problem += f": {error.message[:DETAIL_CHARS_MAX]}"
        return type(error)(
            error.reason,
            f"{self.title} at {self.endpoint.address} {problem}",
            hint="`watari status` shows what runs, `watari up` starts what does not",
            peer=self.endpoint.spiffe_id,
            address=self.endpoint.address,
            detail=error.message,
        )

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        *,
        idempotent: bool,
    ) -> _Response:
        try:
            return rpc.call(
                method,
                request,
                timeout_seconds=self.call_seconds_max,
                idempotent=idempotent,
                backoff=READ_BACKOFF,
            )
        except errors.WatariError as error:
            raise self.named(error) from error


def _is_from_peer(error: errors.WatariError) -> bool:
    """Whether the server itself said so, and not our side of the connection."""
    # An RpcError that a call raises is a grpc.Call too; the type stubs do not say so.
    cause = error.__cause__
    if not isinstance(cause, grpc.RpcError):
        return True
    metadata: Any = cast("grpc.Call", cause).trailing_metadata()
    return any(key == _STATUS_DETAILS_KEY for key, _ in metadata or ())


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


_AnyPage = TypeVar("_AnyPage", bound=_Page)


def pages(
    fetch: Callable[[str], _AnyPage], items: Callable[[_AnyPage], Iterable[_Item]]
) -> list[_Item]:
    """All items of a paged list, up to ITEMS_MAX."""
    found: list[_Item] = []
    token = ""
    while len(found) < ITEMS_MAX:
        page = fetch(token)
        found.extend(items(page))
        token = page.next_page_token
        if not token:
            return found
    raise errors.Exhausted(
        "MESSAGE_TOO_LARGE",
        f"the list has more than {ITEMS_MAX} entries",
        hint="narrow it with the command's options",
    )
