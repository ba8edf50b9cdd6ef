"""What time brings: leases that run out, records that go stale and vanish, history that is dropped.

Every directory does all of it; each step is a transaction that only the first of them succeeds in.
"""

import contextlib
from collections.abc import Iterable

from aetcd.rpc import rpc_pb2 as pb

from directory import etcd
from directory.etcd import Etcd
from directory.records import Key
from directory.stores import REQUEST_KEPT_SECONDS, etcd_keys, replica, versions
from directory.stores.etcd_follow import Follower
from directory.stores.etcd_keys import Keys, Stored
from directory.stores.etcd_leases import SeenLeases
from directory.stores.etcd_txn import delete, when
from directory.stores.etcd_write import Writer
from directory.stores.replica import Replica
from watari import clock

HISTORY_SECONDS = 600.0
"""etcd keeps at least this much history for a directory that starts; one that runs has its own."""

SWEPT_REQUESTS = 1000
"""Ids of old requests that one sweep looks at. With a sweep a second it keeps up with hundreds of
publishes a second; all of them may be deleted in one transaction."""


class Sweeper:
    """Sweeps when it is told to. One thread at a time, save `expire_due`."""

    def __init__(
        self,
        client: Etcd,
        keys: Keys,
        replica: Replica,
        leases: SeenLeases,
        follower: Follower,
        writer: Writer,
        stale_retention_seconds: float,
    ) -> None:
        self._etcd = client
        self._keys = keys
        self._replica = replica
        self._leases = leases
        self._follower = follower
        self._writer = writer
        self._stale_retention_seconds = stale_retention_seconds
        self._swept = keys.requests
        self._history = _History()

    def sweep(self) -> None:
        """All of it; nothing while etcd is away."""
        if self._follower.live:
            self.expire_due()
            self._mark_stale()
            self._delete_stale()
            self._forget_requests()
            self._compact()

    def expire_due(self) -> None:
        """Deletes leases that nobody renewed, unless somebody did and it has yet to arrive here."""
        if not self._follower.live:
            return
        for held in self._leases.expired():
            key = self._keys.lease(held.lease_id)
            condition = self._leases.unchanged(key, held.lease_id)
            answer = self._etcd.txn(when([condition], [delete(key)]))
            if answer.succeeded:
                self._writer.committed(answer)
                self._leases.gone(held.lease_id)

    def _mark_stale(self) -> None:
        """Records of leases that have ended."""
        for lease_id in self._leases.ended(self._orphans):
            while True:
                with self._replica.read() as db:
                    records = versions.some_kept_by(db, lease_id)
                    cloud_id = records[0].key.cloud_id if records else ""
                    cloud = replica.cloud_of(db, cloud_id)
                    count = versions.count(db, cloud_id)
                if not records or cloud is None:
                    self._leases.settled(lease_id)
                    break
                now = self._writer.unix_time()
                puts = [
                    (Key.of(record.key), Stored(self._writer.dated(record), "", now))
                    for record in records
                ]
                if not self._writer.write(
                    cloud_id, cloud, self._writer.writes(cloud_id, cloud, count, puts, [])
                ):
                    break  # another server does it, or the next sweep

    def _delete_stale(self) -> None:
        longest_ago = self._writer.unix_time() - self._stale_retention_seconds
        while True:
            with self._replica.read() as db:
                keys = [Key.of(each.key) for each in versions.some_stale_since(db, longest_ago)]
                cloud_id = keys[0].cloud_id if keys else ""
                keys = [key for key in keys if key.cloud_id == cloud_id]
                cloud = replica.cloud_of(db, cloud_id)
                count = versions.count(db, cloud_id) - len(keys)
            if cloud is None:
                return
            writes = self._writer.writes(cloud_id, cloud, count, [], keys)
            if not writes or not self._writer.write(cloud_id, cloud, writes):
                return

    def _forget_requests(self) -> None:
        """Looks at some ids in each sweep, in a circle."""
        request = pb.RangeRequest(
            key=self._swept, range_end=etcd.end_of(self._keys.requests), limit=SWEPT_REQUESTS
        )
        answer = self._etcd.range(request)
        forgotten = self._writer.unix_time() - REQUEST_KEPT_SECONDS
        old = [pair.key for pair in answer.kvs if _is_older(pair.value, forgotten)]
        if old:
            self._etcd.txn(when([], [delete(key) for key in old]))
        self._swept = answer.kvs[-1].key + b"\0" if answer.more else self._keys.requests

    def _compact(self) -> None:
        with self._replica.read() as db:
            compacted = versions.position(db)[1]
        revision = self._history.compactable(self._follower.applied, compacted)
        if revision is not None:
            self._etcd.compact(revision)

    def _orphans(self, alive: Iterable[str]) -> list[str]:
        with self._replica.read() as db:
            return replica.kept_by_none(db, alive)


class _History:
    """Up to where etcd's history is no longer needed."""

    def __init__(self) -> None:
        self._clock = clock.SystemClock()
        self._marks: list[tuple[float, int]] = []
        self._compacted = 0

    def compactable(self, applied: int, replica_compacted: int) -> int | None:
        """A revision, at most once for each tenth of HISTORY_SECONDS; else None."""
        now = self._clock.monotonic()
        if self._marks and now < self._marks[-1][0] + HISTORY_SECONDS / 10:
            return None
        self._marks.append((now, applied))
        old = [mark for mark in self._marks if mark[0] <= now - HISTORY_SECONDS]
        self._marks = self._marks[max(0, len(old) - 1) :]
        revision = max(replica_compacted, old[-1][1] if old else 0)
        if revision <= self._compacted:
            return None
        self._compacted = revision
        return revision


def _is_older(value: bytes, unix_time: float) -> bool:
    with contextlib.suppress(ValueError):
        return etcd_keys.Request.decode(value).at <= unix_time
    return True
