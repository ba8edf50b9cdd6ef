"""Hard constraints: what is said of each one that is missed, and of whom."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from broker import amounts, pricing
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from tests.support.verdicts import judge, only_rejection, osaka


@pytest.mark.parametrize(
    ("wanted", "constraint", "reason", "would_fit"),
    [
        (
            {"clouds": ("tokyo", "osaka-2")},
            "cloud",
            "is not among the clouds asked for (tokyo, osaka-2)",
            "fits with osaka among clouds",
        ),
        (
            {"excluded_clouds": ("osaka",)},
            "excluded_cloud",
            "is excluded by the request",
            "fits without osaka among excluded_clouds",
        ),
        ({"source_cloud": "osaka"}, "source", "is where the machine is already", ""),
        (
            {"jurisdictions": ("DE", "FR")},
            "jurisdiction",
            "is under the law of JP, wanted is DE, FR",
            "fits with JP among jurisdictions",
        ),
        (
            {"source_cloud": "tokyo", "rtt_ms_max": 20.0},
            "rtt",
            "no measured link between tokyo and osaka, limit is 20 ms",
            "fits without rtt_ms_max",
        ),
        (
            {"regions": ("eu-west",)},
            "region",
            "is in jp-east, wanted is eu-west",
            "fits with jp-east among regions",
        ),
        (
            {"required_traits": ("kvm", "gpu", "nvme")},
            "required_trait",
            "lacks gpu, nvme",
            "fits without requiring gpu, nvme",
        ),
        (
            {"forbidden_traits": ("ssd", "gpu")},
            "forbidden_trait",
            "has ssd",
            "fits without forbidding ssd",
        ),
        ({"labels": {"tier": "gold"}}, "label", "has no label tier, wanted is 'gold'", ""),
        (
            {"ceiling": pricing.Price("EUR", Decimal("0.05"))},
            "price",
            "costs 0.06 EUR/h, ceiling is 0.05 EUR/h",
            "fits with a ceiling of 0.06 EUR/h or more",
        ),
        (
            {"ceiling": pricing.Price("JPY", Decimal(1000))},
            "price",
            "costs 0.06 EUR/h, ceiling is 1000.00 JPY/h: the currencies differ",
            "fits with a ceiling of 0.06 EUR/h or more",
        ),
        (
            {"needed": amounts.of(records.resources(65, 8, 40))},
            "capacity",
            "needs 65 vCPUs, largest host has 64 vCPUs free",
            "fits with 64 vCPUs or fewer",
        ),
        (
            {"needed": amounts.of(records.resources(4, 8, 40, gpu=2))},
            "capacity",
            "needs 2 gpu, largest host has 0 gpu free",
            "",
        ),
    ],
)
def test_a_missed_constraint_is_told_with_both_sides_and_what_would_fit(
    wanted: dict[str, Any], constraint: str, reason: str, would_fit: str
) -> None:
    clouds = wanted.pop("clouds", ())
    published = osaka()
    published += [records.cloud(name) for name in clouds]
    verdict = judge(published, clouds=clouds, **wanted)
    found = [one for one in verdict.rejections if one.cloud_id == "osaka"]
    assert not verdict.fits
    assert [(one.constraint, one.reason, one.would_fit) for one in found] == [
        (constraint, reason, would_fit)
    ]


@pytest.mark.parametrize(
    ("offer", "constraint", "reason"),
    [
        (
            {"valid_from": NOW + timedelta(hours=1)},
            "validity",
            "is valid from 2026-03-01 13:00:00 UTC, now is 2026-03-01 12:00:00 UTC",
        ),
        (
            {"valid_until": NOW},
            "validity",
            "was valid until 2026-03-01 12:00:00 UTC, now is 2026-03-01 12:00:00 UTC",
        ),
        ({"stale": True}, "stale", "the offer is stale: its lease expired, last change 0 ms ago"),
        (
            {"vm_max": records.resources(2, 8, 40)},
            "vm_max",
            "needs 4 vCPUs, largest machine of this offer has 2 vCPUs",
        ),
        (
            {"region": "jp-west"},
            "capacity",
            "publishes no capacity for region jp-west",
        ),
    ],
)
def test_an_offer_is_rejected_for_what_it_says_of_itself(
    offer: dict[str, Any], constraint: str, reason: str
) -> None:
    rejection = only_rejection(judge(osaka(**offer)))
    assert (rejection.offer, rejection.constraint, rejection.reason) == (
        "standard",
        constraint,
        reason,
    )


@pytest.mark.parametrize(
    ("cloud", "constraint", "reason"),
    [
        (
            {"taints": ("draining",)},
            "taint",
            "its provider keeps new machines away (draining)",
        ),
        (
            {"stale": True},
            "stale",
            "the cloud's record is stale: its lease expired, last change 0 ms ago",
        ),
        (
            {"manager": "spiffe://tokyo.internal/manager/main"},
            "manager",
            (
                "the record of cloud osaka names a manager of tokyo.internal, "
                "its provider is osaka.internal"
            ),
        ),
        (
            {"manager": "spiffe://osaka.internal/agent/host-1"},
            "manager",
            (
                "the record of cloud osaka names spiffe://osaka.internal/agent/host-1, "
                "which is no manager"
            ),
        ),
    ],
)
def test_a_whole_cloud_is_rejected_once_and_not_by_offer(
    cloud: dict[str, Any], constraint: str, reason: str
) -> None:
    published = [
        records.cloud("osaka", **cloud),
        records.offer("osaka", "small", stale=bool(cloud.get("stale"))),
        records.offer("osaka", "large", stale=bool(cloud.get("stale"))),
        records.capacity("osaka", stale=bool(cloud.get("stale"))),
    ]
    rejection = only_rejection(judge(published))
    assert (rejection.offer, rejection.constraint, rejection.reason) == ("", constraint, reason)


def test_every_missed_constraint_of_every_offer_is_reported() -> None:
    published = [
        records.cloud("osaka", taints=("draining",), jurisdiction="JP"),
        records.offer("osaka", "a", region="jp-west", traits=()),
        records.offer("osaka", "b"),
        records.capacity("osaka", largest_fit=records.resources(1, 4, 10)),
    ]
    verdict = judge(
        published, jurisdictions=("DE",), regions=("jp-east",), required_traits=("kvm",)
    )
    assert [(one.offer, one.constraint) for one in verdict.rejections] == [
        ("", "jurisdiction"),
        ("", "taint"),
        ("a", "region"),
        ("a", "required_trait"),
        ("a", "capacity"),
        ("b", "capacity"),
        ("b", "capacity"),
        ("b", "capacity"),
    ]


def test_a_cloud_without_offers_and_one_that_does_not_exist_are_explained_too() -> None:
    verdict = judge([records.cloud("osaka")], clouds=("osaka", "nara"))
    assert [(one.cloud_id, one.constraint, one.reason) for one in verdict.rejections] == [
        ("nara", "cloud", "the directory has no such cloud at revision 7"),
        ("osaka", "offer", "publishes no offer"),
    ]
