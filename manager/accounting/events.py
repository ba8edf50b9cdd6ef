"""Usage events: what happened to a machine at one cloud, as accounting takes it.

An event is immutable and has an id: whoever tells it again tells the same. Both clouds of a
migration have one each, DEPARTED and ARRIVED, with the cut-over instant of the signed hand-over.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from watari import validate

RESOURCES_MAX = 40
"""Most resource classes of one machine."""

AMOUNT_MAX = 2**52
"""Most of one class: what the inventory has at most too."""


class Kind(enum.Enum):
    """What happened. Whatever was not here before is here from its first event on."""

    STARTED = "started"
    STOPPED = "stopped"
    RESIZED = "resized"
    ARRIVED = "arrived"
    DEPARTED = "departed"
    DELETED = "deleted"


@dataclass(frozen=True)
class Pin:
    """A quote's promise: this version of the price sheet holds until then."""

    version: int
    until: int
    """Microseconds since 1970, exclusive."""
    quote_id: str = ""
    """The quote; empty where only its promise was kept."""

    def holds(self, instant: int) -> bool:
        """Whether what is used at an instant is priced by it."""
        return instant < self.until


@dataclass(frozen=True)
class Event:
    """One fact. Resources are what the machine has from then on."""

    event_id: str
    sequence: int
    """Grows with every event that this cloud records; orders events of one instant."""
    cloud_id: str
    kind: Kind
    at: int
    """Microseconds since 1970 UTC (POSIX: without leap seconds)."""
    vm_id: str
    payer: str
    """Who is billed: see `payer`."""
    tenant: str
    vm_name: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    """Amounts by resource class; asked for by all kinds but DEPARTED and DELETED."""
    running: bool = False
    """ARRIVED: whether it runs here from that instant on."""
    pin: Pin | None = None
    """With the event that brings a machine here: the quote that it came with."""
    migration_id: str = ""
    peer: str = ""
    """The other cloud of a migration."""
    sent_bytes: int = 0
    """DEPARTED: sealed bytes that left."""
    received_bytes: int = 0
    """ARRIVED: sealed bytes that came."""

    def __post_init__(self) -> None:
        for name in ("event_id", "cloud_id", "vm_id", "payer"):
            if not getattr(self, name):
                raise validate.invalid_field(name, "must not be empty", "every event names it")
        validate.require_count(len(self.resources), "resources", RESOURCES_MAX)
        for resource, amount in self.resources.items():
            validate.require_range(amount, f"resources.{resource}", 0, AMOUNT_MAX)
        validate.require_range(self.sent_bytes, "sent_bytes", 0, 2**63 - 1)
        validate.require_range(self.received_bytes, "received_bytes", 0, 2**63 - 1)


def payer(tenant_domain: str, tenant: str, own_domain: str) -> str:
    """Who is billed for a tenant's machine: the tenant at home, its provider elsewhere."""
    return f"tenant:{tenant}" if tenant_domain == own_domain else f"peer:{tenant_domain}"
