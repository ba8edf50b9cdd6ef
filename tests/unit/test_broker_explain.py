"""NO_CANDIDATE: the nearest clouds first, what would fit, and short enough for trailers."""

from typing import Any

from broker import amounts, explain, place, snapshot
from broker.criteria import Criteria
from broker.place import Placement
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari import errors
from watari.v1 import directory_pb2

TRAILERS_BYTES_MAX = 8 * 1024
"""gRPC's default limit of metadata."""


def placed(published: list[directory_pb2.Record], **wanted: Any) -> Placement:
    criteria = Criteria(**({"needed": amounts.of(records.resources(4, 8, 40))} | wanted))
    return place.place(snapshot.build(published, 7, NOW), criteria, NOW)


def small(cloud_id: str, vcpus: int, **cloud: Any) -> list[directory_pb2.Record]:
    return [
        records.cloud(cloud_id, **cloud),
        records.offer(cloud_id),
        records.capacity(cloud_id, largest_fit=records.resources(vcpus, 64, 400)),
    ]


def test_clouds_that_the_caller_ruled_out_come_last_and_fewer_misses_first() -> None:
    published = [
        *small("a", 2),
        *small("b", 2, taints=["draining"]),
        *small("c", 2),
        *small("d", 64),
    ]
    placement = placed(published, excluded_clouds=("a",), source_cloud="d")
    assert [one.cloud_id for one in explain.nearest(placement)] == ["c", "b", "d", "a"]


def test_a_cloud_is_told_by_the_offer_that_misses_least() -> None:
    published = [*small("a", 2), records.offer("a", "tiny", vm_max=records.resources(1, 1, 1))]
    (cloud,) = explain.nearest(placed(published))
    assert [(miss.offer, miss.constraint) for miss in cloud.misses] == [("standard", "capacity")]


def test_misses_of_a_cloud_whose_other_offer_fits_are_not_told() -> None:
    published = [
        *small("a", 64, taints=["draining"]),
        records.offer("a", "tiny", vm_max=records.resources(1, 1, 1)),
    ]
    (cloud,) = explain.nearest(placed(published))
    assert [miss.constraint for miss in cloud.misses] == ["taint"]


def test_the_hint_is_what_would_make_the_nearest_cloud_fit() -> None:
    error = explain.no_candidate("web-1", placed([*small("b", 2), *small("c", 3, taints=["x"])]))
    assert error.reason == "NO_CANDIDATE"
    assert error.message == (
        "no cloud fits machine web-1: b: needs 4 vCPUs, largest host has 2 vCPUs free; "
        "c: its provider keeps new machines away (x), needs 4 vCPUs, largest host has 3 vCPUs free"
    )
    assert error.hint == "b fits with 2 vCPUs or fewer"
    assert error.metadata["cloud.b"] == "b: needs 4 vCPUs, largest host has 2 vCPUs free"
    assert error.metadata["directory_revision"] == "7"


def test_an_empty_directory_is_told_as_such() -> None:
    error = explain.no_candidate("web-1", placed([]))
    assert error.message == "no cloud fits machine web-1: the directory lists no cloud"


def test_the_error_of_many_clouds_still_fits_into_trailers() -> None:
    published = [
        record
        for number in range(50)
        for record in small(f"{'c' * 60}{number}", 1, taints=["t" * 512] * 20)
    ]
    error = explain.no_candidate("v" * 256, placed(published))
    assert error.message.endswith("; 45 more clouds")
    assert errors.to_status(error).ByteSize() * 4 / 3 < TRAILERS_BYTES_MAX
