"""What an operator sets for automatic placement: section [broker.automation]."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class AutomationSettings:
    """Policies and plans. Off without a path: then they are refused with AUTOMATION_OFF."""

    path: Path | None = None
    """SQLite file with policies, plans and what was learnt; its folder is made when missing. One
    broker at a time; on a local file system."""

    interval_seconds: float = field(default=60.0, metadata={"min": 0.1, "max": 3600.0})
    """Between two evaluations of all policies. Prices change by the hour, taints matter within
    minutes, and every evaluation asks each cloud for its tenants' machines."""

    policies_max: int = field(default=1000, metadata={"min": 1, "max": 100_000})
    """Policies of this broker; further ones are refused."""

    policies_per_tenant_max: int = field(default=20, metadata={"min": 1, "max": 1000})
    """Policies of one tenant."""

    machines_max: int = field(default=1000, metadata={"min": 1, "max": 100_000})
    """Machines of one policy that are looked at, by cloud and name; the rest waits, and the policy
    says so."""

    plans_max: int = field(default=10_000, metadata={"min": 100, "max": 1_000_000})
    """Plans kept; the oldest that have ended go first. Some 1 KiB a move."""

    watches_max: int = field(default=16, metadata={"min": 1, "max": 1000})
    """Plans that are watched at once; each holds a thread of the server."""

    estimates_per_round_max: int = field(default=8, metadata={"min": 0, "max": 1000})
    """Moves of one evaluation whose cost the source's manager is asked for before they are planned;
    further ones wait for the next. Each has two agents compare a machine's disks. With 0 nobody is
    asked, and moves are planned by what the directory tells."""

    estimate_seconds_max: float = field(default=60.0, metadata={"min": 0.1, "max": 3600.0})
    """Deadline in seconds of one of these."""

    estimate_valid_seconds: float = field(default=3600.0, metadata={"min": 0.0})
    """How long an estimate counts: disks change slowly beside prices."""

    assumed_bytes_per_second: int = field(default=12_500_000, metadata={"min": 1})
    """Throughput of a way on which nobody has measured any: 100 Mbit/s, a careful guess that an
    estimate replaces."""

    refused_seconds: float = field(default=300.0, metadata={"min": 0.0})
    """A cloud that refuses a policy's delegation is asked again for it after this time, or once it
    was put anew: each refusal is an entry in that cloud's audit log. So is a manager for an
    estimate that it could not make, or that found what stands against the move."""

    start_seconds_max: float = field(default=600.0, metadata={"min": 1.0})
    """A move whose migration could not be begun within this time, its manager being away, has
    failed."""
