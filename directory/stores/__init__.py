"""What the directory needs from a store, in prose; every store runs tests/contract.

A store holds one catalogue of records, each with a history of versions, the leases that keep
records alive, and which provider owns which cloud. Records change only in *revisions*: a counter
that grows with every atomic change of records, and with nothing else. Time comes from the store's
own clock.

Duties of every store:

* **Atomic.** The changes of one publish share one revision: a reader sees all of them or none.
  What a method returned is durable: it survives the loss of the process and of power.
* **Compare-and-swap.** Expected generations are checked in the same atomic step that writes;
  nothing is written when one of them fails.
* **Idempotent.** Each method may be repeated after an unknown outcome, with the same arguments.
* **Snapshots.** For as long as a revision is not compacted, `scan` at that revision answers the
  same, whatever is written meanwhile.
* **History.** `changes` returns every change after a revision, in order, until it is compacted. No
  revision has more than CHANGES_PER_REVISION_MAX changes or is larger than a message may be; work
  of the store itself that exceeds that is cut into several revisions.
* **Thread-safe.** Any method may be called from any thread; readers do not wait for writers.

A store never retries, never logs requests, and never reads a filter: those belong to its callers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from directory.records import Key, Put
from watari.v1 import directory_pb2

CHANGES_PER_REVISION_MAX = 1000
"""Changes that share a revision; also the contract's limit on one publish."""

CHANGE_BYTES_MAX = 1024 * 1024
"""Bytes of records that share a revision, as published; also the limit on one publish."""

FIRST_REVISION = 1
"""Revision of the empty catalogue: 0 means "now" to a watch, so no answer may carry it."""

REQUEST_KEPT_SECONDS = 3600
"""How long the id of a publish is remembered (the contract's hour)."""


@dataclass(frozen=True)
class Publication:
    """A publish whose content has been checked: one change, all of it or nothing."""

    request_id: str
    digest: bytes
    """Tells the same request from another one with the same id."""

    lease_id: str
    owner: str
    """The publisher's trust domain."""

    puts: tuple[Put, ...] = ()
    deletes: tuple[Key, ...] = ()
    """No key occurs twice in puts and deletes together."""


@dataclass(frozen=True)
class Limits:
    """What one store holds at most."""

    changes_kept_max: int
    """Changes of history; older ones are compacted."""

    records_per_cloud_max: int
    leases_per_cloud_max: int
    clouds_per_provider_max: int

    stale_retention_seconds: float
    """How long a stale record is kept before it vanishes."""


@dataclass(frozen=True)
class Census:
    """How much there is."""

    revision: int
    records: Mapping[tuple[int, bool], int]
    """By kind, and whether they are stale."""

    leases: int


class DirectoryStore(Protocol):
    """The catalogue. Errors are raised as `watari.errors`, with the reasons named here."""

    def revision(self) -> int:
        """The revision of the last change."""
        ...

    def get(self, key: Key) -> tuple[directory_pb2.Record | None, int]:
        """The record, or None, and the revision at which that was read."""
        ...

    def scan(
        self, revision: int, kind: int, cloud_id: str, after: Key | None, limit: int
    ) -> list[directory_pb2.Record]:
        """Records as they were at `revision`, ordered by key, from the first beyond `after`.

        Only of `kind` unless it is 0, only of `cloud_id` unless it is empty; at most `limit`.
        Raises OutOfRange REVISION_COMPACTED.
        """
        ...

    def changes(self, after: int, limit: int) -> list[directory_pb2.Change]:
        """Changes after revision `after`, ordered by revision, then key; empty when there are none.

        Whole revisions only: as many as fit into `limit` changes, and at least one. Raises
        OutOfRange REVISION_COMPACTED when a change after `after` is no longer kept, or when `after`
        is a revision that this store has not reached (it was restored from a copy).
        """
        ...

    def age(self) -> float | None:
        """Seconds since what can be read was known to be current; None while it is.

        A store that keeps the catalogue elsewhere answers reads from what it had when that went
        away, and raises Unavailable STORE_UNAVAILABLE from every method that writes.
        """
        ...

    def census(self) -> Census:
        """How much there is, for monitoring: reads every key."""
        ...

    def publish(self, publication: Publication) -> int:
        """Writes it and returns its revision; without any effect, the present one.

        A put sets the record's generation, revision and time, takes it over into the publication's
        lease and makes it fresh. The same request id and digest within REQUEST_KEPT_SECONDS returns
        the first answer, whatever has happened to the lease since. Raises AlreadyExists ID_REUSED
        (another digest), NotFound LEASE_NOT_FOUND, Denied NOT_RECORD_OWNER (the lease or a key is
        not of the owner's cloud), Conflict GENERATION_CONFLICT (metadata `record`, `expected`,
        `actual`), Exhausted QUOTA_EXCEEDED.
        """
        ...

    def grant_lease(
        self, lease_id: str, cloud_id: str, owner: str, ttl_seconds: int
    ) -> directory_pb2.Lease:
        """Grants the lease, or renews it with that ttl.

        The first grant for a cloud binds it to its owner for good: a compare-and-swap on the cloud.
        Raises Denied NOT_RECORD_OWNER, AlreadyExists ID_REUSED (the id is another cloud's lease),
        Exhausted QUOTA_EXCEEDED.
        """
        ...

    def renew_lease(self, lease_id: str, owner: str) -> directory_pb2.Lease:
        """Starts the lease's ttl again. Raises NotFound LEASE_NOT_FOUND, Denied NOT_RECORD_OWNER.

        A lease that was alive when the store closed or crashed has its whole ttl again when it
        opens: nobody could renew it meanwhile, and an outage of the directory must not take the
        clouds out of it.
        """
        ...

    def revoke_lease(self, lease_id: str, owner: str) -> None:
        """Ends the lease and deletes its records; nothing when there is none.

        Raises Denied NOT_RECORD_OWNER.
        """
        ...

    def sweep(self) -> None:
        """What time brings; called about once a second.

        Records of leases that have expired become stale (a change each), and stale ones older than
        the retention are deleted; old request ids are forgotten.
        """
        ...

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Has `listener` called after every change, from any thread. It must not block or raise."""
        ...

    def close(self) -> None:
        """Releases the store. No method may be called after it."""
        ...
