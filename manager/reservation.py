"""Room held for one machine: a value, its states and how they follow one another.

Moments are whole microseconds since 1970 UTC.

BOOKED --(claimed)--> PENDING; BOOKED ---> RELEASED, EXPIRED

HELD --(adopted)--> PENDING; what is released or expires while it is HELD is deleted

PENDING ---> CONFIRMED ---> USED
   |             |
   |             +--------> RELINQUISHED (handed over, and given back without having run)
   |             |            ^     ^
   |             +--------> RELEASED|    (never once a hand-over is recorded)
   +----------------------> RELEASED|
   +----------------------> EXPIRED-+    (a hand-over that comes too late)
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from manager import inventory, ownership
from manager.inventory import Amounts
from manager.ownership import Tenant
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2


class State(StrEnum):
    """Where a reservation stands."""

    BOOKED = "BOOKED"
    HELD = "HELD"
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    USED = "USED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    RELINQUISHED = "RELINQUISHED"


ARRIVING = frozenset({State.PENDING, State.CONFIRMED})
"""States in which a machine may come."""

LIVE = ARRIVING | {State.HELD}
"""States that hold room now, and without an end."""

OPEN = LIVE | {State.BOOKED}
"""States that have not ended: booked ones hold room for a time to come."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.BOOKED: frozenset({State.PENDING, State.RELEASED, State.EXPIRED}),
    State.HELD: frozenset({State.PENDING}),
    State.PENDING: frozenset({State.CONFIRMED, State.RELEASED, State.EXPIRED}),
    State.CONFIRMED: frozenset({State.USED, State.RELEASED, State.RELINQUISHED}),
    State.USED: frozenset(),
    State.RELEASED: frozenset({State.RELINQUISHED}),
    State.EXPIRED: frozenset({State.RELINQUISHED}),
    State.RELINQUISHED: frozenset(),
}


@dataclass(frozen=True)
class Reservation:
    """Room held for one machine."""

    reservation_id: str
    migration_id: str
    vm_id: str
    from_cloud: str
    requested_by: str
    host_id: str
    state: State
    expires_at: int
    created_at: int
    price_version: int
    request: manager_pb2.ReserveRequest
    grant: common_pb2.SignedDocument
    hand_over: common_pb2.SignedDocument | None = None
    hand_over_at: int | None = None
    relinquishment: common_pb2.SignedDocument | None = None
    resolution: int | None = None
    """What an operator decided: a Resolution of the contract."""

    starts_at: int | None = None
    """Of one that was made in advance, and until when it holds room unless it is claimed."""

    ends_at: int | None = None
    resources: common_pb2.Resources | None = None
    """What the machine needs by the classes' present names, where these are not the request's."""

    @property
    def needs(self) -> common_pb2.Resources:
        """What the machine needs."""
        return self.request.resources if self.resources is None else self.resources

    @property
    def takes(self) -> Amounts:
        """What is taken for it."""
        return inventory.of_machine(self.needs, self.request.disks)

    @property
    def kept(self) -> bool:
        """Whether an operator decided that the machine lives here."""
        return self.resolution == manager_pb2.RESOLUTION_KEEP_HERE

    @property
    def committed(self) -> bool:
        """Whether it can be released no more: the machine is this cloud's, or becomes it."""
        arriving = self.state in LIVE and (self.hand_over is not None or self.kept)
        return self.state is State.USED or arriving

    @cached_property
    def owner(self) -> Tenant:
        """The tenant whose machine it is for."""
        return ownership.tenant_of_arrival(self.request, SpiffeId.parse(self.requested_by))

    @property
    def tenant_domain(self) -> str:
        """The provider whose tenant the machine is."""
        return self.owner.domain

    def message(self) -> manager_pb2.Reservation:
        """The reservation as the contract shows it."""
        shown = manager_pb2.Reservation(
            reservation_id=self.reservation_id,
            migration_id=self.migration_id,
            vm_id=self.vm_id,
            vm_name=self.request.vm_name,
            tenant=self.request.tenant,
            from_cloud=self.from_cloud,
            requested_by=self.requested_by,
            resources=self.needs,
            host_id=self.host_id,
            state=manager_pb2.ReservationState.Value(f"RESERVATION_STATE_{self.state}"),
            price_version=self.price_version,
        )
        shown.expires_at.FromMicroseconds(self.expires_at)
        shown.created_at.FromMicroseconds(self.created_at)
        if self.starts_at is not None and self.ends_at is not None:
            shown.starts_at.FromMicroseconds(self.starts_at)
            shown.ends_at.FromMicroseconds(self.ends_at)
        return shown

    def told(self) -> dict[str, str]:
        """What the audit log says of it, besides its id."""
        return {
            "migration_id": self.migration_id,
            "vm_id": self.vm_id,
            "from_cloud": self.from_cloud,
        }
