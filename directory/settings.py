"""Settings of the directory: table `[directory]`, or WATARI_DIRECTORY_<FIELD>."""

from dataclasses import dataclass, field
from pathlib import Path

from directory.etcd_settings import EtcdSettings
from directory.stores import CHANGES_PER_REVISION_MAX, Limits
from watari.metrics import MetricsSettings
from watari.rpc import RpcSettings
from watari.settings import IdentitySettings, LogSettings, TelemetrySettings

TTL_SECONDS_LEAST = 5
TTL_SECONDS_MOST = 3600
"""The contract's bounds of a lease; settings may only narrow them."""


@dataclass(frozen=True)
class Settings:
    """Everything that an operator decides about one directory."""

    address: str
    """Where to listen, host:port; port 0 lets the system choose."""

    identity: IdentitySettings

    state_path: Path | None = None
    """SQLite file with the catalogue; its folder is made when missing. One process at a time. Not
    with `etcd`."""

    etcd: EtcdSettings = EtcdSettings()
    """Where the catalogue is for several directories, instead of `state_path`."""

    lease_ttl_seconds_min: int = field(
        default=TTL_SECONDS_LEAST, metadata={"min": TTL_SECONDS_LEAST, "max": TTL_SECONDS_MOST}
    )
    """Shortest lease, seconds: below it, a short break of the network makes records stale."""

    lease_ttl_seconds_max: int = field(
        default=TTL_SECONDS_MOST, metadata={"min": TTL_SECONDS_LEAST, "max": TTL_SECONDS_MOST}
    )
    """Longest lease, seconds: how long a cloud that is gone may look alive."""

    stale_retention_seconds: float = field(
        default=24 * 3600.0, metadata={"min": 0, "max": 30 * 24 * 3600}
    )
    """How long a stale record is kept, marked, before it vanishes. A day: a cloud that lost its
    network for a night is still known in the morning."""

    sweep_interval_seconds: float = field(default=1.0, metadata={"min": 0.05, "max": 60})
    """How often expired leases are looked for: how late a record may become stale."""

    changes_kept_max: int = field(
        default=100_000, metadata={"min": CHANGES_PER_REVISION_MAX, "max": 10_000_000}
    )
    """Changes of history for watches to resume from and pages to be read at; up to a tenth more
    between two compactions. Some 50 MB of records of 500 bytes."""

    records_per_cloud_max: int = field(default=20_000, metadata={"min": 1, "max": 1_000_000})
    """Records of one cloud: a provider can fill its own share only."""

    leases_per_cloud_max: int = field(default=16, metadata={"min": 1, "max": 1000})
    """Leases of one cloud: a manager needs one, and one more after each of its restarts until the
    former one has expired."""

    clouds_per_provider_max: int = field(default=100, metadata={"min": 1, "max": 10_000})
    """Cloud ids that one provider may take."""

    publishes_per_second_max: float = field(default=10.0, metadata={"min": 0.1, "max": 10_000})
    """Publishes of one lease, on average; ten seconds' worth at once. A manager publishes what
    changed every few seconds; more than this is not a catalogue but a meter."""

    watchers_max: int = field(default=16, metadata={"min": 1, "max": 512})
    """Watches at a time. Each holds a thread of `rpc.workers_max`, so it must be less than that."""

    metrics: MetricsSettings = MetricsSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    log: LogSettings = LogSettings()
    rpc: RpcSettings = RpcSettings()

    def __post_init__(self) -> None:
        if bool(self.etcd.endpoints) == (self.state_path is not None):
            raise ValueError("set either state_path or etcd.endpoints: where the catalogue is")
        if self.lease_ttl_seconds_min > self.lease_ttl_seconds_max:
            raise ValueError("lease_ttl_seconds_min is more than lease_ttl_seconds_max")
        if self.watchers_max >= self.rpc.workers_max:
            raise ValueError(
                f"watchers_max ({self.watchers_max}) must be less than rpc.workers_max "
                f"({self.rpc.workers_max}): watches alone would take every thread"
            )

    def limits(self) -> Limits:
        """What the store holds at most."""
        return Limits(
            changes_kept_max=self.changes_kept_max,
            records_per_cloud_max=self.records_per_cloud_max,
            leases_per_cloud_max=self.leases_per_cloud_max,
            clouds_per_provider_max=self.clouds_per_provider_max,
            stale_retention_seconds=self.stale_retention_seconds,
        )
