"""A small etcd client: transactions, ranges, compaction and one kind of watch.

Python has no maintained synchronous client: PyPI's `etcd3` cannot be imported with a current
protobuf, and `aetcd`, its asyncio descendant, has one endpoint and no TLS. This takes aetcd's
stubs, over channels of our own: mutual TLS, several endpoints, a deadline for each call, and the
`hasleader` metadata, with which a member that lost its leader refuses instead of answering from
the past.

Promises: a call goes to the endpoint that answered last, then to the others, until its time is up.
A transaction may therefore be sent twice: make it one that does nothing the second time.

Never: interprets keys or values; those are `directory.stores.etcd_keys`.

API: https://etcd.io/docs/v3.4/dev-guide/api_reference_v3/
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from aetcd.rpc import rpc_pb2 as pb
from aetcd.rpc import rpc_pb2_grpc as pb_grpc

from directory.etcd_settings import EtcdSettings
from watari import errors

CALL_SECONDS_MAX = 5.0
"""Of one call, over all endpoints: an election takes one to two seconds."""

ATTEMPT_SECONDS_MAX = 2.0
"""Of one endpoint's turn; a member whose network is cut does not answer at all."""

WATCH_SECONDS_MAX = 3600.0
"""A watch ends after this, and its user opens another one."""

MESSAGE_BYTES_MAX = 32 * 1024 * 1024
"""Largest answer: RANGE_RECORDS records of the largest size, with room."""

RETRY_PAUSE_SECONDS = 0.05
"""After all endpoints have refused."""

# How soon a connection that is cut without a word is noticed. etcd closes connections that ping
# more often than every 5 s (--grpc-keepalive-min-time).
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 6000, 3000

_NEXT_ENDPOINT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


class Compacted(Exception):
    """The history that was asked for is gone. `revision` is the oldest that is left; 0: unknown."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted to {revision}")
        self.revision = revision


@dataclass
class _Endpoint:
    address: str
    channel: grpc.Channel
    kv: Any = field(init=False)
    watch: Any = field(init=False)
    auth: Any = field(init=False)

    def __post_init__(self) -> None:
        self.kv = pb_grpc.KVStub(self.channel)
        self.watch = pb_grpc.WatchStub(self.channel)
        self.auth = pb_grpc.AuthStub(self.channel)


class Etcd:
    """Calls to one cluster. Methods may be called from any thread.

    Each raises Unavailable STORE_UNAVAILABLE when no endpoint answers in time.
    """

    def __init__(self, settings: EtcdSettings) -> None:
        """Connects to nothing yet. Raises InvalidArgument CONFIG_INVALID."""
        self._user = settings.user
        self._password = _text_of(settings.password_file) if settings.password_file else ""
        credentials = grpc.ssl_channel_credentials(
            _bytes_of(settings.ca, "ca"),
            _bytes_of(settings.key, "key"),
            _bytes_of(settings.certificate, "certificate"),
        )
        self._endpoints = [
            _Endpoint(address, grpc.secure_channel(address, credentials, _options()))
            for address in settings.endpoints
        ]
        self._lock = threading.Lock()
        self._current = 0
        self._token = ""

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        """One transaction."""
        return self._call(lambda endpoint: endpoint.kv.Txn, request)

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        """A range of keys. Raises Compacted."""
        return self._call(lambda endpoint: endpoint.kv.Range, request)

    def compact(self, revision: int) -> None:
        """Drops the history before a revision; nothing when that is done already."""
        with contextlib.suppress(Compacted):
            self._call(
                lambda endpoint: endpoint.kv.Compact, pb.CompactionRequest(revision=revision)
            )

    def watch(self, prefix: bytes, start: int) -> "Watch":
        """All events under a prefix from revision `start` on. Each watch takes the next endpoint
        after one that failed.
        """
        request = pb.WatchCreateRequest(
            key=prefix,
            range_end=end_of(prefix),
            start_revision=start,
            progress_notify=True,
            fragment=True,
        )
        with self._lock:
            number = self._current
        return Watch(self, number, pb.WatchRequest(create_request=request))

    def close(self) -> None:
        """Closes the connections. No method may be called after it, or run meanwhile."""
        for endpoint in self._endpoints:
            endpoint.channel.close()

    def stream(self, number: int, requests: Iterator[pb.WatchRequest]) -> Any:
        """A watch's stream of answers, from one endpoint."""
        return self._endpoints[number].watch.Watch(
            requests, timeout=WATCH_SECONDS_MAX, metadata=self._metadata(number, CALL_SECONDS_MAX)
        )

    def failed(self, number: int) -> None:
        """The next call begins with another endpoint."""
        with self._lock:
            if self._current == number:
                self._current = (number + 1) % len(self._endpoints)

    def _call(self, method: Callable[[_Endpoint], Any], request: Any) -> Any:
        deadline = time.monotonic() + CALL_SECONDS_MAX
        tries, last = 0, ""
        while (left := deadline - time.monotonic()) > 0:
            with self._lock:
                number = self._current
            endpoint = self._endpoints[number]
            timeout = min(left, ATTEMPT_SECONDS_MAX)
            try:
                return method(endpoint)(
                    request, timeout=timeout, metadata=self._metadata(number, timeout)
                )
            except grpc.RpcError as error:
                last = self._refused(number, error)
            tries += 1
            if tries % len(self._endpoints) == 0:
                time.sleep(RETRY_PAUSE_SECONDS)
        raise unavailable(f"no endpoint answered in {CALL_SECONDS_MAX:g} s; the last: {last}")

    def _refused(self, number: int, error: Any) -> str:
        """What to say of an error after which another try makes sense. Raises the others."""
        code, text = error.code(), error.details() or ""
        if code == grpc.StatusCode.OUT_OF_RANGE and "compacted" in text:
            raise Compacted(0) from error
        if code == grpc.StatusCode.UNAUTHENTICATED and self._user:
            self._token = ""  # tokens run out: the next try asks for another one
        elif code in _NEXT_ENDPOINT:
            self.failed(number)
        else:
            raise errors.Unavailable(
                "STORE_UNAVAILABLE",
                f"etcd refused: {text}",
                hint="compare the directory's etcd settings, its role's permissions and alarms",
            ) from error
        return f"{self._endpoints[number].address}: {text}"

    def _metadata(self, number: int, timeout: float) -> list[tuple[str, str]]:
        """Raises grpc.RpcError when the endpoint gives no token."""
        found = [("hasleader", "true")]
        if self._user:
            if not self._token:
                request = pb.AuthenticateRequest(name=self._user, password=self._password)
                self._token = (
                    self._endpoints[number].auth.Authenticate(request, timeout=timeout).token
                )
            found.append(("token", self._token))
        return found


class Watch:
    """Events from one endpoint, until it breaks. A context manager; iterate it in one thread."""

    def __init__(self, etcd: Etcd, number: int, create: pb.WatchRequest) -> None:
        self._etcd = etcd
        self._number = number
        self._create = create
        self._ended = threading.Event()
        self._call: Any = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Ends it, from any thread: the iteration raises Unavailable."""
        self._ended.set()
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[pb.WatchResponse]:
        """Answers with whole revisions: the parts of one that etcd cut are put together.

        Raises Compacted, Unavailable STORE_UNAVAILABLE.
        """
        whole: pb.WatchResponse | None = None
        try:
            self._call = self._etcd.stream(self._number, self._requests())
            if self._ended.is_set():
                self._call.cancel()  # `cancel` came before there was anything to cancel
            for answer in self._call:
                if answer.canceled:
                    if answer.compact_revision:
                        raise Compacted(answer.compact_revision)
                    raise unavailable(f"etcd ended the watch: {answer.cancel_reason}")
                if whole is None:
                    whole = answer
                else:
                    whole.events.extend(answer.events)
                if not answer.fragment:
                    yield whole
                    whole = None
        except grpc.RpcError as error:
            self._etcd.failed(self._number)
            raise unavailable(f"the watch broke: {error.details()}") from error
        raise unavailable("etcd ended the watch")

    def _requests(self) -> Iterator[pb.WatchRequest]:
        yield self._create
        self._ended.wait(WATCH_SECONDS_MAX)


def end_of(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix, which must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def unavailable(problem: str) -> errors.Unavailable:
    """What callers are told while etcd cannot be reached."""
    return errors.Unavailable(
        "STORE_UNAVAILABLE",
        f"the directory runs, but its etcd does not answer: {problem}",
        hint="try again, or another directory; its operator looks at etcd's members and network",
    )


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def _text_of(path: Path) -> str:
    return _bytes_of(path, "password_file").decode().strip()


def _bytes_of(path: Path | None, name: str) -> bytes:
    if path is None:
        raise _misconfigured(name, "is missing", "etcd is spoken to over mutual TLS only")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _misconfigured(name, str(error), "name a file that can be read") from error


def _misconfigured(name: str, problem: str, hint: str) -> errors.InvalidArgument:
    key = f"directory.etcd.{name}"
    return errors.InvalidArgument("CONFIG_INVALID", f"{key}: {problem}", hint=hint, key=key)
