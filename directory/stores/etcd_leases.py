"""The leases of an etcd, as one server sees them. Thread-safe.

Each is timed on this server's monotonic clock from when its last renewal was seen here.
"""

import threading
from collections.abc import Callable, Iterable

from aetcd.rpc import rpc_pb2 as pb

from directory.leases import Held, LeaseTable
from directory.stores import checks, etcd_keys
from directory.stores.etcd_txn import unchanged
from watari import clock
from watari.v1 import directory_pb2


class SeenLeases:
    """Leases, the revision of etcd at which each was last written, and those that have ended."""

    def __init__(self, time: clock.Clock) -> None:
        self._lock = threading.Lock()
        self._table = LeaseTable(time)
        self._revisions: dict[str, int] = {}
        self._ended: set[str] = set()
        self._all_unknown = True
        """Records may belong to leases that ended while nobody looked."""

    # What the follower sees

    def seen(self, lease_id: str, lease: etcd_keys.Lease, revision: int) -> None:
        self.hold(lease_id, lease, revision)

    def gone(self, lease_id: str) -> None:
        with self._lock:
            self._table.drop(lease_id)
            self._revisions.pop(lease_id, None)
            self._ended.add(lease_id)

    def only(self, lease_ids: set[str]) -> None:
        with self._lock:
            for lease_id in set(self._revisions) - lease_ids:
                self._table.drop(lease_id)
                del self._revisions[lease_id]
            self._all_unknown = True

    def resumed(self, after_seconds: float) -> None:
        with self._lock:
            self._table.postpone(after_seconds)

    # What the store asks

    def hold(self, lease_id: str, lease: etcd_keys.Lease, revision: int) -> directory_pb2.Lease:
        """As it was written at that revision, unless a later one was seen already."""
        with self._lock:
            held = self._table.get(lease_id)
            if held is None or revision > self._revisions[lease_id]:
                held = self._table.hold(lease_id, lease.cloud, lease.owner, lease.ttl_seconds)
                self._revisions[lease_id] = revision
                self._ended.discard(lease_id)
            return self._table.to_proto(held)

    def require(self, lease_id: str, owner: str) -> Held:
        """As LeaseTable."""
        with self._lock:
            return self._table.require(lease_id, owner)

    def find(self, lease_id: str) -> Held | None:
        """As LeaseTable."""
        with self._lock:
            return self._table.find(lease_id)

    def alive(self) -> int:
        """As LeaseTable."""
        with self._lock:
            return self._table.alive()

    def expired(self) -> list[Held]:
        """As LeaseTable."""
        with self._lock:
            return self._table.expired()

    def unchanged(self, key: bytes, lease_id: str) -> pb.Compare:
        """The lease's key is as it was last seen here."""
        with self._lock:
            return unchanged(key, self._revisions.get(lease_id, 0))

    def require_free(self, lease_id: str, cloud_id: str, most: int) -> None:
        """As `checks.require_free_lease`."""
        with self._lock:
            checks.require_free_lease(self._table, lease_id, cloud_id, most)

    def ended(self, orphans: Callable[[Iterable[str]], list[str]]) -> list[str]:
        """Leases whose records may still be fresh; `orphans` finds those of unknown leases."""
        with self._lock:
            alive, look = set(self._revisions), self._all_unknown
            self._all_unknown = False
        found = orphans(alive) if look else []
        with self._lock:
            self._ended.update(set(found) - set(self._revisions))
            return sorted(self._ended)

    def settled(self, lease_id: str) -> None:
        """No record of it is fresh."""
        with self._lock:
            self._ended.discard(lease_id)
