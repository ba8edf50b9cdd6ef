"""What an operator sets for what leaves: [manager.migrations] and [manager.evacuations]."""

from dataclasses import dataclass, field


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
