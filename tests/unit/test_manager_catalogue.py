"""What a manager publishes, and which settings it refuses."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from directory import publications
from manager import catalogue, checking, inventory
from manager.accounting import sheet_documents
from manager.inventory import DISK, MEMORY, VCPUS, HostView
from manager.settings import Settings
from manager.settings.accounts import PriceSettings
from manager.settings.hosts import AgentSettings
from watari import errors
from watari.identity import SpiffeId
from watari.rpc import RpcSettings
from watari.settings import EndpointSettings, IdentitySettings
from watari.v1 import common_pb2, directory_pb2

GIB = 1024**3
OWN = SpiffeId.parse("spiffe://tokyo.example/manager/main")
SETTINGS = Settings(
    cloud_id="tokyo",
    identity=IdentitySettings(Path(), Path(), Path()),
    region="jp-east",
    jurisdiction="JP",
    labels={"tier": "gold"},
    agents={"h1": AgentSettings("127.0.0.1:1", "spiffe://tokyo.example/agent/h1")},
    prices=PriceSettings(vcpu_hour="2.5", version=3),
)
SHEET = sheet_documents.from_settings(SETTINGS.prices)
ENDPOINT = common_pb2.Endpoint(address="tokyo.example:7443", spiffe_id=str(OWN))


def host(host_id: str, memory: int, **changes: object) -> HostView:
    """A host of 8 CPUs."""
    values: dict[str, object] = {
        "host_id": host_id,
        "total": {VCPUS: 8, MEMORY: memory, DISK: 100 * GIB},
        "reserved": {},
        "ratios": {},
        "storage_free_bytes": 1,
    }
    return HostView(**(values | changes))  # type: ignore[arg-type]


def records(*hosts: HostView, settings: Settings = SETTINGS) -> dict[int, directory_pb2.Record]:
    """What is published for some hosts, by kind; the last host of several."""
    traits = {each.host_id: ["driver:shelf"] for each in hosts}
    found = catalogue.records(settings, "tokyo.example", ENDPOINT, hosts, traits, sheet=SHEET)
    return {record.key.kind: record for record in found}


def test_capacity_sums_hosts_and_fit_is_the_largest_of_one() -> None:
    found = records(host("h1", 16 * GIB), host("h2", 32 * GIB, held={MEMORY: 4 * GIB}))
    capacity = found[directory_pb2.RECORD_KIND_CAPACITY].capacity
    assert capacity.total.memory_bytes == 48 * GIB
    assert capacity.free.memory_bytes == 44 * GIB
    assert capacity.largest_fit.memory_bytes == 28 * GIB


def test_inventories_say_what_the_total_was_computed_from() -> None:
    reserved, ratios = {VCPUS: 2, MEMORY: 4 * GIB}, {VCPUS: 4.0}
    found = records(
        host("h1", 16 * GIB, reserved=reserved, ratios=ratios),
        host("h2", 32 * GIB, reserved=reserved, ratios={VCPUS: 2.0}),
    )
    capacity = found[directory_pb2.RECORD_KIND_CAPACITY].capacity
    classes = {each.resource_class: each for each in capacity.inventories}
    assert list(classes) == [DISK, MEMORY, VCPUS]
    vcpus, memory = classes[VCPUS], classes[MEMORY]
    assert (vcpus.total, vcpus.reserved, vcpus.max_unit) == (16, 4, 24)
    assert vcpus.allocation_ratio == 3.0
    assert round((vcpus.total - vcpus.reserved) * vcpus.allocation_ratio) == capacity.total.vcpus
    assert (memory.total, memory.reserved) == (48 * GIB, 8 * GIB)
    assert (memory.min_unit, memory.step_size, memory.allocation_ratio) == (1, 1, 1.0)


def test_a_host_that_does_not_answer_has_nothing_free() -> None:
    found = records(host("h1", 16 * GIB, reachable=False))
    capacity = found[directory_pb2.RECORD_KIND_CAPACITY].capacity
    assert capacity.total.vcpus == 8
    assert capacity.free == common_pb2.Resources()


def test_small_changes_do_not_change_what_is_published() -> None:
    before = records(host("h1", 16 * GIB, allocated={MEMORY: GIB, DISK: GIB}))
    after = records(host("h1", 16 * GIB, allocated={MEMORY: GIB - 5, DISK: GIB - 5}))
    assert before == after


def test_the_record_of_the_cloud_carries_what_placement_needs() -> None:
    found = records(host("h1", 16 * GIB))
    cloud = found[directory_pb2.RECORD_KIND_CLOUD]
    assert cloud.labels["tier"] == "gold"
    assert cloud.cloud.capabilities == ["mode:cold", "driver:shelf"]
    assert (cloud.cloud.jurisdiction, list(cloud.cloud.regions)) == ("JP", ["jp-east"])
    offer = found[directory_pb2.RECORD_KIND_OFFER].offer
    assert (offer.prices.version, offer.prices.vcpu_hour.units) == (3, 2)
    assert offer.prices.vcpu_hour.nanos == 500_000_000
    assert inventory.amounts(offer.vm_max)[VCPUS] == 8


def test_a_taint_is_published_with_the_end_that_is_expected_of_it() -> None:
    told = {"maintenance": "2026-12-01T15:00:00+09:00"}
    settings = replace(SETTINGS, taints=("maintenance", "draining"), taint_ends=told)
    checking.check(settings, OWN)
    cloud = records(settings=settings)[directory_pb2.RECORD_KIND_CLOUD].cloud
    assert list(cloud.taints) == ["maintenance", "draining"]
    assert list(cloud.taint_ends) == ["maintenance"]
    assert cloud.taint_ends["maintenance"].ToJsonString() == "2026-12-01T06:00:00Z"


def test_good_settings_pass() -> None:
    checking.check(SETTINGS, OWN)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cloud_id": "Tokyo"}, "cloud_id"),
        ({"region": "a b"}, "region"),
        ({"agents": {"h 1": SETTINGS.agents["h1"]}}, "agents"),
        (
            {"agents": {"h1": AgentSettings("127.0.0.1:1", "spiffe://osaka.example/agent/h1")}},
            "another provider",
        ),
        ({"peers": {"osaka": EndpointSettings("nowhere", "spiffe://a.example/manager/m")}}, "addr"),
        ({"peers": {"osaka": EndpointSettings("a:1", "osaka")}}, "osaka"),
        ({"taints": ("a",), "taint_ends": {"b": "2026-12-01T06:00:00Z"}}, "'b' is no taint"),
        ({"taints": ("a",), "taint_ends": {"a": "soon"}}, "'soon'"),
        ({"taints": ("a",), "taint_ends": {"a": "2026-12-01T06:00:00"}}, "has no zone"),
        ({"prices": PriceSettings(vcpu_hour="free")}, "free"),
        ({"prices": PriceSettings(vcpu_hour="-1")}, "-1"),
        ({"prices": PriceSettings(vcpu_hour="NaN")}, "NaN"),
        ({"watchers_max": 8, "rpc": RpcSettings(workers_max=8)}, "watchers_max"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(
    change: dict[str, object], named: str
) -> None:
    with pytest.raises(errors.InvalidArgument, match=named) as caught:
        checking.check(replace(SETTINGS, **change), OWN)  # type: ignore[arg-type]
    assert caught.value.reason == "CONFIG_INVALID"


def hosts_records(count: int, labels: int = 0) -> list[directory_pb2.Record]:
    """A cloud's record, and so many hosts'."""
    found = records(host("h", GIB))
    cloud, one = found[directory_pb2.RECORD_KIND_CLOUD], found[directory_pb2.RECORD_KIND_HOST]
    made = [cloud]
    for number in range(count):
        record = directory_pb2.Record()
        record.CopyFrom(one)
        record.key.name = f"h{number}"
        record.labels.update({f"l{at}": "x" * 100 for at in range(labels)})
        made.append(record)
    return made


@pytest.mark.parametrize(
    ("hosts", "labels", "deletes", "publishes"),
    [
        (0, 0, 0, 1),
        (999, 0, 0, 1),
        (1000, 0, 0, 2),
        (999, 0, 1, 2),
        (10, 0, 990, 2),
        (3500, 0, 2500, 7),
        (900, 20, 0, 3),
    ],
)
def test_a_change_is_cut_into_publishes_that_the_directory_takes(
    hosts: int, labels: int, deletes: int, publishes: int
) -> None:
    puts = hosts_records(hosts, labels)
    keys = [
        directory_pb2.RecordKey(kind=2, cloud_id="tokyo", name=f"gone{number}")
        for number in range(deletes)
    ]
    found = catalogue.batches(puts, keys)
    assert len(found) == publishes
    for batch in found:
        request = directory_pb2.PublishRequest(
            request_id=str(uuid.uuid4()), lease_id=str(uuid.uuid4()), deletes=batch.deletes
        )
        request.puts.extend(directory_pb2.RecordPut(record=record) for record in batch.puts)
        publications.from_request(request, "tokyo.example")
    published = [record.key.name for batch in found for record in batch.puts]
    assert sorted(published) == sorted(record.key.name for record in puts)
    assert published[-1] == "main", "the cloud itself comes last"
    assert [key for batch in found for key in batch.deletes] == keys


def test_without_a_change_nothing_is_published() -> None:
    assert catalogue.batches([], []) == []
