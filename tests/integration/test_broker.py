"""The broker between a real directory and a manager, all over mutual TLS."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

import broker.__main__
import broker.settings
import directory.__main__
import directory.settings
from tests.conftest import Federation, Serve
from tests.support import catalogue_records as records
from watari import errors, rpc, service
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
OSAKA_USER = "spiffe://osaka.example/user/bob"
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
        self.before_migrate: Callable[[], None] = lambda: None

    def GetVm(
        self, request: manager_pb2.GetVmRequest, context: grpc.ServicerContext
    ) -> manager_pb2.GetVmResponse:
        self.callers.add(str(rpc.current_peer()))
        if request.vm not in (self.vm.vm_id, self.vm.name):
            raise errors.NotFound("VM_NOT_FOUND", f"no machine {request.vm} in cloud tokyo")
        return manager_pb2.GetVmResponse(vm=self.vm)

    def GetMigration(
        self, request: manager_pb2.GetMigrationRequest, context: grpc.ServicerContext
    ) -> manager_pb2.GetMigrationResponse:
        if request.migration_id not in self.migrations:
            raise errors.NotFound("MIGRATION_NOT_FOUND", "no such migration")
        return manager_pb2.GetMigrationResponse(migration=self.migrations[request.migration_id])

    def MigrateVm(
        self, request: manager_pb2.MigrateVmRequest, context: grpc.ServicerContext
    ) -> manager_pb2.MigrateVmResponse:
        self.orders.append(request)
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

    def publish(self, manager: str, cloud_id: str, *published: directory_pb2.Record) -> int:
        """As the cloud's manager does; returns the directory's revision."""
        stub = directory_pb2_grpc.DirectoryServiceStub(self.channel(manager, self.directory_target))
        lease_id = str(uuid.uuid4())
        grant = directory_pb2.GrantLeaseRequest(
            lease_id=lease_id, cloud_id=cloud_id, ttl_seconds=600
        )
        rpc.call(stub.GrantLease, grant)
        puts = [directory_pb2.RecordPut(record=record) for record in published]
        request = directory_pb2.PublishRequest(
            request_id=str(uuid.uuid4()), lease_id=lease_id, puts=puts
        )
        return rpc.call(stub.Publish, request).revision

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

    def broker(self, caller: str = TOKYO_USER) -> broker_pb2_grpc.BrokerServiceStub:
        return broker_pb2_grpc.BrokerServiceStub(self.channel(caller, self.broker_target))

    def place(self, **requirements: object) -> broker_pb2.PlaceResponse:
        wanted = broker_pb2.Requirements(**{"resources": records.resources()} | requirements)
        request = broker_pb2.PlaceRequest(request_id=str(uuid.uuid4()), requirements=wanted)
        return rpc.call(self.broker().Place, request)

    def migrate(
        self, migration_id: str = "", vm: str = "web-1", caller: str = TOKYO_USER, **fields: object
    ) -> broker_pb2.MigrateResponse:
        fields = {"from_cloud": "tokyo"} | fields
        request = broker_pb2.MigrateRequest(
            migration_id=migration_id or str(uuid.uuid4()), vm=vm, **fields
        )
        return rpc.call(self.broker(caller).Migrate, request)


@pytest.fixture
def world(federation: Federation, serve: Serve, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(federation, tmp_path, stack, serve)


def test_place_ranks_what_fits_and_explains_the_rest_at_one_revision(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    revision = world.publish_osaka("osaka-3", vcpu="0.01", largest_vcpus=2)
    answer = world.place()
    assert [one.cloud_id for one in answer.candidates] == ["osaka-2", "osaka-1"]
    assert [(one.cloud_id, one.constraint, one.reason) for one in answer.rejections] == [
        ("osaka-3", "capacity", "needs 4 vCPUs, largest host has 2 vCPUs free")
    ]
    assert answer.directory_revision == revision
    assert answer.snapshot_at.ToDatetime(tzinfo=UTC) == world.clock.now()


def test_an_answer_without_candidates_is_no_error(world: World) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    answer = world.place(regions=["eu-west"])
    assert not answer.candidates
    assert [one.would_fit for one in answer.rejections] == ["fits with jp-east among regions"]


def test_a_catalogue_of_several_pages_is_read_whole(world: World) -> None:
    world.broker_target = world.start_broker(broker.settings.CatalogueSettings(page_size=3))
    for number in range(4):
        world.publish_osaka(f"osaka-{number}", vcpu="0.01")
    assert len(world.place().candidates) == 4


def test_a_directory_outage_is_bridged_by_the_last_snapshot_until_it_is_too_old(
    world: World,
) -> None:
    world.publish_osaka("osaka-1", vcpu="0.02")
    before = world.place()
    assert world.directory_server.stop(0).wait(10)
    world.clock.advance(30)
    after = world.place()
    assert after.candidates == before.candidates
    assert after.snapshot_at == before.snapshot_at
    world.clock.advance(31)
    with pytest.raises(errors.Unavailable, match="61 s old, 60 s are allowed") as caught:
        world.place()
    assert caught.value.reason == "PEER_UNAVAILABLE"


def test_without_a_directory_and_without_a_snapshot_place_is_unavailable(world: World) -> None:
    assert world.directory_server.stop(0).wait(10)
    with pytest.raises(errors.Unavailable, match="there is no snapshot") as caught:
        world.place()
    assert caught.value.metadata["address"] == world.directory_target.address


def test_migrate_asks_the_sources_manager_for_the_best_other_cloud(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    migration_id = str(uuid.uuid4())
    answer = world.migrate(
        migration_id,
        mode=common_pb2.MIGRATION_MODE_COLD,
        options={"streams": 4},
        requirements={"rtt_ms_max": 10.0},
    )
    assert answer.migration.to_cloud == "osaka-2"
    (order,) = world.manager.orders
    assert (order.migration_id, order.vm, order.to_cloud) == (migration_id, "web-1", "osaka-2")
    assert (order.mode, order.options.streams) == (common_pb2.MIGRATION_MODE_COLD, 4)
    assert not order.HasField("delegation")
    assert world.manager.callers == {BROKER}
    placement = answer.placement
    assert [one.cloud_id for one in placement.candidates] == ["osaka-2", "osaka-1"]
    assert [(one.cloud_id, one.constraint) for one in placement.rejections] == [("tokyo", "source")]


def test_the_machines_own_resources_decide_unless_the_request_says_more(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02", largest_vcpus=4)
    world.publish_osaka("osaka-2", vcpu="0.03", largest_vcpus=8)
    assert world.migrate().migration.to_cloud == "osaka-1"
    bigger = {"resources": records.resources(8, 8, 40)}
    assert world.migrate(requirements=bigger).migration.to_cloud == "osaka-2"


def test_a_destination_that_the_manager_refuses_is_passed_over_and_explained(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.manager.refusals["osaka-2"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    answer = world.migrate()
    assert answer.migration.to_cloud == "osaka-1"
    assert [one.cloud_id for one in answer.placement.candidates] == ["osaka-1"]
    (refused,) = (one for one in answer.placement.rejections if one.cloud_id == "osaka-2")
    assert (refused.constraint, refused.reason) == (
        "refused",
        "the source's manager refused it: never heard of it",
    )


def test_a_refusal_that_does_not_depend_on_the_destination_is_passed_on(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.manager.refusals["osaka-2"] = errors.FailedPrecondition("VM_BUSY", "in a migration")
    with pytest.raises(errors.FailedPrecondition) as caught:
        world.migrate()
    assert caught.value.reason == "VM_BUSY"
    assert [order.to_cloud for order in world.manager.orders] == ["osaka-2"]


def test_no_candidate_names_the_nearest_clouds_and_what_would_fit(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02", largest_vcpus=2)
    world.publish_osaka("osaka-2", vcpu="0.02", largest_vcpus=3)
    with pytest.raises(errors.FailedPrecondition) as caught:
        world.migrate(requirements={"excluded_clouds": ["osaka-2"]})
    error = caught.value
    assert error.reason == "NO_CANDIDATE"
    assert error.message.startswith(
        "no cloud fits machine web-1: osaka-1: needs 4 vCPUs, largest host has 2 vCPUs free; "
    )
    assert error.hint == "osaka-1 fits with 2 vCPUs or fewer"
    assert error.metadata["rejections"] == "4"
    assert error.metadata["cloud.tokyo"] == "tokyo: is where the machine is already"
    assert not world.manager.orders


def test_when_every_destination_is_refused_there_is_no_candidate(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    world.manager.refusals["osaka-1"] = errors.NotFound("CLOUD_NOT_FOUND", "never heard of it")
    with pytest.raises(errors.FailedPrecondition, match="never heard of it") as caught:
        world.migrate()
    assert caught.value.reason == "NO_CANDIDATE"


def test_only_so_many_destinations_are_tried_and_the_error_counts_the_others(
    world: World,
) -> None:
    world.publish_tokyo()
    for number in range(7):
        world.publish_osaka(f"osaka-{number}", vcpu="0.02")
        world.manager.refusals[f"osaka-{number}"] = errors.NotFound("CLOUD_NOT_FOUND", "unknown")
    with pytest.raises(errors.FailedPrecondition, match="2 more candidates were not tried"):
        world.migrate()
    assert len(world.manager.orders) == 5


def test_repeating_a_request_gives_the_same_migration_even_if_another_cloud_is_best_now(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    first = world.migrate(migration_id)
    world.publish_osaka("osaka-2", vcpu="0.01")
    world.clock.advance(10)
    again = world.migrate(migration_id)
    assert again.migration == first.migration
    assert not again.HasField("placement")
    assert len(world.manager.orders) == 1


def test_an_id_of_another_machines_migration_is_refused(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    world.migrate(migration_id)
    with pytest.raises(errors.AlreadyExists) as caught:
        world.migrate(migration_id, vm="web-2")
    assert caught.value.reason == "ID_REUSED"


def test_of_two_racing_requests_with_one_id_both_get_the_migration_that_began(
    world: World,
) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    migration_id = str(uuid.uuid4())
    world.manager.before_migrate = lambda: world.manager.begin(migration_id, "osaka-9")
    assert world.migrate(migration_id).migration.to_cloud == "osaka-9"


def test_a_user_of_another_provider_may_not_move_the_machine(world: World) -> None:
    world.publish_tokyo()
    world.publish_osaka("osaka-1", vcpu="0.02")
    with pytest.raises(errors.Denied) as caught:
        world.migrate(caller=OSAKA_USER)
    assert caught.value.reason == "NOT_ALLOWED"
    assert not world.manager.callers


def test_an_unknown_cloud_or_machine_is_not_found(world: World) -> None:
    world.publish_tokyo()
    with pytest.raises(errors.NotFound) as caught:
        world.migrate(from_cloud="kyoto")
    assert caught.value.reason == "CLOUD_NOT_FOUND"
    with pytest.raises(errors.NotFound) as caught:
        world.migrate(vm="web-2")
    assert caught.value.reason == "VM_NOT_FOUND"


def test_a_manager_that_is_away_is_named(world: World) -> None:
    world.publish(
        TOKYO_MANAGER,
        "tokyo",
        records.cloud("tokyo", domain="tokyo.example", address="127.0.0.1:1"),
    )
    with pytest.raises(errors.Unavailable, match=r"manager/main at 127\.0\.0\.1:1") as caught:
        world.migrate()
    assert caught.value.metadata == {"peer": TOKYO_MANAGER, "address": "127.0.0.1:1"}


def test_only_the_provider_named_in_the_record_can_answer_as_its_manager(world: World) -> None:
    impostor = world.serve(
        OSAKA_MANAGER,
        lambda server: manager_pb2_grpc.add_ManagerServiceServicer_to_server(world.manager, server),
    )
    world.publish(
        TOKYO_MANAGER,
        "tokyo",
        records.cloud("tokyo", domain="tokyo.example", address=impostor.address),
    )
    with pytest.raises(errors.Unavailable):
        world.migrate()
    assert not world.manager.callers


def test_ids_are_checked_and_policies_are_not_served(world: World) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        rpc.call(world.broker().Place, broker_pb2.PlaceRequest(request_id="1"))
    assert caught.value.reason == "INVALID_ID"
    with pytest.raises(errors.InvalidArgument) as caught:
        world.migrate("not-a-uuid")
    assert caught.value.reason == "INVALID_ID"
    own_user = "spiffe://hub.example/user/operator"
    with pytest.raises(errors.Unimplemented) as unserved:
        rpc.call(world.broker(own_user).ListPolicies, broker_pb2.ListPoliciesRequest())
    assert unserved.value.reason == "NOT_SERVED"
