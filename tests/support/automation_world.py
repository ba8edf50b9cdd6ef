"""A broker with policies, between a real directory and two real managers over scripted agents."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import grpc

import broker.__main__
import broker.settings
import directory.__main__
import directory.settings
from broker.automation.settings import AutomationSettings
from broker.inflight import InFlightSettings
from manager.settings.accounts import PriceSettings
from tests.conftest import HUB, TOKYO, Federation
from tests.support import processes
from tests.support.clouds import Cloud, eventually, two_clouds
from watari import rpc, service, standing
from watari.rpc import client
from watari.settings import EndpointSettings, IdentitySettings
from watari.standing import Scope
from watari.v1 import broker_pb2, broker_pb2_grpc, common_pb2, manager_pb2, manager_pb2_grpc

BROKER = f"spiffe://{HUB}/broker/main"
DIRECTORY = f"spiffe://{HUB}/directory/main"
ACME = f"spiffe://{TOKYO}/user/acme"
GLOBEX = f"spiffe://{TOKYO}/user/globex"
OPERATOR = f"spiffe://{TOKYO}/operator/main"
SCOPE = Scope(TOKYO, "acme", ["tokyo", "osaka"], ["tokyo", "osaka"], 10, 24 * 3600)
FAST = AutomationSettings(
    interval_seconds=0.1, estimate_seconds_max=5.0, start_seconds_max=20.0, refused_seconds=0.5
)
IN_FLIGHT = InFlightSettings(seconds_max=5.0)
"""Moves take less than a second here: what is there by then is not counted twice for long."""
EAGER = {
    "policy_id": "cheap",
    "objective": "cost",
    "currency_code": "JPY",
    "automation": broker_pb2.AUTOMATION_AUTOMATIC,
    "moves_per_vm_day_max": 6,
    "residency_seconds_min": 1,
    "cooldown_seconds": 1,
    "patience": 0.0,
    "hysteresis": 0.0,
}
"""A policy that acts at once when a price changes for good."""

CONFIG = """
[broker]
address = "127.0.0.1:{port}"
manager_call_seconds_max = 5.0
[broker.identity]
certificate = "{keys}/cert.pem"
key = "{keys}/key.pem"
trust = "{keys}/trust"
[broker.catalogue]
refresh_seconds_min = 0.1
[broker.automation]
path = "{path}"
interval_seconds = {interval}
estimate_seconds_max = 5.0
start_seconds_max = 20.0
[[broker.directories]]
address = "{directory}"
spiffe_id = "{directory_id}"
"""


@dataclass
class World:
    """Everything of it. The broker runs when it is started, in this process or in its own."""

    federation: Federation
    folder: Path
    tokyo: Cloud
    osaka: Cloud
    stack: ExitStack
    automation: AutomationSettings = FAST
    port: int = field(default_factory=processes.free_port)
    directory_port: int = field(default_factory=processes.free_port)
    _broker: ExitStack | None = None
    _directory: ExitStack = field(default_factory=ExitStack)

    @property
    def path(self) -> Path:
        """The broker's database."""
        return self.folder / "broker" / "automation.sqlite"

    def start_directory(self) -> None:
        """Serves from now on."""
        settings = directory.settings.Settings(
            address=f"127.0.0.1:{self.directory_port}",
            state_path=self.folder / "directory.sqlite",
            identity=self._keys(DIRECTORY),
        )
        own = self.federation.party(DIRECTORY)
        context = service.Context(self.federation.clock, own, self._directory)
        server = directory.__main__.assemble(settings, context)
        server.start()
        self._directory.callback(lambda: server.stop(0).wait(10))

    def stop_directory(self) -> None:
        """Answers no more."""
        self._directory.close()

    def start_clouds(self) -> None:
        """Both publish; tokyo is the cheaper one."""
        endpoint = EndpointSettings(f"127.0.0.1:{self.directory_port}", DIRECTORY)
        for cloud, vcpu in ((self.tokyo, "1"), (self.osaka, "2")):
            cloud.change(
                brokers=(BROKER,),
                directories=(endpoint,),
                prices=PriceSettings(vcpu_hour=vcpu),
            )
            cloud.start()

    def start_broker(self) -> None:
        """In this process."""
        self._broker = ExitStack()
        settings = broker.settings.Settings(
            address=f"127.0.0.1:{self.port}",
            identity=self._keys(BROKER),
            directories=(EndpointSettings(f"127.0.0.1:{self.directory_port}", DIRECTORY),),
            catalogue=broker.settings.CatalogueSettings(refresh_seconds_min=0.1),
            automation=replace(self.automation, path=self.path),
            in_flight=IN_FLIGHT,
            manager_call_seconds_max=5.0,
        )
        own = self.federation.party(BROKER)
        context = service.Context(self.federation.clock, own, self._broker)
        server = broker.__main__.assemble(settings, context)
        server.start()
        self._broker.callback(lambda: server.stop(0).wait(10))
        eventually(self._both_fit, "the broker has read what both clouds publish")

    def stop_broker(self) -> None:
        """Its database stays."""
        if self._broker is not None:
            self._broker.close()
        self._broker = None

    def broker_process(self) -> processes.Process:
        """The broker as a process of its own, not started."""
        config = self.folder / "broker.toml"
        config.write_text(
            CONFIG.format(
                port=self.port,
                keys=self.federation.folder_of(BROKER),
                path=self.path,
                interval=self.automation.interval_seconds,
                directory=f"127.0.0.1:{self.directory_port}",
                directory_id=DIRECTORY,
            )
        )
        process = processes.Process(
            "broker",
            config,
            processes.target(self.port, BROKER),
            self.federation.party(ACME),
        )
        self.stack.callback(process.end)
        return process

    def stub(self, caller: str = ACME) -> broker_pb2_grpc.BrokerServiceStub:
        """The broker as somebody sees it."""
        return broker_pb2_grpc.BrokerServiceStub(self._channel(caller))

    def delegate(
        self,
        signer: str = ACME,
        scope: Scope = SCOPE,
        delegate: str = BROKER,
        life_seconds: int = 3600,
    ) -> common_pb2.SignedDocument:
        """A standing delegation of acme's machines."""
        now = self.federation.clock.now()
        party = self.federation.party(signer)
        return standing.sign(party, now, scope, delegate=delegate, life_seconds=life_seconds)

    def put(
        self,
        caller: str = ACME,
        delegation: common_pb2.SignedDocument | None = None,
        **changes: object,
    ) -> broker_pb2.Policy:
        """Sets the eager policy, with any of its fields changed."""
        request = broker_pb2.PutPolicyRequest(
            request_id=str(uuid.uuid4()),
            policy=broker_pb2.Policy(**EAGER | changes),  # type: ignore[arg-type]
            delegation=self.delegate(caller) if delegation is None else delegation,
        )
        return client.call(self.stub(caller).PutPolicy, request).policy

    def policies(self, caller: str = ACME) -> list[broker_pb2.Policy]:
        request = broker_pb2.ListPoliciesRequest()
        return list(client.call(self.stub(caller).ListPolicies, request).policies)

    def plans(self, caller: str = ACME, **asked: object) -> list[broker_pb2.Plan]:
        """Newest first."""
        request = broker_pb2.ListPlansRequest(**asked)  # type: ignore[arg-type]
        return list(client.call(self.stub(caller).ListPlans, request).plans)

    def delete(self, policy_id: str = "cheap", caller: str = ACME, tenant: str = "") -> None:
        request = broker_pb2.DeletePolicyRequest(policy_id=policy_id, tenant=tenant)
        client.call(self.stub(caller).DeletePolicy, request)

    def evaluated(self) -> broker_pb2.PolicyEvaluation:
        """The evaluation of acme's policy that begins after this call."""
        before = self._at()
        eventually(lambda: self._at() > before, "another evaluation")
        before = self._at()
        eventually(lambda: self._at() > before, "another evaluation")
        return self.policies()[0].evaluation

    def set_price(self, cloud: Cloud, vcpu: str, version: int = 2) -> None:
        """Records a price sheet of a running manager, in effect in a second."""
        since = self.federation.clock.now() + timedelta(seconds=1)
        vcpus = {"name": "vcpu", "measure": "running", "resource": "vcpus", "unit": "vCPU-hour"}
        document = {
            "version": version,
            "currency": "JPY",
            "effective_from": since.isoformat(),
            "components": [vcpus | {"price": vcpu}],
        }
        channel = cloud.channel(f"spiffe://{cloud.domain}/operator/main")
        stub = manager_pb2_grpc.AccountingServiceStub(channel)
        request = manager_pb2.PutPriceSheetRequest(document=json.dumps(document))
        client.call(stub.PutPriceSheet, request)

    def _both_fit(self) -> bool:
        resources = common_pb2.Resources(vcpus=1, memory_bytes=1, disk_bytes=1)
        request = broker_pb2.PlaceRequest(
            request_id=str(uuid.uuid4()),
            requirements=broker_pb2.Requirements(resources=resources),
        )
        return len(client.call(self.stub().Place, request).candidates) == len(SCOPE.to_clouds)

    def _at(self) -> float:
        (policy,) = self.policies()
        return policy.evaluation.at.ToNanoseconds() / 1e9

    def _keys(self, spiffe_id: str) -> IdentitySettings:
        folder = self.federation.folder_of(spiffe_id)
        return IdentitySettings(folder / "cert.pem", folder / "key.pem", folder / "trust")

    def _channel(self, caller: str) -> grpc.Channel:
        channel = rpc.connect(self.federation.party(caller), processes.target(self.port, BROKER))
        self.stack.callback(channel.close)
        return channel


@contextmanager
def automation_world(federation: Federation, folder: Path) -> Iterator[World]:
    """The directory and both clouds run; the broker does not."""
    with ExitStack() as stack:
        tokyo, osaka = stack.enter_context(two_clouds(federation, folder / "clouds"))
        world = World(federation, folder, tokyo, osaka, stack)
        stack.callback(world.stop_directory)
        world.start_directory()
        world.start_clouds()
        stack.callback(world.stop_broker)
        yield world
