"""The calls that the broker makes: to directories, and to the managers of sources."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc

from broker.reading import Messages, Source
from watari import errors, rpc
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.retry import Backoff
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, directory_pb2, directory_pb2_grpc, manager_pb2, manager_pb2_grpc

BACKOFF = Backoff(attempts_max=2)
"""A person waits for the answer: one more try, for a connection that was lost while idle."""

PATIENT = Backoff(initial_seconds=0.5, max_seconds=8.0, attempts_max=7)
"""Half a minute, while nobody waits: a manager that is started again is there by then."""

CALL_SECONDS_MIN = 0.05
"""What is left of a deadline is at least this much: a round trip over a short way."""

RELEASE_SECONDS_MAX = 2.0
"""Deadline of one try to give back what is held."""

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Peers:
    """Channels to whoever is named by an endpoint. May be used from any thread."""

    pool: rpc.ChannelPool
    clock: Clock

    def directory(self, endpoint: EndpointSettings) -> Source:
        """A directory to read from. Raises InvalidArgument INVALID_FIELD for a bad SPIFFE id."""
        target = _target(endpoint)

        def query(
            request: directory_pb2.QueryRecordsRequest, timeout_seconds: float
        ) -> directory_pb2.QueryRecordsResponse:
            stub = directory_pb2_grpc.DirectoryServiceStub(self.pool.get(target))
            return _reached(
                target,
                lambda: rpc.call(stub.QueryRecords, request, timeout_seconds=timeout_seconds),
            )

        @contextmanager
        def watch(
            request: directory_pb2.WatchRecordsRequest, timeout_seconds: float
        ) -> Iterator[Messages]:
            stub = directory_pb2_grpc.DirectoryServiceStub(self.pool.get(target))
            with rpc.stream(
                stub.WatchRecords, request, timeout_seconds=timeout_seconds
            ) as messages:
                yield messages

        return Source(endpoint.address, query, watch)

    def manager(self, endpoint: EndpointSettings, call_seconds_max: float) -> "ManagerPeer":
        """A source's manager. Raises Unauthenticated PROVIDER_UNKNOWN."""
        target = _target(endpoint)
        stub = manager_pb2_grpc.ManagerServiceStub(self.pool.get(target))
        return ManagerPeer(stub, target, call_seconds_max, self.clock)

    def destination(self, endpoint: EndpointSettings) -> "DestinationPeer":
        """A candidate's manager. Raises Unauthenticated PROVIDER_UNKNOWN."""
        target = _target(endpoint)
        stub = manager_pb2_grpc.ReservationServiceStub(self.pool.get(target))
        return DestinationPeer(stub, target, self.clock)


@dataclass(frozen=True)
class DestinationPeer:
    """A manager behind its stub; see `broker.holding.Destination`."""

    stub: manager_pb2_grpc.ReservationServiceStub
    target: rpc.Target
    clock: Clock

    def hold(
        self, request: manager_pb2.HoldForMigrationRequest, seconds_max: float
    ) -> manager_pb2.Reservation:
        """ReservationService.HoldForMigration; repeatable, since the mandate has the id."""
        answer = _reached(
            self.target,
            lambda: rpc.call(
                self.stub.HoldForMigration,
                request,
                timeout_seconds=max(CALL_SECONDS_MIN, seconds_max / BACKOFF.attempts_max),
                idempotent=True,
                backoff=BACKOFF,
                clock=self.clock,
            ),
        )
        return answer.reservation

    def release(self, reservation_id: str, until: threading.Event | None = None) -> None:
        """ReservationService.ReleaseReservation; what is not there any more is no error."""
        request = manager_pb2.ReleaseReservationRequest(reservation_id=reservation_id)
        _reached(
            self.target,
            lambda: rpc.call(
                self.stub.ReleaseReservation,
                request,
                timeout_seconds=RELEASE_SECONDS_MAX,
                idempotent=True,
                backoff=BACKOFF if until is None else PATIENT,
                # Nothing is decided by how long it takes: a clock that is turned must not hurry it.
                clock=self.clock if until is None else None,
                stop=until,
            ),
        )


@dataclass(frozen=True)
class ManagerPeer:
    """A manager behind its stub; see `broker.submitting.Manager`."""

    stub: manager_pb2_grpc.ManagerServiceStub
    target: rpc.Target
    call_seconds_max: float
    clock: Clock

    def get_vm(self, vm_id: str, delegation: common_pb2.SignedDocument) -> manager_pb2.Vm:
        """ManagerService.GetVm."""
        request = manager_pb2.GetVmRequest(vm=vm_id, delegation=delegation)
        return self._call(self.stub.GetVm, request).vm

    def get_migration(
        self, migration_id: str, delegation: common_pb2.SignedDocument
    ) -> manager_pb2.Migration:
        """ManagerService.GetMigration."""
        request = manager_pb2.GetMigrationRequest(migration_id=migration_id, delegation=delegation)
        return self._call(self.stub.GetMigration, request).migration

    def list_vms(
        self, delegation: common_pb2.SignedDocument, page_size: int, page_token: str
    ) -> manager_pb2.ListVmsResponse:
        """ManagerService.ListVms."""
        request = manager_pb2.ListVmsRequest(
            page_size=page_size, page_token=page_token, delegation=delegation
        )
        return self._call(self.stub.ListVms, request)

    def estimate(
        self, request: manager_pb2.EstimateMigrationRequest, seconds_max: float
    ) -> manager_pb2.EstimateMigrationResponse:
        """ManagerService.EstimateMigration. Not repeated: every try reads the disks."""
        return _reached(
            self.target,
            lambda: rpc.call(self.stub.EstimateMigration, request, timeout_seconds=seconds_max),
        )

    def migrate_vm(self, order: manager_pb2.MigrateVmRequest) -> manager_pb2.Migration:
        """ManagerService.MigrateVm; repeatable, since the caller made the id."""
        return self._call(self.stub.MigrateVm, order).migration

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        return _reached(
            self.target,
            lambda: rpc.call(
                method,
                request,
                timeout_seconds=self.call_seconds_max,
                idempotent=True,
                backoff=BACKOFF,
                clock=self.clock,
            ),
        )


def _target(endpoint: EndpointSettings) -> rpc.Target:
    return rpc.Target(endpoint.address, SpiffeId.parse(endpoint.spiffe_id))


def _reached(target: rpc.Target, attempt: Callable[[], _Answer]) -> _Answer:
    """What `attempt` returns; that nobody answers is told with who and where."""
    try:
        return attempt()
    except errors.Unavailable as error:
        if error.reason != "PEER_UNAVAILABLE" or error.metadata:
            raise
        raise errors.Unavailable(
            "PEER_UNAVAILABLE",
            f"{target.spiffe_id} at {target.address} does not answer: {error.message}",
            hint="check that it runs and that the address is right",
            peer=target.spiffe_id,
            address=target.address,
        ) from error
