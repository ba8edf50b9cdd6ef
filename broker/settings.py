"""What an operator sets for a broker: section [broker]."""

from dataclasses import dataclass, field

from broker.automation.settings import AutomationSettings
from broker.holding import HoldSettings
from broker.inflight import InFlightSettings
from watari.metrics import MetricsSettings
from watari.rpc.settings import RpcSettings
from watari.settings import EndpointSettings, IdentitySettings, LogSettings, TelemetrySettings


@dataclass(frozen=True)
class CatalogueSettings:
    """How the directory is read."""

    call_seconds_max: float = field(default=3.0, metadata={"min": 0.1})
    """Deadline in seconds of one page."""

    read_seconds_max: float = field(default=60.0, metadata={"min": 0.1})
    """A whole read, all pages and directories together, that takes longer has failed."""

    first_seconds_max: float = field(default=8.0, metadata={"min": 0.0})
    """A question waits so long for the first snapshot: shorter than the 10 s that callers wait by
    default."""

    page_size: int = field(default=500, metadata={"min": 1, "max": 1000})
    """Records a page; most have a few hundred bytes."""

    records_max: int = field(default=500_000, metadata={"min": 1})
    """A catalogue with more records is not read: it bounds the broker's memory, at some 3 KiB a
    record, and twice that while it is read again."""

    refresh_seconds_min: float = field(default=2.0, metadata={"min": 0.0})
    """Between two tries to read a directory, or to resume, while none can be followed."""

    index_seconds_min: float = field(default=0.25, metadata={"min": 0.0})
    """Between two snapshots while records change: what changes within it costs one copy of the
    columns together. Answers are behind the directory by about this."""

    snapshot_age_seconds_max: float = field(default=60.0, metadata={"min": 0.0})
    """While no directory is heard, a snapshot is used up to this age in seconds; prices and room
    seldom change faster, and the destination's manager has the last word in any case."""


@dataclass(frozen=True)
class Settings:
    """A broker."""

    identity: IdentitySettings
    """Who this broker is, and whom it believes."""

    directories: tuple[EndpointSettings, ...]
    """Directories to read, in order of preference; one at least."""

    address: str = "127.0.0.1:7446"
    """host:port to listen on."""

    catalogue: CatalogueSettings = field(default_factory=CatalogueSettings)
    """How the directory is read."""

    in_flight: InFlightSettings = field(default_factory=InFlightSettings)
    """How long this broker's own decisions count beside the directory's records."""

    holds: HoldSettings = field(default_factory=HoldSettings)
    """How room is held at candidates, where the caller lets it be held."""

    manager_call_seconds_max: float = field(default=4.0, metadata={"min": 0.1})
    """Deadline in seconds of a call to a source's manager: two tries are within the 10 s that
    callers wait by default."""

    submissions_max: int = field(default=5, metadata={"min": 1, "max": 100})
    """Candidates that are asked to hold room, or that the source's manager is asked to migrate to,
    before the broker gives up."""

    batch_runs_max: int = field(default=1, metadata={"min": 1, "max": 16})
    """Batches that are solved at once; further ones are refused. Each keeps one processor busy
    for up to its time limit, and all else that the broker answers shares the others."""

    automation: AutomationSettings = field(default_factory=AutomationSettings)
    """Policies and plans; off unless it has a path."""

    metrics: MetricsSettings = MetricsSettings()
    """Where Prometheus fetches."""

    telemetry: TelemetrySettings = TelemetrySettings()
    """Where traces go."""

    log: LogSettings = field(default_factory=LogSettings)
    """How it logs."""

    rpc: RpcSettings = field(default_factory=lambda: RpcSettings(queued_calls_max=1000))
    """Limits of the server and of its channels: a burst of migrations waits for its turn."""

    def __post_init__(self) -> None:
        if not self.directories:
            raise ValueError("directories is empty: a broker reads at least one")
