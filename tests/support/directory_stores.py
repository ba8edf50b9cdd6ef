"""A store of the directory with a fake clock, for the contract that every store is held to."""

from collections.abc import Callable

from directory.stores import DirectoryStore, Limits
from tests.support.directory_samples import new_id
from watari.clock import FakeClock

TOKYO, OSAKA = "tokyo.example", "osaka.example"
LIMITS = Limits(
    changes_kept_max=5000,
    records_per_cloud_max=3000,
    leases_per_cloud_max=3,
    clouds_per_provider_max=4,
    stale_retention_seconds=600,
)


class Rig:
    """A store, its time, and how to open it again."""

    def __init__(self, open_store: Callable[[Limits, FakeClock], DirectoryStore]) -> None:
        self.clock = FakeClock()
        self._open = open_store
        self.store = open_store(LIMITS, self.clock)

    def reopen(self, limits: Limits = LIMITS) -> DirectoryStore:
        self.store.close()
        self.store = self._open(limits, self.clock)
        return self.store

    def lease(self, cloud_id: str = "tokyo", owner: str = TOKYO, ttl_seconds: int = 30) -> str:
        return self.store.grant_lease(new_id(), cloud_id, owner, ttl_seconds).lease_id
