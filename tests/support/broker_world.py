"""A broker between a real directory and a manager, all over mutual TLS."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc

import broker.__main__
import broker.settings
import directory.__main__
import directory.settings
from tests.conftest import Federation, Serve
from tests.support import catalogue_records as records
from watari import delegation, errors, mandate, rpc, service
from watari.clock import Clock, FakeClock
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import (
    broker_pb2,
    broker_pb2_grpc,
    common_pb2,
    directory_pb2,
    directory_pb2_grpc,
    manager_pb2,
    manager_pb2_grpc,
)

BROKER = "spiffe://hub.example/broker/main"
DIRECTORY = "spiffe://hub.example/directory/main"
TOKYO_MANAGER = "spiffe://tokyo.example/manager/main"
TOKYO_USER = "spiffe://tokyo.example/user/alice"
OSAKA_MANAGER = "spiffe://osaka.example/manager/main"
VM_ID = str(uuid.uuid4())


class Manager(manager_pb2_grpc.ManagerServiceServicer):
    """A source's manager with one machine: records what it is asked, and can be told to refuse."""

    def __init__(self) -> None:
        self.vm = manager_pb2.Vm(
            vm_id=VM_ID, name="web-1", cloud_id="tokyo", resources=records.resources(4, 8, 40)
        )
        self.orders: list[manager_pb2.MigrateVmRequest] = []
        self.migrations: dict[str, manager_pb2.Migration] = {}
        self.refusals: dict[str, errors.WatariError] = {}
        self.callers: set[str] = set()
        self.delegations: list[common_pb2.SignedDocument] = []
        """What every call showed."""
        self.before_migrate: Callable[[], None] = lambda: None

    def GetVm(
        self, request: manager_pb2.GetVmRequest, context: grpc.ServicerContext
    ) -> manager_pb2.GetVmResponse:
        self.callers.add(str(rpc.current_peer()))
        self.delegations.append(request.delegation)
        if request.vm not in (self.vm.vm_id, self.vm.name):
            raise errors.NotFound("VM_NOT_FOUND", f"no machine {request.vm} in cloud tokyo")
        return manager_pb2.GetVmResponse(vm=self.vm)

    def GetMigration(
        self, request: manager_pb2.GetMigrationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.GetMigrationResponse:
        self.delegations.append(request.delegation)
        if request.migration_id not in self.migrations:
            raise errors.NotFound("MIGRATION_NOT_FOUND", "no such migration")
        return manager_pb2.GetMigrationResponse(migration=self.migrations[request.migration_id])

    def MigrateVm(
        self, request: manager_pb2.MigrateVmRequest, context: grpc.ServicerContext
    ) -> manager_pb2.MigrateVmResponse:
        self.orders.append(request)
        self.delegations.append(request.delegation)
        self.before_migrate()
        if request.to_cloud in self.refusals:
            raise self.refusals[request.to_cloud]
        present = self.migrations.get(request.migration_id)
        if present and present.to_cloud != request.to_cloud:
            raise errors.AlreadyExists("ID_REUSED", "another destination")
        migration = self.begin(request.migration_id, request.to_cloud)
        return manager_pb2.MigrateVmResponse(migration=migration)

    def begin(self, migration_id: str, to_cloud: str) -> manager_pb2.Migration:
        migration = manager_pb2.Migration(
            migration_id=migration_id,
            vm_id=self.vm.vm_id,
            vm_name=self.vm.name,
            from_cloud="tokyo",
            to_cloud=to_cloud,
            state=manager_pb2.MIGRATION_STATE_REQUESTED,
        )
        return self.migrations.setdefault(migration_id, migration)


class Destination(manager_pb2_grpc.ReservationServiceServicer):
    """A candidate's manager: holds room as it is told, and records what it is asked."""

    def __init__(self) -> None:
        self.holds: list[manager_pb2.HoldForMigrationRequest] = []
        self.held: dict[str, manager_pb2.Reservation] = {}
        self.released: list[str] = []
        self.refusal: errors.WatariError | None = None
        self.before_answer: Callable[[], None] = lambda: None
        """Called when it holds, and has not answered."""
        self.changes: dict[str, object] = {}
        """What it says otherwise of what it holds."""
        self.release_refusals: list[errors.WatariError] = []

    def HoldForMigration(
        self, request: manager_pb2.HoldForMigrationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.HoldForMigrationResponse:
        self.holds.append(request)
        if self.refusal is not None:
            raise self.refusal
        shown = common_pb2.ReservationMandate.FromString(request.mandate.payload)
        reservation = manager_pb2.Reservation(
            reservation_id=shown.reservation_id,
            migration_id=shown.migration_id,
            resources=request.resources,
            state=manager_pb2.RESERVATION_STATE_HELD,
        )
        for name, value in self.changes.items():
            setattr(reservation, name, value)
        self.held[shown.reservation_id] = reservation
        self.before_answer()
        return manager_pb2.HoldForMigrationResponse(reservation=reservation)

    def ReleaseReservation(
        self, request: manager_pb2.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.ReleaseReservationResponse:
        if self.release_refusals:
            raise self.release_refusals.pop()
        self.released.append(request.reservation_id)
        self.held.pop(request.reservation_id, None)
        return manager_pb2.ReleaseReservationResponse()


@dataclass
class World:
    """A directory, a broker and Tokyo's manager, with clouds to be published."""

    federation: Federation
    folder: Path
    stack: ExitStack
    serve: Serve
    clock: FakeClock = field(
        default_factory=lambda: FakeClock(datetime.now(UTC), auto_advance=True)
    )
    """The broker's; the directory and the manager have the real one."""
    manager: Manager = field(default_factory=Manager)
    holders: dict[str, Destination] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    """Of the last publish: what the broker is asked about is at least that."""

    def __post_init__(self) -> None:
        self.directory_server, self.directory_target = self.start_directory()
        self.manager_target = self.serve(
            TOKYO_MANAGER,
            lambda server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(
                self.manager, server
            ),
        )
        self.broker_target = self.start_broker(broker.settings.CatalogueSettings())

    def start_directory(self) -> tuple[rpc.Server, rpc.Target]:
        settings = directory.settings.Settings(
            address="127.0.0.1:0",
            state_path=self.folder / "directory.sqlite",
            identity=self.identity_settings(DIRECTORY),
        )
        server = directory.__main__.assemble(
            settings, self.context(DIRECTORY, self.federation.clock)
        )
        return server, self.started(server, DIRECTORY)

    def start_broker(self, catalogue: broker.settings.CatalogueSettings) -> rpc.Target:
        endpoint = EndpointSettings(self.directory_target.address, DIRECTORY)
        settings = broker.settings.Settings(
            address="127.0.0.1:0",
            identity=self.identity_settings(BROKER),
            directories=(endpoint,),
            catalogue=catalogue,
            manager_call_seconds_max=5.0,
        )
        server = broker.__main__.assemble(settings, self.context(BROKER, self.clock))
        return self.started(server, BROKER)

    def identity_settings(self, spiffe_id: str) -> IdentitySettings:
        folder = self.federation.folder_of(spiffe_id)
        return IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust")

    def context(self, spiffe_id: str, clock: Clock) -> service.Context:
        return service.Context(clock, self.federation.party(spiffe_id), self.stack)

    def started(self, server: rpc.Server, spiffe_id: str) -> rpc.Target:
        port = server.start()
        self.stack.callback(lambda: server.stop(0).wait(10))
        return rpc.Target(f"127.0.0.1:{port}", self.federation.party(spiffe_id).spiffe_id)

    def channel(self, caller: str, target: rpc.Target) -> grpc.Channel:
        channel = rpc.connect(self.federation.party(caller), target)
        self.stack.callback(channel.close)
        return channel

    def publish(
        self,
        manager: str,
        cloud_id: str,
        *published: directory_pb2.Record,
        ttl_seconds: int = 600,
    ) -> int:
        """As the cloud's manager does; returns the directory's revision."""
        stub = directory_pb2_grpc.DirectoryServiceStub(self.channel(manager, self.directory_target))
        lease_id = str(uuid.uuid4())
        grant = directory_pb2.GrantLeaseRequest(
            lease_id=lease_id, cloud_id=cloud_id, ttl_seconds=ttl_seconds
        )
        rpc.call(stub.GrantLease, grant)
        puts = [directory_pb2.RecordPut(record=record) for record in published]
        request = directory_pb2.PublishRequest(
            request_id=str(uuid.uuid4()), lease_id=lease_id, puts=puts
        )
        self.revision = rpc.call(stub.Publish, request).revision
        return self.revision

    def publish_tokyo(self) -> int:
        return self.publish(
            TOKYO_MANAGER,
            "tokyo",
            records.cloud("tokyo", domain="tokyo.example", address=self.manager_target.address),
            records.offer("tokyo", prices=records.sheet("0.000001")),
            records.capacity("tokyo"),
        )

    def publish_osaka(self, cloud_id: str, vcpu: str, largest_vcpus: int = 64) -> int:
        """A cloud of Osaka's provider, which may have several."""
        return self.publish(
            OSAKA_MANAGER,
            cloud_id,
            records.cloud(cloud_id, domain="osaka.example"),
            records.offer(cloud_id, prices=records.sheet(vcpu)),
            records.capacity(cloud_id, largest_fit=records.resources(largest_vcpus, 64, 400)),
            records.link(cloud_id, "tokyo", 8.5),
        )

    def publish_holder(self, cloud_id: str, vcpu: str, machines: int = 16) -> Destination:
        """A cloud of Osaka's provider whose manager holds room; machines as web-1 is one."""
        holder = Destination()
        target = self.serve(
            OSAKA_MANAGER,
            lambda server: manager_pb2_grpc.add_ReservationServiceServicer_to_server(
                holder, server
            ),
        )
        self.holders[cloud_id] = holder
        self.addresses[cloud_id] = target.address
        self.publish_capacity(cloud_id, vcpu, machines)
        return holder

    def publish_capacity(
        self, cloud_id: str, vcpu: str, machines: int, ttl_seconds: int = 600
    ) -> None:
        """A cloud that holds room has room for so many."""
        room = records.resources(4 * machines, 8 * machines, 40 * machines)
        self.publish(
            OSAKA_MANAGER,
            cloud_id,
            records.cloud(cloud_id, domain="osaka.example", address=self.addresses[cloud_id]),
            records.offer(cloud_id, prices=records.sheet(vcpu)),
            records.capacity(cloud_id, total=records.resources(64, 256, 4000), free=room),
            ttl_seconds=ttl_seconds,
        )

    def publish_room(self, cloud_id: str, machines: int, vcpu: str = "0.01") -> int:
        """A cloud of Osaka's provider with room for so many machines as web-1 is one."""
        room = records.resources(4 * machines, 8 * machines, 40 * machines)
        return self.publish(
            OSAKA_MANAGER,
            cloud_id,
            records.cloud(cloud_id, domain="osaka.example"),
            records.offer(cloud_id, prices=records.sheet(vcpu)),
            records.capacity(cloud_id, total=records.resources(64, 256, 4000), free=room),
        )

    def broker(self, caller: str = TOKYO_USER) -> broker_pb2_grpc.BrokerServiceStub:
        return broker_pb2_grpc.BrokerServiceStub(self.channel(caller, self.broker_target))

    def place(self, **requirements: object) -> broker_pb2.PlaceResponse:
        wanted = broker_pb2.Requirements(**{"resources": records.resources()} | requirements)
        request = broker_pb2.PlaceRequest(
            request_id=str(uuid.uuid4()),
            requirements=wanted,
            directory_revision_min=self.revision,
        )
        return rpc.call(self.broker().Place, request)

    def migrate(
        self,
        migration_id: str = "",
        vm: str = "web-1",
        caller: str = TOKYO_USER,
        timeout_seconds: float = 10.0,
        **fields: object,
    ) -> broker_pb2.MigrateResponse:
        """Has a machine placed, with the caller's delegation unless `fields` has another."""
        if self.revision:
            self.place()  # the broker knows what was published
        migration_id = migration_id or str(uuid.uuid4())
        fields = {"from_cloud": "tokyo"} | fields
        if "delegation" not in fields:
            fields["delegation"] = self.delegate(
                caller, migration_id=migration_id, from_cloud=fields["from_cloud"]
            )
        request = broker_pb2.MigrateRequest(migration_id=migration_id, vm=vm, **fields)
        stub = self.broker(caller)
        return rpc.call(stub.Migrate, request, timeout_seconds=timeout_seconds)

    def delegate(self, signer: str, **fields: object) -> common_pb2.SignedDocument:
        """The machine web-1 delegated to the broker, with any of the fields changed."""
        given = {
            "migration_id": str(uuid.uuid4()),
            "delegate": BROKER,
            "vm_id": VM_ID,
            "from_cloud": "tokyo",
        }
        return delegation.sign(self.federation.party(signer), self.clock.now(), **given | fields)

    def hold(
        self, migration_id: str = "", caller: str = TOKYO_USER, **fields: object
    ) -> broker_pb2.MigrateResponse:
        """Has a machine placed, with room held for it."""
        migration_id = migration_id or str(uuid.uuid4())
        fields = {"mandate": self.mandate(caller, migration_id)} | fields
        return self.migrate(migration_id, caller=caller, **fields)

    def mandate(
        self,
        signer: str,
        migration_id: str,
        to_clouds: Sequence[str] = (),
        life_seconds: int = 600,
        **fields: object,
    ) -> common_pb2.SignedDocument:
        """Lets the broker hold room for web-1, with any of the fields changed."""
        signing = self.federation.party(signer)
        given = {
            "migration_id": migration_id,
            "vm_id": VM_ID,
            "from_cloud": "tokyo",
            "tenant_domain": signing.spiffe_id.domain,
            "tenant": signing.spiffe_id.name,
            "resources": records.resources(4, 8, 40),
        }
        return mandate.sign(
            signing,
            self.clock.now(),
            mandate.Subject(**given | fields),  # type: ignore[arg-type]
            delegate=BROKER,
            to_clouds=list(to_clouds) or sorted(self.holders),
            life_seconds=life_seconds,
        )
