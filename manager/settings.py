"""What an operator sets for a cloud's manager: section [manager]."""

from dataclasses import dataclass, field
from pathlib import Path

from manager.store_settings import StoreSettings
from watari.identity.authority import LEAF_SECONDS_DEFAULT
from watari.metrics import MetricsSettings
from watari.rpc.settings import RpcSettings
from watari.settings import EndpointSettings, IdentitySettings, LogSettings, TelemetrySettings


@dataclass(frozen=True)
class ClassSettings:
    """A resource class of a host or of the cloud's pool, such as "disk:ssd" or "public_ipv4"."""

    total: int = field(default=0, metadata={"min": 0, "max": 2**52})
    """Units that there are; 0 leaves what the host's agent tells, if it tells of the class."""

    reserved: int = field(default=0, metadata={"min": 0, "max": 2**52})
    """Units that are kept back; with those that the host keeps back of vcpus, memory and disk."""

    allocation_ratio: float = field(default=1.0, metadata={"min": 0.1, "max": 64.0})
    """Units sold per unit that there is; of vcpus times vcpu_allocation_ratio."""

    min_unit: int = field(default=1, metadata={"min": 1, "max": 2**52})
    """Least units that one machine gets, if any."""

    max_unit: int = field(default=2**52, metadata={"min": 1, "max": 2**52})
    """Most units that one machine gets."""

    step_size: int = field(default=1, metadata={"min": 1, "max": 2**52})
    """Units are given in multiples of this."""


@dataclass(frozen=True)
class AgentSettings:
    """One host of this cloud."""

    address: str
    """host:port of its agent's control port."""

    spiffe_id: str
    """Identity that the agent must prove; its provider is this cloud's."""

    reserved_vcpus: int = field(default=0, metadata={"min": 0})
    """Virtual CPUs that are kept back for the host itself."""

    reserved_memory_bytes: int = field(default=0, metadata={"min": 0})
    """Memory in bytes that is kept back for the host itself."""

    reserved_disk_bytes: int = field(default=0, metadata={"min": 0})
    """Disk in bytes that is kept back for the host itself."""

    vcpu_allocation_ratio: float = field(default=1.0, metadata={"min": 0.1, "max": 64.0})
    """Virtual CPUs sold per CPU of the host; memory and disk are not oversold."""

    inventory: dict[str, ClassSettings] = field(default_factory=dict)
    """More about resource classes of the host: vcpus, memory_bytes, disk_bytes and further ones."""

    traits: tuple[str, ...] = ()
    """Traits of the host, besides those that its agent tells: reservations may require or forbid
    them."""


@dataclass(frozen=True)
class PriceSettings:
    """The price sheet. Amounts are decimal strings, so that no rounding happens on the way."""

    currency: str = "JPY"
    """ISO 4217 code of all amounts."""

    version: int = field(default=1, metadata={"min": 1})
    """To be raised with every change of an amount: reservations record the version."""

    vcpu_hour: str = "0"
    """Per virtual CPU and hour."""

    memory_gib_hour: str = "0"
    """Per GiB of memory and hour."""

    disk_gib_month: str = "0"
    """Per GiB of disk and month of 730 hours."""

    egress_gib: str = "0"
    """Per GiB of sealed bytes that a migration takes out of the cloud."""

    migration_flat: str = "0"
    """Per migration."""

    quote_ttl_seconds: int = field(default=3600, metadata={"min": 60, "max": 86_400})
    """How long a quote is binding, whatever the price sheet says by then: no longer than the
    certificate that signs it surely lasts."""


@dataclass(frozen=True)
class AccountSettings:
    """How the accounts are kept."""

    book_seconds: float = field(default=60.0, metadata={"min": 0.05})
    """Between two times that they are brought up to date: how old the totals get that budgets
    look at."""

    time_zone: str = "UTC"
    """Zone of the tz database in which billing months begin at midnight."""

    close_seconds: float = field(default=259_200.0, metadata={"min": 0.0, "max": 2_592_000.0})
    """How long after a month's end its charges are posted: what hosts that were away tell until
    then is in them. 3 days."""

    seal_seconds: float = field(default=3_024_000.0, metadata={"min": 0.0, "max": 31_536_000.0})
    """How long after a month's end something that is told late still corrects it. 35 days."""


@dataclass(frozen=True)
class PartySettings:
    """Who issues invoices or gets them, as it is printed."""

    name: str = ""
    """Of a company or a person; empty is the cloud's id, or the payer's own name."""

    address: tuple[str, ...] = ()
    """Line by line."""

    tax_id: str = ""
    """As an invoice has to show it."""


@dataclass(frozen=True)
class BillingSettings:
    """What invoices show. Their months are those of the accounts."""

    issuer: PartySettings = field(default_factory=PartySettings)
    """The provider."""

    customers: dict[str, PartySettings] = field(default_factory=dict)
    """Payers by name, as in "tenant:acme" or "peer:osaka.example"."""


@dataclass(frozen=True)
class HostSettings:
    """How the manager keeps up with its hosts."""

    poll_seconds: float = field(default=5.0, metadata={"min": 0.05})
    """Between two looks at every host: how old its inventory gets."""

    call_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """Deadline in seconds of a control call to an agent."""

    lifecycle_seconds_max: float = field(default=300.0, metadata={"min": 0.1})
    """Deadline in seconds of a call that may start, stop, save or restore a machine: to hold it and
    to end that, to activate, start and stop it; the time that a guest has to stop comes on top."""

    events_seconds: float = field(default=10.0, metadata={"min": 0.05})
    """Between two readings of every host's event log."""

    usage_events_days: int = field(default=400, metadata={"min": 62, "max": 36_500})
    """Recorded events of hosts stay for this many days, whatever becomes of them: longer than the
    month that they are charged in stays open, and than anybody disputes an invoice."""

    guests_max: int = field(default=10_000, metadata={"min": 1})
    """Machines that are read from one host at most; more is an error of the host."""


@dataclass(frozen=True)
class ReservationSettings:
    """What this cloud grants to others."""

    ttl_seconds_max: int = field(default=3600, metadata={"min": 10, "max": 86_400})
    """Longest time in seconds that a pending reservation holds room without being extended."""

    grant_ttl_seconds: int = field(default=86_400, metadata={"min": 10})
    """A new data session may be opened for this many seconds; the reservation's end ends it too."""

    grant_slack_percent: int = field(default=10, metadata={"min": 0, "max": 1000})
    """Payload beyond the disks' sizes that a grant admits: frame headers and resent frames."""

    estimate_ttl_seconds: int = field(default=300, metadata={"min": 10, "max": 3600})
    """A session that only estimates may be opened for this many seconds after it was granted:
    enough for clocks that differ a little."""

    rate_bytes_per_second_max: int = field(default=0, metadata={"min": 0})
    """Bandwidth cap written into every grant; 0 is none."""

    prepare_seconds_max: float = field(default=300.0, metadata={"min": 1.0})
    """How long a machine that was handed over, and is to run, may fail to become ready because its
    host does not answer; then it is given back to its source, without having run."""

    pending_max: int = field(default=1000, metadata={"min": 1})
    """Held, pending and confirmed reservations at a time."""

    hold_seconds_max: int = field(default=600, metadata={"min": 10, "max": 3600})
    """Longest time in seconds that a broker may hold room until the source reserves."""

    held_per_tenant_max: int = field(default=200, metadata={"min": 0})
    """Machines of one tenant that brokers may hold room for at a time; 0 lets them hold none."""

    booked_max: int = field(default=1000, metadata={"min": 0})
    """Reservations in advance at a time; 0 admits none. Each admission looks at all of them."""

    ahead_seconds_max: int = field(default=30 * 86_400, metadata={"min": 1})
    """How far ahead in seconds a reservation in advance may start."""

    booked_seconds_max: int = field(default=7 * 86_400, metadata={"min": 1})
    """How long in seconds a reservation in advance may hold room."""


@dataclass(frozen=True)
class MigrationSettings:
    """How migrations that leave this cloud are driven."""

    concurrent_max: int = field(default=4, metadata={"min": 1, "max": 64})
    """Migrations between RESERVING and the commit point at a time; the others queue."""

    finishers_max: int = field(default=4, metadata={"min": 1, "max": 64})
    """Further threads, so that committed migrations and roll-backs never wait for copies."""

    active_max: int = field(default=1000, metadata={"min": 1})
    """Migrations that have not ended at a time; further ones are refused."""

    reservation_ttl_seconds: int = field(default=900, metadata={"min": 10, "max": 86_400})
    """What is asked for at the destination; extended after a third of what is given."""

    peer_call_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """Deadline in seconds of a control call to another cloud's manager."""

    hand_over_seconds_max: float = field(default=60.0, metadata={"min": 0.1})
    """Deadline in seconds of HandOverVm, which waits for the receiving agent to activate."""

    agent_wait_seconds_max: float = field(default=60.0, metadata={"min": 0.0})
    """How long an agent of this cloud may not answer before the migration is rolled back."""

    peer_wait_seconds_max: float = field(default=120.0, metadata={"min": 0.0})
    """How long the destination's manager may not answer before the migration is rolled back."""

    copying_seconds_max: float = field(default=86_400.0, metadata={"min": 1.0})
    """Longest COPYING, all attempts together; then the migration is rolled back."""

    transfer_attempts_max: int = field(default=12, metadata={"min": 1})
    """Transfers in a row that may fail retryably without getting further than any before; then
    the migration is rolled back."""

    estimate_seconds_max: float = field(default=3600.0, metadata={"min": 1.0})
    """Deadline in seconds of an estimate, which reads every disk once: 4 TiB at 1.2 GB/s."""

    estimates_max: int = field(default=4, metadata={"min": 1, "max": 64})
    """Estimates at a time; each pins a server thread, and further ones are refused."""

    watch_seconds_max: float = field(default=15.0, metadata={"min": 0.05})
    """Longest single watch of a transfer: how late an extension or a deadline is noticed."""

    rollback_wait_seconds_max: float = field(default=30.0, metadata={"min": 0.0})
    """How long a roll-back tries in person; what is not reached then is owed and tried for ever."""

    retry_initial_seconds: float = field(default=0.2, metadata={"min": 0.001})
    """First delay before a step is repeated; it doubles."""

    retry_max_seconds: float = field(default=15.0, metadata={"min": 0.001})
    """Longest delay before a step is repeated: how late a peer that came back is noticed."""


@dataclass(frozen=True)
class EvacuationSettings:
    """How hosts and clouds are emptied. What runs at a time is bounded by `migrations` too."""

    check_seconds: float = field(default=1.0, metadata={"min": 0.02})
    """Between two looks at what has ended and what can be started."""

    active_max: int = field(default=16, metadata={"min": 1, "max": 1000})
    """Evacuations that have not ended at a time; further ones are refused."""

    machines_max: int = field(default=10_000, metadata={"min": 1})
    """Machines of one evacuation that still have to go; it takes up further ones as these go."""

    attempts_max: int = field(default=3, metadata={"min": 1, "max": 100})
    """Migrations of one machine to one cloud that may fail for a passing reason; then the next
    cloud is tried."""

    retry_initial_seconds: float = field(default=10.0, metadata={"min": 0.001})
    """First delay before a machine is tried again; it doubles."""

    retry_max_seconds: float = field(default=300.0, metadata={"min": 0.001})
    """Longest delay before a machine is tried again."""

    watchers_max: int = field(default=4, metadata={"min": 1})
    """WatchEvacuation streams at a time; each pins a server thread."""


@dataclass(frozen=True)
class PublishSettings:
    """What the directory is told, and when."""

    check_seconds: float = field(default=2.0, metadata={"min": 0.05})
    """Between two comparisons of what is published with what is true."""

    refresh_seconds: float = field(default=300.0, metadata={"min": 1.0})
    """Records are written again after this time even when nothing changed."""

    lease_ttl_seconds: int = field(default=30, metadata={"min": 5, "max": 3600})
    """Records go stale this long after the manager stopped renewing; renewed at a third."""

    call_seconds_max: float = field(default=5.0, metadata={"min": 0.1})
    """Deadline in seconds of a call to the directory."""

    learn_seconds: float = field(default=60.0, metadata={"min": 0.05})
    """Between two looks at which clouds there are, so that they are known when it is away."""


@dataclass(frozen=True)
class LinkSettings:
    """How the ways to other clouds are measured, and for how long that holds."""

    check_seconds: float = field(default=10.0, metadata={"min": 0.05})
    """Between two looks at which round trips are due."""

    measure_seconds: float = field(default=300.0, metadata={"min": 0.05})
    """Between two measurements of one cloud's round trip."""

    clouds_at_a_time_max: int = field(default=8, metadata={"min": 1, "max": 64})
    """Clouds that are measured at one look."""

    valid_seconds: float = field(default=900.0, metadata={"min": 1.0})
    """How long a round trip may be used."""

    throughput_valid_seconds: float = field(default=604_800.0, metadata={"min": 1.0})
    """How long the throughput of a migration may be used: 7 days."""

    links_max: int = field(default=256, metadata={"min": 1, "max": 1000})
    """Links that are published; those that migrations took come first."""


@dataclass(frozen=True)
class AuthoritySettings:
    """The provider's certificate authority, if this manager issues certificates."""

    folder: Path | None = None
    """Folder with `ca.pem` and `ca.key` (`watari ca init`); none: parties are not renewed by it."""

    passphrase_file: Path | None = None
    """File, mode 0600, whose first line decrypts the key; none for a key that is not encrypted."""

    leaf_seconds: int = field(default=LEAF_SECONDS_DEFAULT, metadata={"min": 10, "max": 7_776_000})
    """How long a certificate lasts that is issued to a party; renewed after a third of it."""

    overlap_seconds: int = field(default=7_776_000, metadata={"min": 10, "max": 31_536_000})
    """How long an authority is still accepted once another one issues: as long as the longest
    certificate that `watari ca issue` makes, 90 days."""


@dataclass(frozen=True)
class FederationSettings:
    """How this provider joins others."""

    invitations_max: int = field(default=16, metadata={"min": 1, "max": 256})
    """Invitations that may be open at a time."""

    invitation_ttl_seconds: int = field(default=86_400, metadata={"min": 60, "max": 604_800})
    """How long an invitation holds, unless another time is asked for."""

    check_seconds: float = field(default=1.0, metadata={"min": 0.05})
    """Between two looks at what has to be told to whom, and at authorities that are changed."""

    call_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """Deadline in seconds of a call to another provider about the federation."""

    retry_max_seconds: float = field(default=60.0, metadata={"min": 0.1})
    """Longest delay before a provider that did not answer is told again."""


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
