"""How a machine's ledger goes on from look to look."""

from dataclasses import replace
from datetime import timedelta

import pytest

from broker.automation import engine
from broker.automation.memory import Known
from broker.automation.situating import Ground
from broker.policies import deciding
from broker.policies.model import HOUR, Machine, Standing
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from tests.unit.test_automation_situating import VM, ground, two_clouds
from watari.v1 import directory_pb2

UNPRICED = [*two_clouds(), records.offer("tokyo", prices=records.sheet(currency="JPY"))]
"""Tokyo sells in another currency than the policy compares in."""


def looked(
    known: Known | None,
    hours: float = 0.0,
    published: list[directory_pb2.Record] | None = None,
) -> tuple[Known, Ground]:
    """The machine as it is known after a look so many hours after NOW."""
    laid = ground(published or (), now=NOW + timedelta(hours=hours))
    machine = laid.machine(VM, known, ())
    return engine._advanced(
        laid.situation([machine], [], {}), machine, known, laid, laid.held
    ), laid


def test_regret_grows_by_the_prices_of_the_look_before() -> None:
    first, _ = looked(None)
    assert (first.standing.home, first.standing.regret) == ("tokyo", {})
    assert first.standing.allowance == pytest.approx(72 * 0.08)
    assert first.standing.arrival_price == pytest.approx(0.08)
    second, _ = looked(first, 0.5)
    assert second.standing.regret == {"osaka": pytest.approx(0.5 * (0.08 - 0.04))}


def test_time_that_nobody_looked_at_counts_an_hour_at_most() -> None:
    first, _ = looked(None)
    week, _ = looked(first, 7 * 24)
    assert week.standing.regret == {"osaka": pytest.approx(0.08 - 0.04)}
    backwards, _ = looked(replace(first, looked_at=first.looked_at + 9 * HOUR))
    assert backwards.standing.regret == {}


def test_a_machine_without_a_price_is_not_watched_until_it_has_one() -> None:
    first, laid = looked(None, published=UNPRICED)
    assert first.standing == engine.UNWATCHED
    machine = laid.machine(VM, first, ())
    (stay,) = deciding.decide(laid.situation([machine], [], {})).stays
    assert stay.rule == "unwatched"
    second, _ = looked(first, 1)
    assert second.standing.home == "tokyo"
    assert second.standing.allowance == pytest.approx(72 * 0.08)


def test_a_price_that_is_gone_for_a_while_changes_nothing() -> None:
    first, _ = looked(None)
    gone, _ = looked(first, 0.5, UNPRICED)
    after, _ = looked(gone, 0.75)
    assert after.standing == gone.standing
    assert after.standing.regret == {"osaka": pytest.approx(0.5 * (0.08 - 0.04))}


def test_what_somebody_else_moved_is_at_home_where_it_is() -> None:
    away = Known("a", "web", "osaka", 5.0, NOW.timestamp(), Standing("osaka", {"tokyo": 9.0}), {})
    here, _ = looked(away, 1)
    assert (here.standing.home, here.standing.regret) == ("tokyo", {})
    assert here.since == (NOW + timedelta(hours=1)).timestamp()
    assert here.name == "web"


def test_the_price_at_arrival_is_that_of_the_first_look_there() -> None:
    arrived = Known("a", "web", "tokyo", 5.0, NOW.timestamp(), Standing("osaka"), {})
    here, _ = looked(arrived, 0.1)
    assert here.standing.arrival_price == pytest.approx(0.08)
    assert here.standing.home == "osaka"


def test_a_machine_that_a_plan_brings_is_not_taken_for_one_that_somebody_moved() -> None:
    known = Known("a", "web", "tokyo", 5.0, NOW.timestamp(), Standing("tokyo"), {})
    here, there = Machine("a", "tokyo", 0.0), Machine("a", "osaka", 0.0)
    going = {"a": "osaka", "b": "tokyo"}
    assert engine.is_arriving(there, known, going)
    assert not engine.is_arriving(here, known, going), "it has not left"
    assert not engine.is_arriving(there, known, {}), "somebody else moved it"
    assert not engine.is_arriving(there, replace(known, cloud_id="osaka"), going), "it was recorded"


def test_what_is_on_its_way_counts_where_it_goes_and_is_busy() -> None:
    machines = [Machine("a", "osaka", 0.0), Machine("b", "tokyo", 0.0, busy="migration m moves it")]
    one, other = engine.on_their_way(machines, {"a": "tokyo"})
    assert (one.cloud_id, one.busy) == ("tokyo", "it is on its way to tokyo")
    assert other == machines[1]
    swapped = engine.on_their_way(machines, {"b": "osaka"})[1]
    assert (swapped.cloud_id, swapped.busy) == ("osaka", "migration m moves it")
