"""What an operator sets for what the directory is told: [manager.publish], [manager.links]."""

from dataclasses import dataclass, field


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
