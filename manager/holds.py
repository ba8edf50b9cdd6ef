"""Room that a broker holds here for a migration, until the source's manager reserves it."""

from collections.abc import Callable, Collection

from manager import mandates, movable
from manager.reservations import Reservations
from manager.standing import Seen
from manager.store import micros
from watari import mandate
from watari.clock import Clock
from watari.identity import Identity, Role, SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2


class Holds:
    """Proves what brokers show. Holding is the reservations'."""

    def __init__(
        self,
        own: Identity,
        clock: Clock,
        cloud_id: str,
        brokers: Collection[str],
        manager_of: Callable[[str], EndpointSettings | None],
        look_up: Callable[[str], None],
        reservations: Reservations,
        seen: Seen,
    ) -> None:
        """`manager_of` tells what is known of a cloud's manager; `look_up` asks the directory."""
        self._own = own
        self._clock = clock
        self._cloud_id = cloud_id
        self._brokers = frozenset(brokers)
        self._manager_of = manager_of
        self._look_up = look_up
        self._reservations = reservations
        self._seen = seen

    def hold(
        self, request: manager_pb2.HoldForMigrationRequest, broker: SpiffeId
    ) -> manager_pb2.HoldForMigrationResponse:
        """Hold room on a tenant's word; idempotent by the reservation.

        Raises Denied NOT_ALLOWED for a broker that the operator has not admitted, MANDATE_INVALID,
        DELEGATION_INVALID and DELEGATION_REVOKED, and what `Reservations.hold` raises.
        """
        movable.require_admitted(broker, self._brokers, self._cloud_id)
        if request.HasField("delegation"):
            shown, signer = self._under_a_standing_one(request, broker)
        else:
            shown, signer = mandate.read(
                request.mandate, self._own.trust, self._clock.now(), delegate=broker
            )
        mandates.require_here(shown, self._cloud_id)
        mandates.require_speaks_for(shown, signer, self._source(shown.from_cloud, signer))
        mandates.require_no_more(shown, request.resources)
        asked = mandates.reserve_request(shown, request)
        return self._reservations.hold(asked, broker, micros(mandate.expires_at(shown)))

    def _under_a_standing_one(
        self, request: manager_pb2.HoldForMigrationRequest, broker: SpiffeId
    ) -> tuple[common_pb2.ReservationMandate, SpiffeId]:
        """What a standing delegation lets be held of one move, and who signed it."""
        now = self._clock.now()
        found = self._seen.read(request.delegation, self._own, now, broker)
        found.require_alive(now)
        found.require_cloud(request.from_cloud)
        found.require_destination(self._cloud_id)
        found.require_vm(request.vm_id)
        return mandates.of_standing(found.standing, request, now), found.standing.signer

    def _source(self, cloud_id: str, signer: SpiffeId) -> EndpointSettings | None:
        """The manager of the machine's cloud. Only for an operator's word it matters who that is,
        so only then the directory is asked.
        """
        known = self._manager_of(cloud_id)
        if known is None and signer.role is Role.OPERATOR:
            self._look_up(cloud_id)
            known = self._manager_of(cloud_id)
        return known
