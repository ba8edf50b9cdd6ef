"""Managers that publish, and watchers that follow, each through whichever directory answers."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from directory.records import Key
from tests.support.directory_samples import capacity, new_id
from watari import errors, rpc
from watari.identity import Identity
from watari.rpc import client
from watari.v1 import directory_pb2, directory_pb2_grpc

CALL_SECONDS_MAX = 8.0
WATCH_SECONDS_MAX = 120.0
PAUSE_SECONDS = 0.1
LEASE_SECONDS = 20
RENEW_SECONDS = 5.0
NAMES = ("a", "b", "c", "d", "e", "f")
LABEL = "n"

State = dict[Key, bytes]
_Answer = TypeVar("_Answer")
_Stub = directory_pb2_grpc.DirectoryServiceStub


class Caller:
    """One party's calls: to one directory, and after a failure to the other."""

    def __init__(
        self, identity: Identity, targets: Sequence[rpc.Target], rng: random.Random
    ) -> None:
        self._pool = client.ChannelPool(identity)
        self._targets = targets
        self._number = rng.randrange(len(targets))
        self.refusals: Counter[str] = Counter()

    @property
    def stub(self) -> _Stub:
        """Of the directory that is called at present."""
        return _Stub(self._pool.get(self._targets[self._number]))

    def other(self, error: errors.WatariError) -> None:
        """The next call goes to another directory."""
        self.refusals[error.reason] += 1
        self._number = (self._number + 1) % len(self._targets)

    def once(self, ask: Callable[[_Stub], _Answer]) -> _Answer:
        """One call, of which the next one goes elsewhere when it may be repeated."""
        try:
            return ask(self.stub)
        except errors.WatariError as error:
            if error.retryable:
                self.other(error)
            raise


class Manager:
    """Publishes for one cloud, and knows what must be there in the end."""

    def __init__(self, cloud_id: str, caller: Caller, rng: random.Random) -> None:
        self.cloud_id = cloud_id
        self.caller = caller
        self.acknowledged = 0
        self.last_revision = 0
        self.state: dict[str, int | None] = {}
        """The number of the last acknowledged change of each record; None: deleted."""
        self._rng = rng
        self._number = 0
        self._lease_id = ""
        self._renewed_at = 0.0

    def run(self, stop: threading.Event, give_up: threading.Event, interval: float) -> None:
        """Publishes until `stop`; what is under way then is finished, unless `give_up` is set."""
        while not stop.is_set():
            self._number += 1
            chosen = self._rng.sample(NAMES, self._rng.randint(1, 4))
            deletes = chosen[:1] if self._rng.random() < 0.2 else []
            self._change(self._number, chosen[len(deletes) :], deletes, give_up)
            stop.wait(self._rng.uniform(0.2, 1.8) * interval)

    def _change(
        self, number: int, puts: list[str], deletes: list[str], give_up: threading.Event
    ) -> None:
        request = None
        while not give_up.is_set():
            try:
                self._keep_lease()
                if request is None:
                    request = self._request(number, puts, deletes)
                answer = self._publish(request)
            except errors.WatariError as error:
                if error.reason == "LEASE_NOT_FOUND":
                    # So it has not been published: a repetition would have had its first answer.
                    self._lease_id, request = "", None
                elif not error.retryable:
                    raise
                give_up.wait(PAUSE_SECONDS)
                continue
            self.acknowledged += 1
            self.last_revision = max(self.last_revision, answer.revision)
            self.state |= dict.fromkeys(puts, number) | dict.fromkeys(deletes)
            return

    def _publish(self, request: directory_pb2.PublishRequest) -> directory_pb2.PublishResponse:
        return self.caller.once(
            lambda stub: rpc.call(stub.Publish, request, timeout_seconds=CALL_SECONDS_MAX)
        )

    def _keep_lease(self) -> None:
        now = time.monotonic()
        if not self._lease_id:
            grant = directory_pb2.GrantLeaseRequest(
                lease_id=new_id(), cloud_id=self.cloud_id, ttl_seconds=LEASE_SECONDS
            )
            self.caller.once(
                lambda stub: rpc.call(stub.GrantLease, grant, timeout_seconds=CALL_SECONDS_MAX)
            )
            self._lease_id = grant.lease_id
        elif now - self._renewed_at > RENEW_SECONDS:
            renew = directory_pb2.RenewLeaseRequest(lease_id=self._lease_id)
            self.caller.once(
                lambda stub: rpc.call(stub.RenewLease, renew, timeout_seconds=CALL_SECONDS_MAX)
            )
        else:
            return
        self._renewed_at = now

    def _request(
        self, number: int, puts: list[str], deletes: list[str]
    ) -> directory_pb2.PublishRequest:
        request = directory_pb2.PublishRequest(request_id=new_id(), lease_id=self._lease_id)
        for name in puts:
            record = capacity(self.cloud_id, name, vcpus=number % 64)
            record.labels[LABEL] = str(number)
            request.puts.add(record=record)
        for name in deletes:
            request.deletes.append(capacity(self.cloud_id, name).key)
        return request


@dataclass
class Watcher:
    """Replays every change, over whatever happens, and checks each."""

    caller: Caller
    state: State = field(default_factory=dict)
    generations: dict[Key, int] = field(default_factory=dict)
    position: int = 0
    changes: int = 0
    listings: int = 0
    resumptions: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Follows until `stop`."""
        listed = False
        while not stop.is_set():
            try:
                if not listed:
                    self._list()
                    listed = True
                self._follow(stop)
            except errors.WatariError as error:
                if error.reason in ("REVISION_COMPACTED", "WATCHER_TOO_SLOW"):
                    listed = False
                self.caller.other(error)
                self.resumptions += 1
                stop.wait(PAUSE_SECONDS)

    def _list(self) -> None:
        revision, found = listing(self.caller.stub)
        if revision < self.position:
            raise errors.Unavailable("SERVER_UNAVAILABLE", "that directory is behind")
        self.listings += 1
        self.position = revision
        self.state = {key: record.SerializeToString() for key, record in found.items()}
        self.generations = {key: record.generation for key, record in found.items()}

    def _follow(self, stop: threading.Event) -> None:
        request = directory_pb2.WatchRecordsRequest(after_revision=self.position)
        watch = self.caller.stub.WatchRecords
        with rpc.stream(watch, request, timeout_seconds=WATCH_SECONDS_MAX) as messages:
            for message in messages:
                if message.changes and message.revision <= self.position:
                    self.wrong.append(f"revision {message.revision} after {self.position}")
                for change in message.changes:
                    self._apply(change)
                self.position = max(self.position, message.revision)
                if stop.is_set():
                    return

    def _apply(self, change: directory_pb2.Change) -> None:
        key = Key.of(change.record.key)
        self.changes += 1
        before = self.generations.get(key, 0)
        if change.kind == directory_pb2.CHANGE_KIND_DELETE:
            if not before:
                self.wrong.append(f"{key} was deleted and not there")
            self.generations.pop(key, None)
            self.state.pop(key, None)
            return
        if change.record.generation != before + 1:
            self.wrong.append(f"{key}: generation {change.record.generation} after {before}")
        self.generations[key] = change.record.generation
        self.state[key] = change.record.SerializeToString()


def listing(stub: _Stub) -> tuple[int, dict[Key, directory_pb2.Record]]:
    """All records, at one revision."""
    found: dict[Key, directory_pb2.Record] = {}
    request = directory_pb2.QueryRecordsRequest(page_size=100)
    while True:
        page = rpc.call(stub.QueryRecords, request, timeout_seconds=CALL_SECONDS_MAX)
        found |= {Key.of(record.key): record for record in page.records}
        if not page.next_page_token:
            return page.revision, found
        request.page_token = page.next_page_token
