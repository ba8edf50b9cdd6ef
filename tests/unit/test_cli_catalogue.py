"""What `watari directory verify` finds in a listing."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.support.directory_samples import capacity, cloud, key, offer
from watari.cli import catalogue
from watari.cli.catalogue import ERROR, WARNING, Finding
from watari.v1 import directory_pb2

NOW = datetime(2026, 6, 1, tzinfo=UTC)
Record = directory_pb2.Record


def link(to_cloud: str) -> Record:
    return Record(
        key=key(directory_pb2.RECORD_KIND_LINK, name="a-link"),
        link=directory_pb2.Link(to_cloud_id=to_cloud),
    )


def listed(*records: Record) -> list[Record]:
    """As a directory lists them: with what it sets."""
    for number, record in enumerate(records, start=2):
        record.generation, record.revision = 1, number
        record.updated_at.FromDatetime(NOW)
    return list(records)


def check(*records: Record) -> list[Finding]:
    return catalogue.check(100, listed(*records), NOW)


def test_a_sound_catalogue_has_no_findings() -> None:
    assert check(cloud(), offer(), capacity()) == []


def change(record: Record, how: Callable[[Record], object]) -> Record:
    how(record)
    return record


@pytest.mark.parametrize(
    ("records", "severity", "name", "problem"),
    [
        ([offer()], ERROR, "offer tokyo/standard", "nobody can reach its manager"),
        ([cloud(), cloud()], ERROR, "cloud tokyo/main", "is listed twice"),
        ([cloud(), capacity(), offer()], ERROR, "offer tokyo/standard", "not listed in its order"),
        (
            [cloud(), change(capacity(), lambda r: setattr(r.capacity.free, "vcpus", 65))],
            ERROR,
            "capacity tokyo/jp-east",
            "65 vcpus are free of 64",
        ),
        ([cloud(), link("kyoto")], WARNING, "link tokyo/a-link", "leads to cloud kyoto"),
        (
            [cloud(), change(offer(), lambda r: r.offer.valid_until.FromDatetime(NOW))],
            WARNING,
            "offer tokyo/standard",
            "was valid until 2026-06-01",
        ),
        (
            [cloud(), change(offer(), lambda r: r.offer.ClearField("prices"))],
            WARNING,
            "offer tokyo/standard",
            "has no prices",
        ),
        (
            [change(cloud(), lambda r: setattr(r, "stale", True))],
            WARNING,
            "cloud tokyo/main",
            "its lease has expired",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_what_is_wrong_is_found(
    records: list[Record], severity: str, name: str, problem: str
) -> None:
    (found,) = check(*records)
    assert (found.severity, found.record) == (severity, name)
    assert problem in found.problem


@pytest.mark.parametrize("field", ["generation", "revision", "updated_at"])
def test_what_the_directory_must_set_is_missed(field: str) -> None:
    (record,) = listed(cloud())
    record.ClearField(field)
    (found,) = catalogue.check(100, [record], NOW)
    assert found.severity == ERROR


def test_a_revision_of_the_future_is_an_error() -> None:
    (record,) = listed(cloud())
    (found,) = catalogue.check(record.revision - 1, [record], NOW)
    assert "is not one of the catalogue" in found.problem


def test_a_listing_is_compared_with_an_earlier_one() -> None:
    earlier = listed(cloud(), offer(), capacity())
    assert catalogue.compare(earlier, earlier) == []
    newer = listed(cloud(), offer(), capacity(vcpus=1))
    newer[2].revision = 50
    assert catalogue.compare(earlier, newer) == []
    (gone,) = catalogue.compare(earlier, earlier[:2])
    assert (gone.severity, gone.record) == (WARNING, "capacity tokyo/jp-east")
    (older,) = catalogue.compare(newer, earlier)
    assert (older.severity, older.problem[:16]) == (ERROR, "is of revision 4")
    other = listed(cloud(), offer(), capacity(vcpus=1))
    (differs,) = catalogue.compare(earlier, other)
    assert (differs.severity, differs.problem) == (ERROR, "differs from the dump at 4")
