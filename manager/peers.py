"""Managers of other clouds: finding them, and calling them.

Where a cloud's manager is comes from the settings, else from its provider, where that one joined
this one's federation, else from the directory. What that one tells
is kept on disk, and all of it is looked through now and then: a migration that has begun needs no
directory, and a new one only for a cloud that was never heard of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from manager import tables
from manager.directories import Directories
from manager.settings.migrations import MigrationSettings
from manager.store import Store, micros
from watari import errors, logs
from watari.clock import Clock
from watari.identity import Role, SpiffeId
from watari.rpc import client
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, directory_pb2, manager_pb2, manager_pb2_grpc

_PEERS = tables.peers.c
_log = logs.get(__name__)


class Peers:
    """Other clouds' managers, by cloud id."""

    def __init__(
        self,
        static: Mapping[str, EndpointSettings],
        member: Callable[[str], EndpointSettings | None],
        store: Store,
        clock: Clock,
        directories: Directories,
        channels: client.ChannelPool,
        limits: MigrationSettings,
    ) -> None:
        self._static = static
        self._member = member
        self._store = store
        self._clock = clock
        self._directories = directories
        self._channels = channels
        self._limits = limits

    def find(self, cloud_id: str) -> EndpointSettings:
        """A cloud's manager, for a migration that begins.

        Raises NotFound CLOUD_NOT_FOUND when the federation has no such cloud, Unavailable when
        nobody can be asked and the cloud was never heard of.
        """
        told = self._told(cloud_id)
        if told is not None:
            return told
        if not self._directories.configured:
            raise _not_found(cloud_id, "let its provider join: watari federation invite")
        try:
            return self._ask(cloud_id)
        except errors.NotFound as error:
            raise _not_found(cloud_id, "`watari cloud list` shows the clouds") from error
        except errors.WatariError:
            known = self.known(cloud_id)
            if known is None:
                raise
            return known

    def known(self, cloud_id: str) -> EndpointSettings | None:
        """A cloud's manager as far as this one knows, without asking anybody."""
        told = self._told(cloud_id)
        if told is not None:
            return told
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(_PEERS.address, _PEERS.spiffe_id).where(_PEERS.cloud_id == cloud_id)
            ).one_or_none()
        return None if row is None else EndpointSettings(row.address, row.spiffe_id)

    def heard_of(self) -> dict[str, EndpointSettings]:
        """The managers of the settings, and of every cloud that the directory ever had and whose
        provider is none that joined; the own cloud's perhaps included.
        """
        with self._store.read() as connection:
            found = connection.execute(sa.select(_PEERS.cloud_id, _PEERS.address, _PEERS.spiffe_id))
            heard = {row.cloud_id: EndpointSettings(row.address, row.spiffe_id) for row in found}
        return heard | dict(self._static)

    def refresh(self, cloud_id: str) -> None:
        """Look whether a cloud's manager has moved; a directory that is away changes nothing."""
        if self._told(cloud_id) is not None or not self._directories.configured:
            return
        try:
            self._ask(cloud_id)
        except errors.WatariError as error:
            _log.info("cloud not looked up", cloud_id=cloud_id, reason=error.reason)

    def learn(self) -> None:
        """Note every cloud of the directory, for the time when it is away."""
        try:
            records = self._directories.clouds()
        except errors.WatariError as error:
            _log.info("clouds not looked up", reason=error.reason)
            return
        for record in records:
            try:
                self._note(record.key.cloud_id, record.cloud)
            except errors.WatariError as error:
                _log.warning("cloud not noted", cloud=record.key.cloud_id, reason=error.reason)

    def reserve(
        self, to: "Peer", request: manager_pb2.ReserveRequest
    ) -> manager_pb2.ReserveResponse:
        """Reserve room there."""
        return client.call(
            self._stub(to).Reserve, request, timeout_seconds=self._limits.peer_call_seconds_max
        )

    def grant_estimate(
        self, to: "Peer", request: manager_pb2.GrantEstimateRequest
    ) -> manager_pb2.GrantEstimateResponse:
        """Have a session granted that only estimates."""
        deadline = self._limits.peer_call_seconds_max
        return client.call(self._stub(to).GrantEstimate, request, timeout_seconds=deadline)

    def extend(self, to: "Peer", reservation_id: str, ttl_seconds: int) -> manager_pb2.Reservation:
        """Move a reservation's expiry."""
        request = manager_pb2.ExtendReservationRequest(
            reservation_id=reservation_id, ttl_seconds=ttl_seconds
        )
        deadline = self._limits.peer_call_seconds_max
        return client.call(
            self._stub(to).ExtendReservation, request, timeout_seconds=deadline
        ).reservation

    def confirm(self, to: "Peer", reservation_id: str) -> manager_pb2.Reservation:
        """Make a reservation firm."""
        request = manager_pb2.ConfirmReservationRequest(reservation_id=reservation_id)
        deadline = self._limits.peer_call_seconds_max
        return client.call(
            self._stub(to).ConfirmReservation, request, timeout_seconds=deadline
        ).reservation

    def release(self, to: "Peer", reservation_id: str) -> None:
        """Give a reservation back."""
        request = manager_pb2.ReleaseReservationRequest(reservation_id=reservation_id)
        deadline = self._limits.peer_call_seconds_max
        client.call(self._stub(to).ReleaseReservation, request, timeout_seconds=deadline)

    def hand_over(
        self, to: "Peer", document: common_pb2.SignedDocument
    ) -> manager_pb2.HandOverVmResponse:
        """Hand a machine over."""
        request = manager_pb2.HandOverVmRequest(hand_over=document)
        deadline = self._limits.hand_over_seconds_max
        return client.call(self._stub(to).HandOverVm, request, timeout_seconds=deadline)

    def _told(self, cloud_id: str) -> EndpointSettings | None:
        """As the settings have it, or the cloud's own provider."""
        return self._static.get(cloud_id) or self._member(cloud_id)

    def _ask(self, cloud_id: str) -> EndpointSettings:
        return self._note(cloud_id, self._directories.cloud(cloud_id))

    def _note(self, cloud_id: str, cloud: directory_pb2.Cloud) -> EndpointSettings:
        target = client.Target.of(cloud.manager)
        if target.spiffe_id.role is not Role.MANAGER:
            raise _not_found(cloud_id, f"its record names {target.spiffe_id}, which is no manager")
        found = EndpointSettings(target.address, str(target.spiffe_id))
        if found == self.known(cloud_id):
            return found
        with self._store.write() as connection:
            connection.execute(tables.peers.delete().where(_PEERS.cloud_id == cloud_id))
            connection.execute(
                tables.peers.insert().values(
                    cloud_id=cloud_id,
                    address=target.address,
                    spiffe_id=str(target.spiffe_id),
                    seen_at=micros(self._clock.now()),
                )
            )
        return found

    def _stub(self, to: "Peer") -> manager_pb2_grpc.ReservationServiceStub:
        known = self.known(to.cloud_id)
        if known is None or known.spiffe_id != str(to.manager):
            raise errors.Unavailable(
                "PEER_UNAVAILABLE",
                f"cloud {to.cloud_id} has no manager {to.manager} any more",
                hint="the directory names another one, which did not make this reservation",
                peer=to.manager,
            )
        target = client.Target(known.address, to.manager)
        return manager_pb2_grpc.ReservationServiceStub(self._channels.get(target))


@dataclass(frozen=True)
class Peer:
    """Another cloud and the one identity that may speak for it in a migration."""

    cloud_id: str
    manager: SpiffeId


def _not_found(cloud_id: str, hint: str) -> errors.NotFound:
    return errors.NotFound(
        "CLOUD_NOT_FOUND",
        f"the federation has no cloud {cloud_id!r}",
        hint=hint,
        cloud_id=cloud_id,
    )
