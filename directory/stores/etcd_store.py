"""The store in etcd, for any number of directory processes, none of which has state of its own.

Reads come from the replica. A write is decided on the replica's state of one cloud, and done in one
transaction on the condition that the cloud's key has not changed since: every change of a cloud's
records writes that key. So writers of different clouds never meet, and of two that meet one decides
again. What the replica would refuse is decided on etcd's own state before it is refused.

Leases are keys that a renewal writes again. Each server times on its own monotonic clock how long
it saw no renewal; one that saw none for the ttl deletes the key, on the condition that it is still
the one it saw. etcd's own leases would run out while every directory is away, and their keys vanish
with the records on them instead of going stale at a revision.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from aetcd.rpc import rpc_pb2 as pb

from directory import etcd
from directory.etcd import Etcd
from directory.etcd_settings import EtcdSettings
from directory.leases import require_owner
from directory.records import Key
from directory.stores import (
    Census,
    Limits,
    Publication,
    checks,
    etcd_keys,
    etcd_write,
    replica,
    versions,
)
from directory.stores.etcd_follow import Follower
from directory.stores.etcd_keys import Keys, Stored
from directory.stores.etcd_leases import SeenLeases
from directory.stores.etcd_sweep import Sweeper
from directory.stores.etcd_txn import delete, exists, get, pair_of, put, unchanged, when
from directory.stores.etcd_write import AGAIN, Again, Writer
from directory.stores.replica import Replica
from watari import clock, failpoint
from watari.periodic import Periodic
from watari.v1 import directory_pb2

START_SECONDS_MAX = 20.0
"""How long opening waits for the catalogue; without it the store opens and refuses everything."""

PROBE_SECONDS = 1.0
"""How often etcd is asked where it is."""

_STRIPES = 64


class EtcdStore:
    """A DirectoryStore, where the duties of every method are written, in etcd."""

    def __init__(self, settings: EtcdSettings, limits: Limits, time: clock.Clock) -> None:
        """Reads the catalogue. Raises InvalidArgument CONFIG_INVALID."""
        self._limits = limits
        self._keys = Keys(settings.prefix)
        self._etcd = Etcd(settings)
        self._replica = Replica(limits.changes_kept_max)
        self._leases = SeenLeases(time)
        self._listeners: list[Callable[[], None]] = []
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        # etcd's time is the real one, whatever clock leases and dates go by.
        real = clock.SystemClock()
        self._follower = Follower(
            self._etcd, self._keys, self._replica, self._leases, real, self._announce
        )
        self._writer = Writer(self._etcd, self._keys, self._follower, time)
        self._sweeper = Sweeper(
            self._etcd,
            self._keys,
            self._replica,
            self._leases,
            self._follower,
            self._writer,
            limits.stale_retention_seconds,
        )
        self._running = contextlib.ExitStack()
        self._running.callback(self._replica.close)
        self._running.callback(self._etcd.close)
        self._running.callback(self._follower.stop)
        self._follower.start(START_SECONDS_MAX)
        probing = Periodic("directory-etcd-probe", PROBE_SECONDS, real, self._follower.probe)
        self._running.enter_context(probing)

    # Reads

    def revision(self) -> int:
        self._require_synced()
        with self._replica.read() as db:
            return versions.position(db)[0]

    def get(self, key: Key) -> tuple[directory_pb2.Record | None, int]:
        self._require_synced()
        with self._replica.read() as db:
            return versions.present(db, key), versions.position(db)[0]

    def scan(
        self, revision: int, kind: int, cloud_id: str, after: Key | None, limit: int
    ) -> list[directory_pb2.Record]:
        self._reach(revision)
        with self._replica.read() as db:
            versions.require_kept(db, revision)
            return versions.scan(db, revision, kind, cloud_id, after, limit)

    def changes(self, after: int, limit: int) -> list[directory_pb2.Change]:
        self._reach(after)
        with self._replica.read() as db:
            versions.require_kept(db, after)
            return versions.changes(db, after, limit)

    def age(self) -> float | None:
        return self._follower.age()

    def census(self) -> Census:
        self._require_synced()
        with self._replica.read() as db:
            revision, records = versions.position(db)[0], versions.count_by_kind(db)
        return Census(revision, records, self._leases.alive())

    # Writes

    def publish(self, publication: Publication) -> int:
        with self._stripe(publication.lease_id):
            return self._writer.decided(
                lambda: self._publish(publication), lambda: self._known(publication)
            )

    def grant_lease(
        self, lease_id: str, cloud_id: str, owner: str, ttl_seconds: int
    ) -> directory_pb2.Lease:
        self._sweeper.expire_due()
        with self._stripe(owner):
            return self._writer.decided(lambda: self._grant(lease_id, cloud_id, owner, ttl_seconds))

    def renew_lease(self, lease_id: str, owner: str) -> directory_pb2.Lease:
        return self._writer.decided(lambda: self._renew(lease_id, owner))

    def revoke_lease(self, lease_id: str, owner: str) -> None:
        self._writer.decided(lambda: self._revoke(lease_id, owner))

    def sweep(self) -> None:
        self._sweeper.sweep()

    def subscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def close(self) -> None:
        self._running.close()

    # Reading what another server may have written

    def _require_synced(self) -> None:
        if not self._follower.synced:
            raise etcd.unavailable("the catalogue has not been read yet")

    def _reach(self, revision: int) -> None:
        """Waits for a revision that another server answered with and this one has yet to see."""
        self._require_synced()
        if revision > self._follower.applied:
            head = self._etcd.range(pb.RangeRequest(key=self._keys.head))
            if head.kvs and revision <= head.kvs[0].mod_revision:
                self._writer.catch_up(revision)

    # One decision each

    def _publish(self, publication: Publication) -> int | Again:
        held = self._leases.require(publication.lease_id, publication.owner)
        checks.require_own_keys(publication, held.cloud_id)
        with self._replica.read() as db:
            cloud = replica.require_cloud(db, held)
            present = {
                key: versions.generation(db, key)
                for key in (*(each.key for each in publication.puts), *publication.deletes)
            }
            count = versions.count(db, held.cloud_id)
            revision = versions.position(db)[0]
        for each in publication.puts:
            checks.require_generation(each, present[each.key])
        deletes = [key for key in publication.deletes if present[key]]
        count += sum(not present[each.key] for each in publication.puts) - len(deletes)
        checks.require_records(count, self._limits.records_per_cloud_max, held.cloud_id)
        puts = [
            (each.key, Stored(self._writer.dated(each.record), held.lease_id, None))
            for each in publication.puts
        ]
        writes = self._writer.writes(held.cloud_id, cloud, count, puts, deletes)
        request = etcd_keys.Request(
            publication.digest.hex(), self._writer.unix_time(), None if writes else revision
        )
        request_key = self._keys.request(publication.request_id)
        answer = self._etcd.txn(
            when(
                [
                    unchanged(request_key, 0),
                    exists(self._keys.lease(held.lease_id)),
                    unchanged(self._keys.cloud(held.cloud_id), cloud.revision),
                ],
                [put(request_key, request.encode()), *writes],
                [
                    get(request_key),
                    get(self._keys.cloud(held.cloud_id)),
                    get(self._keys.lease(held.lease_id)),
                ],
            )
        )
        if answer.succeeded:
            committed = self._writer.committed(answer)
            return committed if writes else revision
        known = _answered(publication, pair_of(answer.responses[0]))
        if known is not None:
            return self._writer.durable(known)
        if pair_of(answer.responses[2]) is None:
            self._leases.gone(held.lease_id)
        return self._writer.overtaken(answer)

    def _known(self, publication: Publication) -> int | None:
        key = self._keys.request(publication.request_id)
        found = self._etcd.range(pb.RangeRequest(key=key)).kvs
        return _answered(publication, found[0] if found else None)

    def _grant(
        self, lease_id: str, cloud_id: str, owner: str, ttl_seconds: int
    ) -> directory_pb2.Lease | Again:
        with self._replica.read() as db:
            cloud = replica.cloud_of(db, cloud_id)
            count = versions.count(db, cloud_id)
        conditions = [unchanged(self._keys.cloud(cloud_id), cloud.revision if cloud else 0)]
        writes = [put(self._keys.cloud(cloud_id), etcd_keys.Cloud(owner, count).encode())]
        if cloud:
            require_owner(cloud_id, cloud.owner, owner)
        else:
            more_conditions, more_writes = self._one_cloud_more(owner)
            conditions += more_conditions
            writes += more_writes
        self._leases.require_free(lease_id, cloud_id, self._limits.leases_per_cloud_max)
        lease = etcd_keys.Lease(cloud_id, owner, ttl_seconds)
        writes.append(put(self._keys.lease(lease_id), lease.encode()))
        conditions.append(self._leases.unchanged(self._keys.lease(lease_id), lease_id))
        reads = [get(self._keys.cloud(cloud_id)), get(self._keys.lease(lease_id))]
        answer = self._etcd.txn(when(conditions, writes, reads))
        if not answer.succeeded:
            if pair_of(answer.responses[1]) is None:
                self._leases.gone(lease_id)
            return self._writer.overtaken(answer)
        self._writer.committed(answer)
        return self._leases.hold(lease_id, lease, answer.header.revision)

    def _one_cloud_more(self, owner: str) -> tuple[list[pb.Compare], list[pb.RequestOp]]:
        """Conditions and writes for a provider's new cloud. Raises Exhausted QUOTA_EXCEEDED."""
        key = self._keys.provider(owner)
        found = self._etcd.range(pb.RangeRequest(key=key)).kvs
        count = (etcd_keys.Provider.decode(found[0].value).clouds if found else 0) + 1
        checks.require_clouds(count, self._limits.clouds_per_provider_max, owner)
        revision = found[0].mod_revision if found else 0
        return [unchanged(key, revision)], [put(key, etcd_keys.Provider(count).encode())]

    def _renew(self, lease_id: str, owner: str) -> directory_pb2.Lease | Again:
        held = self._leases.require(lease_id, owner)
        lease = etcd_keys.Lease(held.cloud_id, held.owner, held.ttl_seconds)
        key = self._keys.lease(lease_id)
        answer = self._etcd.txn(when([exists(key)], [put(key, lease.encode())]))
        if not answer.succeeded:
            self._leases.gone(lease_id)
            return AGAIN
        failpoint.hit(etcd_write.AFTER_COMMIT)
        return self._leases.hold(lease_id, lease, answer.header.revision)

    def _revoke(self, lease_id: str, owner: str) -> Again | None:
        held = self._leases.find(lease_id)
        if held is None:
            self._writer.catch_up(self._follower.mark())
            held = self._leases.find(lease_id)
        if held is None:
            return None
        require_owner(held.cloud_id, held.owner, owner)
        while True:
            with self._replica.read() as db:
                records = versions.some_kept_by(db, lease_id)
                cloud = replica.require_cloud(db, held)
                count = versions.count(db, held.cloud_id) - len(records)
            writes = self._writer.writes(
                held.cloud_id, cloud, count, [], [Key.of(record.key) for record in records]
            )
            if not writes:
                gone = [delete(self._keys.lease(lease_id))]
                return None if self._writer.write(held.cloud_id, cloud, gone) else AGAIN
            if not self._writer.write(held.cloud_id, cloud, writes):
                return AGAIN

    def _stripe(self, name: str) -> threading.Lock:
        """Writers of the same keys take turns here instead of overtaking each other in etcd."""
        return self._stripes[hash(name) % _STRIPES]

    def _announce(self) -> None:
        for listener in self._listeners:
            listener()


def _answered(publication: Publication, pair: Any) -> int | None:
    """The answer that the request had before, or None. Raises AlreadyExists ID_REUSED."""
    if pair is None:
        return None
    request = etcd_keys.Request.decode(pair.value)
    checks.require_same_request(publication, bytes.fromhex(request.digest))
    return int(pair.mod_revision) if request.revision is None else request.revision
