"""Leases in memory: who holds which, and until when.

Deadlines are monotonic and never stored: a renewal costs no disk write, setting the machine's date
expires nothing, and after a restart every lease has its whole ttl again.
"""

from dataclasses import dataclass
from datetime import timedelta

from watari import clock, errors
from watari.v1 import directory_pb2


@dataclass
class Held:
    """A lease and the moment at which it expires."""

    lease_id: str
    cloud_id: str
    owner: str
    ttl_seconds: int
    deadline: float
    """By `clock.monotonic`."""


class LeaseTable:
    """The leases that are alive. Its user locks: it is not thread-safe by itself."""

    def __init__(self, time: clock.Clock) -> None:
        self._clock = time
        self._held: dict[str, Held] = {}

    def hold(self, lease_id: str, cloud_id: str, owner: str, ttl_seconds: int) -> Held:
        """Adds the lease, or replaces it, with its whole ttl ahead."""
        deadline = self._clock.monotonic() + ttl_seconds
        held = self._held[lease_id] = Held(lease_id, cloud_id, owner, ttl_seconds, deadline)
        return held

    def get(self, lease_id: str) -> Held | None:
        """The lease unless it is unknown; it may have expired and not been swept."""
        return self._held.get(lease_id)

    def find(self, lease_id: str) -> Held | None:
        """The lease unless it is unknown or has expired, swept or not."""
        held = self._held.get(lease_id)
        return held if held and held.deadline > self._clock.monotonic() else None

    def require(self, lease_id: str, owner: str) -> Held:
        """The lease. Raises NotFound LEASE_NOT_FOUND, Denied NOT_RECORD_OWNER."""
        held = self.find(lease_id)
        if held is None:
            raise errors.NotFound(
                "LEASE_NOT_FOUND",
                f"lease {lease_id} is unknown or has expired",
                hint="grant a new lease and publish the records again",
                lease_id=lease_id,
            )
        require_owner(held.cloud_id, held.owner, owner)
        return held

    def renew(self, lease_id: str, owner: str) -> Held:
        """The lease with its whole ttl ahead. Raises as `require`."""
        held = self.require(lease_id, owner)
        held.deadline = self._clock.monotonic() + held.ttl_seconds
        return held

    def drop(self, lease_id: str) -> None:
        """Forgets the lease; nothing when there is none."""
        self._held.pop(lease_id, None)

    def expired(self) -> list[Held]:
        """Leases whose time has passed and that have not been dropped."""
        now = self._clock.monotonic()
        return [held for held in self._held.values() if held.deadline <= now]

    def postpone(self, seconds: float) -> None:
        """Gives every lease that much longer, at most its whole ttl: nobody could renew it."""
        now = self._clock.monotonic()
        for held in self._held.values():
            held.deadline = min(held.deadline + seconds, now + held.ttl_seconds)

    def count(self, cloud_id: str) -> int:
        """Leases of that cloud."""
        return sum(held.cloud_id == cloud_id for held in self._held.values())

    def alive(self) -> int:
        """Leases that have not been dropped."""
        return len(self._held)

    def to_proto(self, held: Held) -> directory_pb2.Lease:
        """The lease as the contract has it."""
        lease = directory_pb2.Lease(
            lease_id=held.lease_id, cloud_id=held.cloud_id, ttl_seconds=held.ttl_seconds
        )
        remaining = timedelta(seconds=held.deadline - self._clock.monotonic())
        lease.expires_at.FromDatetime(self._clock.now() + remaining)
        return lease


def require_owner(cloud_id: str, owner: str, caller: str) -> None:
    """Raises Denied NOT_RECORD_OWNER unless the caller's domain owns the cloud."""
    if caller != owner:
        raise errors.Denied(
            "NOT_RECORD_OWNER",
            f"cloud {cloud_id} does not belong to {caller}",
            hint="a cloud id belongs to the provider that used it first; choose another id",
            cloud=cloud_id,
        )
