"""What an operator sets for a cloud's manager: [manager], whose parts are in modules here."""

from dataclasses import dataclass, field

from manager.settings.accounts import AccountSettings, BillingSettings, PriceSettings
from manager.settings.federation import AuthoritySettings, FederationSettings
from manager.settings.hosts import AgentSettings, ClassSettings, HostSettings
from manager.settings.migrations import EvacuationSettings, MigrationSettings
from manager.settings.publishing import LinkSettings, PublishSettings
from manager.settings.reservations import ReservationSettings
from manager.settings.store import StoreSettings
from watari.metrics import MetricsSettings
from watari.rpc.settings import RpcSettings
from watari.settings import EndpointSettings, IdentitySettings, LogSettings, TelemetrySettings


@dataclass(frozen=True)
class Settings:
    """A cloud's manager."""

    cloud_id: str
    """The cloud: lower-case letters, digits, hyphens; unique in the federation."""

    identity: IdentitySettings
    """Who this manager is, and whom it believes."""

    address: str = "127.0.0.1:7443"
    """host:port to listen on."""

    advertise_address: str = ""
    """host:port under which other clouds reach it; empty is `address`."""

    display_name: str = ""
    """Name for people; empty is the cloud's id."""

    jurisdiction: str = ""
    """ISO 3166-1 alpha-2 code of the law that the cloud is under."""

    region: str = "default"
    """Region that the cloud's hosts are in."""

    traits: tuple[str, ...] = ()
    """Traits of the offer, besides those of the hosts."""

    taints: tuple[str, ...] = ()
    """Reasons to keep new machines away, such as "draining"."""

    taint_ends: dict[str, str] = field(default_factory=dict)
    """When taints are expected to end, such as "2026-12-01T06:00:00Z", by taint; policies weigh the
    time until then against a move. One without is left by whoever can. An end takes away no taint:
    that is done here, by hand."""

    labels: dict[str, str] = field(default_factory=dict)
    """Published with the cloud's record, for filters and policies."""

    agents: dict[str, AgentSettings] = field(default_factory=dict)
    """The cloud's hosts by host id."""

    pool: dict[str, ClassSettings] = field(default_factory=dict)
    """Resource classes that no host owns, such as public addresses: a machine gets them from the
    cloud, wherever it is. What hosts have of such a class does not count."""

    directories: tuple[EndpointSettings, ...] = ()
    """Directories to publish to and to ask, in order of preference; none is allowed."""

    peers: dict[str, EndpointSettings] = field(default_factory=dict)
    """Managers of other clouds by cloud id, used before the directory is asked."""

    processors: tuple[int, ...] = ()
    """Processors that this process keeps to, by number; none: all of them. One is best where many
    reserve at the same time and the database has another: docs/performance.md says why."""

    brokers: tuple[str, ...] = ()
    """SPIFFE ids of brokers that may be delegated migrations from here, and that may hold room here
    under a tenant's mandate; no other broker may."""

    prices: PriceSettings = field(default_factory=PriceSettings)
    """The price sheet."""

    accounts: AccountSettings = field(default_factory=AccountSettings)
    """How the accounts are kept."""

    billing: BillingSettings = field(default_factory=BillingSettings)
    """What invoices show."""

    store: StoreSettings = field(default_factory=StoreSettings)
    """The database."""

    hosts: HostSettings = field(default_factory=HostSettings)
    """How hosts are polled."""

    reservations: ReservationSettings = field(default_factory=ReservationSettings)
    """What is granted to others."""

    migrations: MigrationSettings = field(default_factory=MigrationSettings)
    """How migrations are driven."""

    evacuations: EvacuationSettings = field(default_factory=EvacuationSettings)
    """How hosts and clouds are emptied."""

    publish: PublishSettings = field(default_factory=PublishSettings)
    """What the directory is told."""

    links: LinkSettings = field(default_factory=LinkSettings)
    """How the ways to other clouds are measured."""

    authority: AuthoritySettings = field(default_factory=AuthoritySettings)
    """The provider's certificate authority."""

    metrics: MetricsSettings = MetricsSettings()
    """Where Prometheus fetches."""

    telemetry: TelemetrySettings = TelemetrySettings()
    """Where traces go."""

    federation: FederationSettings = field(default_factory=FederationSettings)
    """How this provider joins others."""

    janitor_seconds: float = field(default=2.0, metadata={"min": 0.02})
    """Between two rounds of expiry, owed calls and unfinished hand-overs."""

    orphans_seconds: float = field(default=60.0, metadata={"min": 0.02})
    """Between two searches for arrivals that have no reservation."""

    watchers_max: int = field(default=16, metadata={"min": 1})
    """WatchMigration streams at a time; each pins a server thread."""

    log: LogSettings = field(default_factory=LogSettings)
    """How it logs."""

    rpc: RpcSettings = field(default_factory=RpcSettings)
    """Limits of the server and of its channels."""
