"""docs/placement.md says what the broker does: its table of constraints and its example."""

import re
from decimal import Decimal
from pathlib import Path

from broker import (
    amounts,
    cloud_constraints,
    offer_constraints,
    place,
    pricing,
    snapshot,
)
from broker.criteria import Criteria
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari.v1 import common_pb2, directory_pb2

DOCUMENT = (Path(__file__).parents[2] / "docs" / "placement.md").read_text()


def section(title: str) -> str:
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_constraint_is_documented() -> None:
    documented = [
        name for row in rows(section("Constraints")) for name in re.findall("`(.+?)`", row[0])
    ]
    judged = [*cloud_constraints.CONSTRAINTS, *offer_constraints.CONSTRAINTS]
    known = [*judged, "refused"]
    assert set(documented) == set(known)


def selling(
    cloud_id: str, prices: tuple[str, str], free: common_pb2.Resources, fit: common_pb2.Resources
) -> list[directory_pb2.Record]:
    return [
        records.cloud(cloud_id),
        records.offer(cloud_id, prices=records.sheet(*prices)),
        records.capacity(cloud_id, free=free, largest_fit=fit),
    ]


def test_the_example_is_what_the_broker_answers() -> None:
    roomy = records.resources(64, 256, 4000)
    published = [
        *selling("osaka", ("0.010", "0.002"), records.resources(64, 72, 4000), roomy),
        *selling(
            "nagoya", ("0.015", "0.002"), records.resources(64, 200, 4000), records.resources(32)
        ),
        *selling("sendai", ("0.008", "0.002"), roomy, records.resources(2)),
        *selling("berlin", ("0.020", "0.003"), roomy, roomy),
        *selling("tokyo", ("0.010", "0.002"), roomy, roomy),
    ]
    criteria = Criteria(
        needed=amounts.of(records.resources(4, 8, 40)),
        ceiling=pricing.Price("EUR", Decimal("0.10")),
        source_cloud="tokyo",
    )
    placement = place.place(snapshot.build(published, 1, NOW), criteria, NOW)
    candidates = [
        [
            one.fit.cloud.cloud_id,
            f"{one.fit.hourly}, {float(one.scores[0].normalised)} * 0.5",
            f"no preference, {float(one.scores[1].normalised)} * 0.2",
            f"{one.scores[2].value.split()[0]}, {float(one.scores[2].normalised)} * 0.3",
            str(float(one.score)),
        ]
        for one in placement.candidates
    ]
    rejections = [
        [one.cloud_id, f"`{one.constraint}`", one.reason, one.would_fit]
        for one in placement.rejections
    ]
    tables = rows(section("An example"))
    assert [row for row in tables if len(row) == 5][1:] == candidates
    assert [row for row in tables if len(row) == 4][1:] == rejections
