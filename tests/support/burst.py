"""A burst of placed migrations: real brokers and managers, scarce room, and an account of it after.

The clouds know each other through the directory only. Hosts are scripted agents; whatever counts,
holds, reserves and refuses is the real thing, over mutual TLS.
"""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

import broker.__main__
import broker.settings
import directory.__main__
import directory.settings
from broker.holding import HoldSettings
from manager.settings.hosts import HostSettings
from manager.settings.publishing import PublishSettings
from manager.settings.store import StoreSettings
from tests.conftest import HUB, TOKYO, Federation
from tests.support.clouds import FAST, Cloud, eventually
from tests.support.managers import Rows
from watari import delegation, errors, identity, mandate, rpc, service
from watari.rpc import client
from watari.rpc.settings import RpcSettings
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import broker_pb2, broker_pb2_grpc, common_pb2, manager_pb2

GIB = 2**30
ACME = f"spiffe://{TOKYO}/user/acme"
DIRECTORY = f"spiffe://{HUB}/directory/main"
VCPUS = 2
"""What each machine has."""

CALL_SECONDS_MAX = 60.0
"""A burst is worked off in this time, whatever else the machine does."""

PATIENT = HoldSettings(call_seconds_max=15.0, seconds_max=40.0)
"""A manager that has much to do on a busy machine is not taken for one that is away."""

LIVE = {
    manager_pb2.RESERVATION_STATE_HELD,
    manager_pb2.RESERVATION_STATE_PENDING,
    manager_pb2.RESERVATION_STATE_CONFIRMED,
    manager_pb2.RESERVATION_STATE_USED,
}
"""States of a reservation whose room is taken, by it or by the machine that came of it."""


@dataclass(frozen=True)
class Outcome:
    """What one request came to."""

    migration_id: str
    vm_id: str
    answer: broker_pb2.MigrateResponse | None = None
    error: errors.WatariError | None = None
    seconds: float = 0.0
    """From when it was asked."""


@dataclass
class Burst:
    """tokyo with many machines, clouds with little room, and brokers."""

    federation: Federation
    folder: Path
    stack: ExitStack
    rooms: Mapping[str, int]
    """How many machines each cloud has room for; each is a provider of its own."""
    machines: int
    brokers: int = 2
    clouds: dict[str, Cloud] = field(default_factory=dict)
    targets: list[rpc.Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._directory = self._start_directory()
        self.broker_ids = tuple(f"spiffe://{HUB}/broker/b{n}" for n in range(self.brokers))
        self.tokyo = self._cloud("tokyo", TOKYO)
        self.vm_ids = [str(uuid.uuid4()) for _ in range(self.machines)]
        for number, vm_id in enumerate(self.vm_ids):
            self.tokyo.agent.add(vm_id, f"web-{number}")
        self.tokyo.start()
        for name, room in self.rooms.items():
            domain = f"{name}.example"
            if domain not in self.federation.authorities:
                authority = identity.create_ca(domain, self.federation.clock)
                self.federation.authorities[domain] = authority
                identity.save_certificate(
                    self.federation.trust_folder / f"{domain}.pem", authority.cert_pem
                )
            cloud = self.clouds[name] = self._cloud(name, domain)
            cloud.agent.total = common_pb2.Resources(
                vcpus=VCPUS * room, memory_bytes=2**46, disk_bytes=2**48
            )
            cloud.start()
        self.targets = [self._start_broker(name) for name in self.broker_ids]
        self.await_known()

    def await_known(self) -> None:
        """Waits until each broker knows every cloud."""
        for target in self.targets:
            eventually(lambda it=target: self._knows_all(it), "the broker knows every cloud")

    def run(
        self, vm_ids: Sequence[str] = (), meanwhile: Callable[[], None] = lambda: None
    ) -> list[Outcome]:
        """These machines, or all, at once, by each broker in turn; `meanwhile` runs then."""
        stubs = [
            broker_pb2_grpc.BrokerServiceStub(self._channel(target)) for target in self.targets
        ]
        calls = []
        for number, vm_id in enumerate(vm_ids or self.vm_ids):
            which = number % len(stubs)
            request = self.request(vm_id, self.broker_ids[which])
            future = stubs[which].Migrate.future(request, timeout=CALL_SECONDS_MAX)
            began, ended = time.monotonic(), Future[float]()
            future.add_done_callback(lambda _, it=ended: it.set_result(time.monotonic()))
            calls.append((request, future, began, ended))
        meanwhile()
        return [
            replace(_outcome(request, future), seconds=ended.result() - began)
            for request, future, began, ended in calls
        ]

    def request(self, vm_id: str, broker_id: str) -> broker_pb2.MigrateRequest:
        """acme has a machine placed, and lets room for it be held at every cloud."""
        migration_id = str(uuid.uuid4())
        acme, now = self.federation.party(ACME), self.federation.clock.now()
        subject = mandate.Subject(
            migration_id,
            vm_id,
            "tokyo",
            TOKYO,
            "acme",
            common_pb2.Resources(vcpus=VCPUS, memory_bytes=GIB, disk_bytes=4 * GIB),
        )
        return broker_pb2.MigrateRequest(
            migration_id=migration_id,
            from_cloud="tokyo",
            vm=vm_id,
            delegation=delegation.sign(
                acme,
                now,
                migration_id=migration_id,
                delegate=broker_id,
                vm_id=vm_id,
                from_cloud="tokyo",
            ),
            mandate=mandate.sign(
                acme, now, subject, delegate=broker_id, to_clouds=list(self.clouds)
            ),
        )

    def watching(self) -> "Watching":
        """What is taken of each cloud, many times a second, by its database."""
        return Watching({name: cloud.settings.store for name, cloud in self.clouds.items()})

    def reservations(self, name: str) -> dict[str, manager_pb2.Reservation]:
        """All reservations of a cloud by their id, as its operator lists them."""
        cloud = self.clouds[name]
        stub = cloud.reservations(f"spiffe://{cloud.domain}/operator/main")
        request = manager_pb2.ListReservationsRequest(page_size=1000)
        found: dict[str, manager_pb2.Reservation] = {}
        while True:
            page = client.call(stub.ListReservations, request)
            found |= {each.reservation_id: each for each in page.reservations}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def account(self, outcomes: Sequence[Outcome]) -> Counter[str]:
        """How many each cloud got, once everything agrees: each grant is a live reservation at its
        manager, no manager has more live ones than room, and nothing is held for nobody.
        """
        granted: Counter[str] = Counter()
        known = {name: self.reservations(name) for name in self.clouds}
        expected: dict[str, set[str]] = {name: set() for name in self.clouds}
        for one in outcomes:
            if one.answer is None:
                continue
            name = one.answer.migration.to_cloud
            reservation_id = one.answer.reservation.reservation_id
            expected[name].add(reservation_id)
            found = known[name].get(reservation_id)
            assert found is not None, f"{name} does not know {reservation_id}"
            assert found.migration_id == one.migration_id
            assert found.state in LIVE, found
            granted[name] += 1
        for name, room in self.rooms.items():
            live = {key: each for key, each in known[name].items() if each.state in LIVE}
            taken = sum(each.resources.vcpus for each in live.values())
            assert taken <= room * VCPUS, f"{name}: {taken} of {room * VCPUS} CPUs are taken"
            assert live.keys() == expected[name], f"{name} has room taken that nobody got"
        return granted

    def _cloud(self, name: str, domain: str) -> Cloud:
        cloud = Cloud(self.federation, domain, name, self.folder / name)
        cloud.change(
            brokers=self.broker_ids,
            directories=(self._directory,),
            hosts=HostSettings(poll_seconds=600.0, events_seconds=600.0),
            publish=PublishSettings(check_seconds=0.3, lease_ttl_seconds=30),
            migrations=replace(FAST, concurrent_max=4),
            janitor_seconds=0.5,
        )
        self.stack.callback(cloud.close)
        cloud.agent.start()
        return cloud

    def _start_directory(self) -> EndpointSettings:
        settings = directory.settings.Settings(
            address="127.0.0.1:0",
            state_path=self.folder / "directory.sqlite",
            identity=self._identity(DIRECTORY),
        )
        server = directory.__main__.assemble(settings, self._context(DIRECTORY))
        port = server.start()
        self.stack.callback(lambda: server.stop(0).wait(10))
        return EndpointSettings(f"127.0.0.1:{port}", DIRECTORY)

    def _start_broker(self, broker_id: str) -> rpc.Target:
        settings = broker.settings.Settings(
            address="127.0.0.1:0",
            identity=self._identity(broker_id),
            directories=(self._directory,),
            rpc=RpcSettings(queued_calls_max=1000, streams_per_connection_max=1000),
            holds=PATIENT,
        )
        server = broker.__main__.assemble(settings, self._context(broker_id))
        port = server.start()
        self.stack.callback(lambda: server.stop(0).wait(10))
        return rpc.Target(f"127.0.0.1:{port}", self.federation.party(broker_id).spiffe_id)

    def _knows_all(self, target: rpc.Target) -> bool:
        stub = broker_pb2_grpc.BrokerServiceStub(self._channel(target))
        resources = common_pb2.Resources(vcpus=VCPUS, memory_bytes=GIB, disk_bytes=4 * GIB)
        request = broker_pb2.PlaceRequest(
            request_id=str(uuid.uuid4()),
            requirements=broker_pb2.Requirements(resources=resources),
        )
        answer = client.call(stub.Place, request)
        found = {each.cloud_id for each in answer.candidates} | {
            each.cloud_id for each in answer.rejections
        }
        return found >= {"tokyo", *self.clouds}

    def _identity(self, spiffe_id: str) -> IdentitySettings:
        folder = self.federation.folder_of(spiffe_id)
        return IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust")

    def _context(self, spiffe_id: str) -> service.Context:
        return service.Context(self.federation.clock, self.federation.party(spiffe_id), self.stack)

    def _channel(self, target: rpc.Target) -> grpc.Channel:
        return self.stack.enter_context(client.connect(self.federation.party(ACME), target))


class Watching:
    """The most that was taken of each cloud at any look, past its manager, within the block."""

    def __init__(self, stores: Mapping[str, StoreSettings]) -> None:
        self.most: Counter[str] = Counter()
        self.looks = 0
        self._stores = stores
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watching")

    def __enter__(self) -> "Watching":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        rows = {name: Rows(store) for name, store in self._stores.items()}
        while not self._over.wait(0.05):
            self.looks += 1
            for name, each in rows.items():
                self.most[name] = max(self.most[name], each.vcpus())
        for each in rows.values():
            each.close()


def _outcome(
    request: broker_pb2.MigrateRequest, future: "grpc.Future[broker_pb2.MigrateResponse]"
) -> Outcome:
    try:
        return Outcome(request.migration_id, request.vm, answer=future.result())
    except grpc.RpcError as error:
        return Outcome(request.migration_id, request.vm, error=errors.from_rpc_error(error))


@contextmanager
def burst(
    federation: Federation, folder: Path, rooms: Mapping[str, int], machines: int, brokers: int = 2
) -> Iterator[Burst]:
    """It runs within the block."""
    with ExitStack() as stack:
        yield Burst(federation, folder, stack, rooms, machines, brokers)
