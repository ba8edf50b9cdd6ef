"""What an operator sets for hosts: [manager.agents.HOST], [manager.pool] and [manager.hosts]."""

from dataclasses import dataclass, field


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
