"""directory.records and directory.publications: what may be published."""

import math
from collections.abc import Callable

import pytest

from directory import publications, records
from directory.records import Key
from tests.support.directory_samples import capacity, cloud, key, new_id, offer
from watari import errors
from watari.v1 import common_pb2, directory_pb2

OWNER = "tokyo.example"
Record = directory_pb2.Record
KIND_LINK, KIND_IMAGE = directory_pb2.RECORD_KIND_LINK, directory_pb2.RECORD_KIND_IMAGE


def link(**fields: object) -> Record:
    return Record(
        key=key(KIND_LINK, name="to-osaka"),
        link=directory_pb2.Link(to_cloud_id="osaka", **fields),  # type: ignore[arg-type]
    )


def image(root: bytes = b"") -> Record:
    return Record(
        key=key(KIND_IMAGE, name="ubuntu"), image=directory_pb2.ImageSummary(public_root=root)
    )


def host() -> Record:
    return Record(
        key=key(directory_pb2.RECORD_KIND_HOST, name="h1"), host=directory_pb2.HostSummary()
    )


def inventory(**fields: float) -> Record:
    """A capacity record with one inventory."""
    record = capacity()
    record.capacity.inventories.add(resource_class="vcpus", **fields)
    return record


def changed(record: Record, change: Callable[[Record], object]) -> Record:
    change(record)
    return record


@pytest.mark.parametrize(
    "record",
    [
        inventory(allocation_ratio=2.5, total=8, reserved=8, min_unit=1, max_unit=4),
        cloud(),
        capacity(),
        offer(),
        link(rtt_ms=20.5),
        image(),
        image(b"r" * 32),
        host(),
    ],
    ids=lambda record: record.WhichOneof("body"),
)
def test_a_sound_record_of_every_kind_is_accepted(record: Record) -> None:
    assert records.check_record(record, OWNER, "record") == Key.of(record.key)


REFUSED: list[tuple[str, Record]] = [
    ("record", Record(key=key(KIND_LINK), offer=directory_pb2.Offer())),
    ("record", Record(key=key(KIND_LINK))),
    ("record.key.kind", Record(key=key(0), offer=directory_pb2.Offer())),
    ("record.key.kind", Record(key=key(99), offer=directory_pb2.Offer())),
    ("record.key.cloud_id", changed(offer(), lambda r: setattr(r.key, "cloud_id", "Tokyo"))),
    ("record.key.name", changed(offer(), lambda r: setattr(r.key, "name", "a/b"))),
    ("record.key.name", changed(offer(), lambda r: setattr(r.key, "name", ""))),
    ("record.key.name", changed(cloud(), lambda r: setattr(r.key, "name", "other"))),
    ("record.cloud.provider_domain", cloud(domain="osaka.example")),
    (
        "record.cloud.manager.spiffe_id",
        changed(
            cloud(),
            lambda r: setattr(r.cloud.manager, "spiffe_id", "spiffe://osaka.example/manager/main"),
        ),
    ),
    (
        "record.cloud.manager.spiffe_id",
        changed(
            cloud(),
            lambda r: setattr(r.cloud.manager, "spiffe_id", "spiffe://tokyo.example/agent/a"),
        ),
    ),
    (
        "record.cloud.manager.spiffe_id",
        changed(cloud(), lambda r: setattr(r.cloud.manager, "spiffe_id", "")),
    ),
    (
        "record.cloud.manager.address",
        changed(cloud(), lambda r: setattr(r.cloud.manager, "address", "no port")),
    ),
    (
        "record.cloud.jurisdiction",
        changed(cloud(), lambda r: setattr(r.cloud, "jurisdiction", "Japan")),
    ),
    (
        "record.cloud.display_name",
        changed(cloud(), lambda r: setattr(r.cloud, "display_name", "\x1b[2J")),
    ),
    ("record.cloud.taints", changed(cloud(), lambda r: r.cloud.taints.append("a\nb"))),
    (
        "record.cloud.taints",
        changed(cloud(), lambda r: r.cloud.taints.extend(["t"] * records.ENTRIES_MAX)),
    ),
    ("record.labels", changed(cloud(), lambda r: r.labels.update({"": "x"}))),
    ("record.labels", changed(cloud(), lambda r: r.labels.update({"a": "\x07"}))),
    ("record.labels", changed(cloud(), lambda r: r.labels.update({"a": "é" * 65}))),
    ("record.labels", changed(cloud(), lambda r: r.labels.update({"k" * 129: "v"}))),
    ("record.labels", changed(cloud(), lambda r: r.labels.update({str(n): "" for n in range(64)}))),
    ("record.scores", changed(cloud(), lambda r: r.scores.update({"a": math.nan}))),
    ("record.scores", changed(cloud(), lambda r: r.scores.update({"a": math.inf}))),
    ("record.scores", changed(cloud(), lambda r: r.scores.update({str(n): 0 for n in range(32)}))),
    ("record.link.rtt_ms", link(rtt_ms=-1.0)),
    ("record.link.rtt_ms", link(rtt_ms=math.nan)),
    ("record.link.price_gib", link(price_gib=common_pb2.Money(currency_code="yen"))),
    ("record.link.to_cloud_id", changed(link(), lambda r: setattr(r.link, "to_cloud_id", ""))),
    ("record.image.public_root", image(b"short")),
    (
        "record.offer.prices",
        changed(offer(), lambda r: setattr(r.offer.prices.egress_gib, "currency_code", "USD")),
    ),
    (
        "record.offer.prices",
        changed(offer(), lambda r: setattr(r.offer.prices.vcpu_hour, "nanos", -1)),
    ),
    (
        "record.capacity.free.other",
        changed(
            capacity(),
            lambda r: r.capacity.free.other.update({str(n): 1 for n in range(256)}),
        ),
    ),
    ("record.capacity.inventories[0].allocation_ratio", inventory()),
    ("record.capacity.inventories[0].allocation_ratio", inventory(allocation_ratio=math.inf)),
    (
        "record.capacity.inventories[0].reserved",
        inventory(allocation_ratio=1, total=4, reserved=5),
    ),
    (
        "record.capacity.inventories[0].max_unit",
        inventory(allocation_ratio=1, min_unit=4, max_unit=2),
    ),
    (
        "record",
        changed(
            offer(), lambda r: r.offer.traits.extend(f"{n:03}".ljust(500, "x") for n in range(200))
        ),
    ),
]


@pytest.mark.parametrize(("field", "record"), REFUSED)
def test_an_unsound_record_is_refused_with_its_field(field: str, record: Record) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        records.check_record(record, OWNER, "record")
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.metadata["field"] == field
    assert caught.value.hint


def test_what_the_directory_sets_is_ignored_in_a_put() -> None:
    record = cloud()
    record.generation, record.revision, record.stale = 7, 8, True
    record.updated_at.seconds = 9
    put = records.put_of(directory_pb2.RecordPut(record=record), OWNER, "puts[0]")
    assert put.record == cloud()
    assert record.generation == 7


def request(*found: Record, **fields: object) -> directory_pb2.PublishRequest:
    return directory_pb2.PublishRequest(
        request_id=fields.get("request_id", new_id()),  # type: ignore[arg-type]
        lease_id=fields.get("lease_id", new_id()),  # type: ignore[arg-type]
        puts=[directory_pb2.RecordPut(record=record) for record in found],
        deletes=fields.get("deletes", ()),  # type: ignore[arg-type]
    )


def test_a_key_may_occur_once_in_a_request() -> None:
    for twice in (request(cloud(), cloud()), request(cloud(), deletes=[cloud().key])):
        with pytest.raises(errors.InvalidArgument, match="CLOUD tokyo/main occurs twice"):
            publications.from_request(twice, OWNER)


def test_an_expected_generation_below_minus_one_is_refused() -> None:
    bad = request(cloud())
    bad.puts[0].expected_generation = -2
    with pytest.raises(errors.InvalidArgument) as caught:
        publications.from_request(bad, OWNER)
    assert caught.value.metadata["field"] == "puts[0].expected_generation"


@pytest.mark.parametrize("field", ["request_id", "lease_id"])
def test_ids_must_be_uuids(field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        publications.from_request(request(cloud(), **{field: "first"}), OWNER)
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_ID", field)


def test_a_publication_is_told_apart_by_content_and_owner() -> None:
    request_id, lease_id = new_id(), new_id()
    same = [request(cloud(), request_id=request_id, lease_id=lease_id) for _ in range(2)]
    other = request(offer(), request_id=request_id, lease_id=lease_id)
    first, second = (publications.from_request(each, OWNER).digest for each in same)
    assert first == second
    assert first != publications.from_request(other, OWNER).digest
    deletion = request(request_id=request_id, lease_id=lease_id, deletes=[cloud().key])
    assert (
        publications.from_request(deletion, OWNER).digest
        != publications.from_request(deletion, "osaka.example").digest
    )
