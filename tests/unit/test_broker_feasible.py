"""Hard constraints: which of several records decides, and what a fit says."""

from datetime import timedelta
from decimal import Decimal

import pytest

from broker import pricing
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from tests.support.verdicts import judge, only_rejection, osaka
from watari.v1 import directory_pb2


def test_an_offer_that_meets_everything_is_a_fit_with_its_price() -> None:
    verdict = judge(osaka())
    (fit,) = verdict.fits
    assert (fit.cloud.cloud_id, fit.offer.name, fit.capacity.region) == (
        "osaka",
        "standard",
        "jp-east",
    )
    # 4 x 0.01 + 8 x 0.002 + 40 x 0.073 / 730
    assert fit.hourly == pricing.Price("EUR", Decimal("0.06"))
    assert not verdict.rejections


@pytest.mark.parametrize(
    ("links", "fits"),
    [
        ([records.link("tokyo", "osaka", 9.5)], True),
        ([records.link("osaka", "tokyo", 9.5)], True),
        ([records.link("tokyo", "nara", 9.5)], False),
        ([records.link("tokyo", "osaka", 10.001)], False),
        ([records.link("tokyo", "osaka", 9.5, stale=True)], False),
        ([records.link("tokyo", "osaka", 9.5, valid_until=NOW)], False),
        ([records.link("tokyo", "osaka", 9.5, valid_until=NOW + timedelta(seconds=1))], True),
        ([records.link("tokyo", "osaka", 0.0)], False),
        ([records.link("tokyo", "osaka", float("nan"))], False),
        (
            [
                records.link("tokyo", "osaka", 9.5, measured_at=NOW - timedelta(hours=1)),
                records.link("osaka", "tokyo", 50.0),
            ],
            False,
        ),
    ],
)
def test_the_newest_usable_measurement_in_either_direction_decides_on_the_rtt(
    links: list[directory_pb2.Record], fits: bool
) -> None:
    published = [*osaka(), records.cloud("tokyo"), *links]
    verdict = judge(published, source_cloud="tokyo", rtt_ms_max=10.0)
    assert [fit.cloud.cloud_id for fit in verdict.fits] == (["osaka"] if fits else [])
    reasons = [one.constraint for one in verdict.rejections if one.cloud_id == "osaka"]
    assert reasons == ([] if fits else ["rtt"])


def test_labels_of_an_offer_win_over_those_of_its_cloud() -> None:
    published = [
        records.cloud("osaka", labels={"tier": "gold", "green": "yes"}),
        records.offer("osaka", labels={"tier": "spot"}),
        records.capacity("osaka"),
    ]
    assert judge(published, labels={"green": "yes", "tier": "spot"}).fits
    rejection = only_rejection(judge(published, labels={"tier": "gold"}))
    assert rejection.reason == "label tier is 'spot', wanted is 'gold'"


def test_a_fresh_capacity_record_counts_before_a_stale_one_of_the_same_region() -> None:
    stale = records.capacity("osaka", stale=True)
    fresh = records.capacity("osaka", largest_fit=records.resources(8, 8, 40))
    stale.key.name, fresh.key.name = "a", "b"
    published = [records.cloud("osaka"), records.offer("osaka"), stale, fresh]
    (fit,) = judge(published).fits
    assert fit.capacity.largest_fit["vcpus"] == 8


def test_prices_of_several_currencies_are_no_prices() -> None:
    prices = records.sheet()
    prices.disk_gib_month.currency_code = "JPY"
    assert judge(osaka(prices=prices)).fits[0].hourly is None
    ceiling = pricing.Price("EUR", Decimal(1))
    rejection = only_rejection(judge(osaka(prices=prices), ceiling=ceiling))
    assert rejection.reason == (
        "publishes prices of 2 currencies in one sheet, ceiling is 1.00 EUR/h"
    )
