"""The one error vocabulary, and the one place that maps it to gRPC and back.

The class of an error says what the caller should do; `reason` is the stable code that programs
compare (a name of `watari.v1.ErrorReason` without its prefix); the message is for people and
`hint` tells them what to do next. Reasons never change their meaning once released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from watari.v1 import common_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

ERROR_DOMAIN = "watari.dev"
"""`ErrorInfo.domain` of every error of this project."""

STATUS_MESSAGE_BYTES_MAX = 1024
"""A status travels in HTTP/2 trailers, which gRPC limits to 8 KiB in all; longer text is cut."""

STATUS_VALUE_BYTES_MAX = 256
"""Longest metadata value in a status; longer ones are cut."""

METADATA_ENTRIES_MAX = 16
"""Most metadata entries in a status; further ones are left out."""

RETRY_DELAY_SECONDS = 1
"""What `RetryInfo` proposes. A caller's own backoff may be longer."""

_HINT_KEY = "hint"


class WatariError(Exception):
    """An expected failure. Raise a subclass; keyword arguments become `metadata`.

    `WatariError` itself is raised only for what a peer sent with a code that we have no class for.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        reason: str,
        message: str,
        /,
        *,
        hint: str = "",
        retryable: bool | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.metadata = {key: str(value) for key, value in metadata.items()}
        self.retryable = self.retryable_by_default if retryable is None else retryable
        """Whether repeating the same call as it stands may succeed."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class InvalidArgument(WatariError):
    """Fix the request: it would fail in every state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(WatariError):
    """The named thing does not exist here."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(WatariError):
    """The id is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Conflict(WatariError):
    """A compare-and-swap lost: read again, then decide and retry."""

    code = grpc.StatusCode.ABORTED


class FailedPrecondition(WatariError):
    """Change the state of the system first; repeating the call alone does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Exhausted(WatariError):
    """A limit or quota is reached: ask for less, or wait until something is freed."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class OutOfRange(WatariError):
    """The position asked for is not kept any more: list again and go on from there."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Denied(WatariError):
    """We know who you are, and you may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(WatariError):
    """Who you are, or who signed this, cannot be proved."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unavailable(WatariError):
    """Try again later: nobody answered, or the server is draining."""

    code = grpc.StatusCode.UNAVAILABLE
    retryable_by_default = True


class Cancelled(WatariError):
    """Somebody asked for the work to stop."""

    code = grpc.StatusCode.CANCELLED


class DeadlineExceeded(WatariError):
    """Time ran out; whether the work was done is unknown. Repeat with the same id."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    retryable_by_default = True


class Unimplemented(WatariError):
    """This release or this peer does not do that."""

    code = grpc.StatusCode.UNIMPLEMENTED


class DataLoss(WatariError):
    """Content does not match its digest, or stored state is damaged: an operator must look."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(WatariError):
    """A fault of the program. `metadata["incident"]` finds it in the server's log."""

    code = grpc.StatusCode.INTERNAL


_CLASSES: dict[grpc.StatusCode, type[WatariError]] = {
    cls.code: cls for cls in WatariError.__subclasses__()
}
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
REASONS_WITHOUT_DETAILS = {
    grpc.StatusCode.UNAVAILABLE: "PEER_UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNIMPLEMENTED: "NOT_SERVED",
    grpc.StatusCode.UNAUTHENTICATED: "PEER_UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "NOT_ALLOWED",
}
REASON_UNKNOWN = "PEER_ERROR"
"""The reason of every other code without details."""

REASONS_UNSAID = frozenset({REASON_UNKNOWN, *REASONS_WITHOUT_DETAILS.values()})
"""Reasons that an error may have without anybody having said so in our words."""

_CANCELLED_HERE = (
    "Locally cancelled by application!",
    "Channel closed!",
    "Channel deallocated!",
)
"""gRPC's texts for calls that this side ended; nothing else tells them from the peer's doing."""


def to_status(error: WatariError) -> status_pb2.Status:
    """The `google.rpc.Status` of an error: `ErrorInfo`, and `RetryInfo` when it is retryable.

    Text beyond the limits of this module is cut, so that the trailers stay deliverable.
    """
    status = status_pb2.Status(
        code=error.code.value[0], message=_cut(error.message, STATUS_MESSAGE_BYTES_MAX)
    )
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    for key, value in list(error.metadata.items())[:METADATA_ENTRIES_MAX]:
        info.metadata[key] = _cut(value, STATUS_VALUE_BYTES_MAX)
    if error.hint:
        info.metadata[_HINT_KEY] = _cut(error.hint, STATUS_MESSAGE_BYTES_MAX)
    status.details.add().Pack(info)
    if error.retryable:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(RETRY_DELAY_SECONDS)
        status.details.add().Pack(retry)
    return status


def from_status(status: status_pb2.Status) -> WatariError:
    """The error that a status means. Without our `ErrorInfo` the reason follows from the code."""
    code = _CODES_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    info = _detail(status, error_details_pb2.ErrorInfo)
    if info is None or info.domain != ERROR_DOMAIN:
        return _without_details(code, status.message)
    metadata = dict(info.metadata)
    hint = metadata.pop(_HINT_KEY, "")
    retryable = _detail(status, error_details_pb2.RetryInfo) is not None
    return _build(code, info.reason, status.message, hint, retryable, metadata)


def from_rpc_error(error: grpc.RpcError) -> WatariError:
    """The error that a failed call means, whoever made it: the peer, its gRPC, or ours."""
    try:
        # RpcError instances that calls raise are grpc.Call too; the type stubs do not say so.
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code: not from a peer that keeps the contract
        status = None
    if status is not None:
        return from_status(status)
    code, message = error.code(), error.details() or ""
    ended_here = any(text in message for text in _CANCELLED_HERE)
    if code is grpc.StatusCode.CANCELLED and not ended_here:
        # A server of ours would have said why: this one stopped while the call arrived.
        return Unavailable("PEER_UNAVAILABLE", f"the peer ended the call: {message}")
    return _without_details(code, message)


def to_problem(error: WatariError) -> common_pb2.Problem:
    """The error as data, for the state of long work."""
    return common_pb2.Problem(
        reason=error.reason,
        code=error.code.value[0],
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        metadata=error.metadata,
    )


def from_problem(problem: common_pb2.Problem) -> WatariError:
    """The error that a `Problem` records."""
    code = _CODES_BY_NUMBER.get(problem.code, grpc.StatusCode.UNKNOWN)
    metadata = dict(problem.metadata)
    return _build(code, problem.reason, problem.message, problem.hint, problem.retryable, metadata)


def _build(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    hint: str,
    retryable: bool,
    metadata: dict[str, str],
) -> WatariError:
    error = _CLASSES.get(code, WatariError)(reason, message, hint=hint, retryable=retryable)
    # Not through keyword arguments: a peer may use any key, "retryable" included.
    error.metadata = metadata
    return error


def _without_details(code: grpc.StatusCode, message: str) -> WatariError:
    reason = REASONS_WITHOUT_DETAILS.get(code, REASON_UNKNOWN)
    return _CLASSES.get(code, WatariError)(reason, message or code.value[1])


_Detail = TypeVar("_Detail", bound="Message")


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def _cut(text: str, bytes_max: int) -> str:
    raw = text.encode()
    if len(raw) <= bytes_max:
        return text
    return raw[: bytes_max - 3].decode(errors="ignore") + "..."
