"""Writing to etcd on the condition that nobody else has, and deciding again when somebody has."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aetcd.rpc import rpc_pb2 as pb

from directory import etcd
from directory.etcd import Etcd
from directory.records import Key
from directory.stores import etcd_keys
from directory.stores.etcd_follow import Follower
from directory.stores.etcd_keys import Keys, Stored
from directory.stores.etcd_txn import delete, get, pair_of, put, unchanged, when
from directory.stores.replica import CloudKey
from watari import clock, errors, failpoint
from watari.v1 import directory_pb2

CATCH_UP_SECONDS_MAX = 5.0
"""How long a call waits until the replica has what etcd has confirmed."""

TRIES_MAX = 20
"""Decisions of one write, each overtaken by another write to the same cloud."""

AFTER_COMMIT = failpoint.declare("directory.etcd.after_commit")


_Answer = TypeVar("_Answer")


class Again:
    """What a decision returns when another write came first."""


AGAIN = Again()


class Writer:
    """Transactions on one cloud each. Methods may be called from any thread."""

    def __init__(self, client: Etcd, keys: Keys, follower: Follower, time: clock.Clock) -> None:
        self._etcd = client
        self._keys = keys
        self._follower = follower
        self._clock = time

    def unix_time(self) -> float:
        """Of the store's clock."""
        return self._clock.now().timestamp()

    def decided(
        self,
        decide: Callable[[], _Answer | Again],
        known: Callable[[], _Answer | None] = lambda: None,
    ) -> _Answer:
        """The answer of `decide`, which returns AGAIN when another write came first.

        What it refuses is asked again once the replica has all that etcd has: the first time it may
        have decided on the past. `known` may have the answer already then.
        """
        for _ in range(TRIES_MAX):
            try:
                answer = decide()
            except errors.WatariError as error:
                if error.reason == "STORE_UNAVAILABLE":
                    raise
                earlier = known()
                if earlier is not None:
                    return earlier
                self.catch_up(self._follower.mark())
                answer = decide()
            if not isinstance(answer, Again):
                return answer
        raise errors.Unavailable(
            "SERVER_UNAVAILABLE",
            f"others have written to the same cloud {TRIES_MAX} times meanwhile",
            hint="try again",
        )

    def catch_up(self, revision: int) -> None:
        """Waits until the replica has a revision. Raises Unavailable STORE_UNAVAILABLE."""
        if not self._follower.await_revision(revision, CATCH_UP_SECONDS_MAX):
            raise etcd.unavailable(f"revision {revision} has not arrived")

    def committed(self, answer: Any) -> int:
        """The revision of a transaction that was done, once the replica has it."""
        failpoint.hit(AFTER_COMMIT)
        return self.durable(int(answer.header.revision))

    def durable(self, revision: int) -> int:
        """A revision that was written, once the replica has it, so that its writer reads it here.

        When the watch is late it is durable all the same.
        """
        self._follower.await_revision(revision, CATCH_UP_SECONDS_MAX)
        return revision

    def overtaken(self, answer: Any) -> Again:
        """AGAIN, once the replica has what the keys read by a refused transaction say."""
        for response in answer.responses:
            pair = pair_of(response)
            if pair is not None:
                self.catch_up(pair.mod_revision)
        return AGAIN

    def writes(
        self,
        cloud_id: str,
        cloud: CloudKey,
        count: int,
        puts: Sequence[tuple[Key, Stored]],
        deletes: Sequence[Key],
    ) -> list[pb.RequestOp]:
        """All that belongs to a change of a cloud's records; nothing when there is none."""
        if not puts and not deletes:
            return []
        found = [put(self._keys.head)]
        found.append(put(self._keys.cloud(cloud_id), etcd_keys.Cloud(cloud.owner, count).encode()))
        found += [put(self._keys.record(key), stored.encode()) for key, stored in puts]
        found += [delete(self._keys.record(key)) for key in deletes]
        return found

    def write(self, cloud_id: str, cloud: CloudKey, writes: Sequence[pb.RequestOp]) -> bool:
        """Whether it was done: not when the cloud has changed meanwhile."""
        key = self._keys.cloud(cloud_id)
        answer = self._etcd.txn(when([unchanged(key, cloud.revision)], writes, [get(key)]))
        if answer.succeeded:
            self.committed(answer)
            return True
        self.overtaken(answer)
        return False

    def dated(self, record: directory_pb2.Record) -> directory_pb2.Record:
        """A copy as it stands in etcd."""
        dated = directory_pb2.Record()
        dated.CopyFrom(record)
        for name in ("generation", "revision", "stale"):
            dated.ClearField(name)
        dated.updated_at.FromDatetime(self._clock.now())
        return dated
