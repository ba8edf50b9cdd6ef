"""What is asked of a cloud's manager beside migrations: to start and stop machines, what is kept of
those that went away, decisions in the place of a peer that is gone, evacuations, and what brokers
may do.
"""

from collections.abc import Iterator

from watari import errors, rpc
from watari.cli.calls import PAGE_SIZE, pages
from watari.cli.clients import Manager
from watari.v1 import manager_pb2, manager_pb2_grpc

LIFECYCLE_SECONDS_MAX = 330.0
"""Deadline in seconds of a call that starts or stops a machine, beside the time that its guest is
given: a little more than what the manager gives its agent."""

HOSTS_SECONDS_MAX = 60.0
"""Deadline in seconds of a call for which the manager asks all of its hosts."""


class Operating:
    """A cloud's manager."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self._peer = manager.peer
        self._stub = manager_pb2_grpc.ManagerServiceStub(manager.peer.channel)

    def start(self, vm_id: str) -> manager_pb2.Vm:
        """Lets a machine run."""
        request = manager_pb2.StartVmRequest(vm=vm_id)
        return self._peer.patient(LIFECYCLE_SECONDS_MAX).change(self._stub.StartVm, request).vm

    def stop(self, vm_id: str, seconds_max: int) -> manager_pb2.Vm:
        """Stops a machine, by force after so many seconds."""
        request = manager_pb2.StopVmRequest(vm=vm_id, timeout_seconds=seconds_max)
        peer = self._peer.patient(LIFECYCLE_SECONDS_MAX + seconds_max)
        return peer.change(self._stub.StopVm, request).vm

    def retained(self, vm_id: str = "") -> list[manager_pb2.RetainedVm]:
        """What the hosts keep of machines that went away."""
        request = manager_pb2.ListRetainedVmsRequest(vm_id=vm_id)
        peer = self._peer.patient(HOSTS_SECONDS_MAX)
        return list(peer.read(self._stub.ListRetainedVms, request).retained)

    def purge(self, vm_id: str, migration_id: str = "") -> list[manager_pb2.RetainedVm]:
        """Deletes what is kept of a machine; of one migration only, if it is named."""
        request = manager_pb2.PurgeVmRequest(vm_id=vm_id, migration_id=migration_id)
        peer = self._peer.patient(HOSTS_SECONDS_MAX)
        return list(peer.change(self._stub.PurgeVm, request).purged)

    def delegations(self) -> list[manager_pb2.KnownDelegation]:
        """Standing delegations that brokers have shown there, or that were revoked."""
        return pages(
            lambda token: self._peer.read(
                self._stub.ListDelegations,
                manager_pb2.ListDelegationsRequest(page_size=PAGE_SIZE, page_token=token),
            ),
            lambda page: page.delegations,
        )

    def revoke_delegation(self, delegation_id: str, reason: str) -> manager_pb2.KnownDelegation:
        """Ends a standing delegation there; repeating it is safe."""
        request = manager_pb2.RevokeDelegationRequest(delegation_id=delegation_id, reason=reason)
        return self._peer.change(self._stub.RevokeDelegation, request).delegation

    def resolve(
        self,
        migration_id: str,
        resolution: manager_pb2.Resolution.ValueType,
        justification: str,
    ) -> manager_pb2.ResolveMigrationResponse:
        """Ends a migration whose peer is gone for good."""
        request = manager_pb2.ResolveMigrationRequest(
            migration_id=migration_id, resolution=resolution, justification=justification
        )
        peer = self._peer.patient(HOSTS_SECONDS_MAX)
        return peer.change(self._stub.ResolveMigration, request)

    def reshape(
        self, request: manager_pb2.ReshapeInventoryRequest
    ) -> manager_pb2.ReshapeInventoryResponse:
        """Renames or splits a resource class; repeating it is safe."""
        return self._peer.patient(HOSTS_SECONDS_MAX).change(self._stub.ReshapeInventory, request)

    def reservations(self, *, active_only: bool = False) -> list[manager_pb2.Reservation]:
        """What arrives or has arrived in the cloud, newest first."""
        stub = manager_pb2_grpc.ReservationServiceStub(self._peer.channel)
        return pages(
            lambda token: self._peer.read(
                stub.ListReservations,
                manager_pb2.ListReservationsRequest(
                    page_size=PAGE_SIZE, page_token=token, active_only=active_only
                ),
            ),
            lambda page: page.reservations,
        )

    def reservation(self, reservation_id: str) -> manager_pb2.Reservation:
        """One of the cloud's. Raises NotFound RESERVATION_NOT_FOUND."""
        stub = manager_pb2_grpc.ReservationServiceStub(self._peer.channel)
        request = manager_pb2.GetReservationRequest(reservation_id=reservation_id)
        return self._peer.read(stub.GetReservation, request).reservation

    def reserve(self, request: manager_pb2.ReserveRequest) -> manager_pb2.ReserveResponse:
        """Reserves room in advance; repeating it with the same id is safe."""
        stub = manager_pb2_grpc.ReservationServiceStub(self._peer.channel)
        return self._peer.change(stub.Reserve, request)

    def release(self, reservation_id: str) -> manager_pb2.Reservation:
        """Gives one back, as it is then. Raises NotFound RESERVATION_NOT_FOUND for one that this
        caller may not give back, or that is not there.
        """
        stub = manager_pb2_grpc.ReservationServiceStub(self._peer.channel)
        request = manager_pb2.ReleaseReservationRequest(reservation_id=reservation_id)
        answer = self._peer.change(stub.ReleaseReservation, request)
        if not answer.HasField("reservation"):
            raise errors.NotFound(
                "RESERVATION_NOT_FOUND",
                f"no reservation {reservation_id} that can be given back from here",
                hint="what is confirmed is given back by the cloud that asked for it",
                reservation_id=reservation_id,
            )
        return answer.reservation

    def evacuate(self, request: manager_pb2.StartEvacuationRequest) -> manager_pb2.Evacuation:
        """Starts an evacuation; repeating it with the same id is safe."""
        return self._peer.change(self._stub.StartEvacuation, request).evacuation

    def evacuation(self, evacuation_id: str) -> manager_pb2.Evacuation:
        """An evacuation of this cloud. Raises NotFound EVACUATION_NOT_FOUND."""
        request = manager_pb2.GetEvacuationRequest(evacuation_id=evacuation_id)
        return self._peer.read(self._stub.GetEvacuation, request).evacuation

    def watch_evacuation(self, evacuation_id: str) -> Iterator[manager_pb2.Evacuation]:
        """An evacuation at every change until it or the stream ends. Raises WatariError."""
        request = manager_pb2.WatchEvacuationRequest(evacuation_id=evacuation_id)
        try:
            with rpc.stream(
                self._stub.WatchEvacuation, request, timeout_seconds=self.manager.watch_seconds_max
            ) as responses:
                for response in responses:
                    yield response.evacuation
        except errors.WatariError as error:
            raise self._peer.named(error) from error

    def cancel_evacuation(self, evacuation_id: str) -> manager_pb2.Evacuation:
        """Starts no further migration of it."""
        request = manager_pb2.CancelEvacuationRequest(evacuation_id=evacuation_id)
        return self._peer.change(self._stub.CancelEvacuation, request).evacuation
