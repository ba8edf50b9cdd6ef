"""What an operator sets for what is granted to others: [manager.reservations]."""

from dataclasses import dataclass, field


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
