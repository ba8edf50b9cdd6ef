"""What a decision is told: prices, room, ways and costs from a snapshot and managers' answers."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from broker import amounts, inflight
from broker.automation import costs
from broker.automation.costs import Estimate, Way
from broker.automation.memory import Known
from broker.automation.policy_rows import Held, Tenant
from broker.automation.situating import REFERENCE, Ground
from broker.policies.model import HOUR, Machine, Move, MoveCost, Standing
from broker.policies.plans import Outcome
from broker.snapshot import build
from tests.support import catalogue_records as records
from tests.support.catalogue_records import GIB, NOW
from watari import money
from watari.v1 import broker_pb2, common_pb2, directory_pb2, manager_pb2

VM = manager_pb2.Vm(
    vm_id="a", name="web", cloud_id="tokyo", state="shut off", resources=records.resources()
)
MACHINE = Machine("a", "tokyo", 0.0, amounts.of(VM.resources))


def two_clouds() -> list[directory_pb2.Record]:
    found = []
    for cloud_id, vcpu in (("tokyo", "0.02"), ("osaka", "0.01")):
        found += [
            records.cloud(cloud_id),
            records.offer(cloud_id, prices=records.sheet(vcpu, "0", "0")),
            records.capacity(cloud_id),
        ]
    return found


def held(**changes: object) -> Held:
    fields = {
        "policy_id": "p",
        "objective": "cost",
        "automation": broker_pb2.AUTOMATION_MANUAL,
    } | changes
    said = common_pb2.StandingDelegation(
        from_clouds=["tokyo", "osaka"], to_clouds=["tokyo", "osaka", "gone"]
    )
    document = common_pb2.SignedDocument(payload=said.SerializeToString())
    policy = broker_pb2.Policy(**fields)  # type: ignore[arg-type]
    return Held(Tenant("tokyo.example", "acme"), "p", 1, policy, document, "acme")


def ground(
    published: Sequence[directory_pb2.Record] = (),
    *,
    vm: manager_pb2.Vm = VM,
    now: datetime = NOW,
    in_flight: inflight.Ledger | None = None,
    **changes: object,
) -> Ground:
    snapshot = build(published or two_clouds(), 1, NOW)
    ledger = in_flight or inflight.Ledger()
    return Ground(held(**changes), snapshot, now, {"a": vm}, ledger)


def test_only_clouds_that_are_named_and_known_are_considered() -> None:
    assert ground().clouds == ("osaka", "tokyo")
    assert ground().price(MACHINE, "gone") is None
    assert "does not have it" in ground().feasible(MACHINE, "gone", ())


def test_the_price_is_that_of_the_cheapest_offer_that_holds() -> None:
    def price(*offers: directory_pb2.Record, **changes: object) -> float | None:
        return ground([*two_clouds()[:3], *offers], **changes).price(MACHINE, "tokyo")

    assert price() == pytest.approx(0.08)
    cheap = records.sheet("0.001", "0", "0")
    tomorrow, yesterday = NOW + timedelta(days=1), NOW - timedelta(days=1)
    assert price(records.offer("tokyo", "b", prices=cheap)) == pytest.approx(0.004)
    for ignored in (
        records.offer("tokyo", "b", prices=cheap, stale=True),
        records.offer("tokyo", "b", prices=cheap, valid_from=tomorrow),
        records.offer("tokyo", "b", prices=cheap, valid_until=yesterday),
        records.offer("tokyo", "b", prices=records.sheet("0.001", "0", "0", "JPY")),
    ):
        assert price(ignored) == pytest.approx(0.08)
    assert price(currency_code="USD") is None
    regions = broker_pb2.Requirements(regions=["jp-west"])
    assert price(requirements=regions) is None
    west = records.offer("tokyo", "b", region="jp-west", prices=cheap)
    assert price(west, requirements=regions) == pytest.approx(0.004)


def test_a_cloud_whose_record_is_stale_has_no_price_and_its_machines_are_busy() -> None:
    stale = ground([records.cloud("tokyo", stale=True), *two_clouds()[1:]])
    assert stale.price(MACHINE, "tokyo") is None
    assert "old" in stale.machine(VM, None, ()).busy


def test_what_keeps_a_machine_from_moving_is_told() -> None:
    moving = manager_pb2.Vm()
    moving.CopyFrom(VM)
    moving.migration_id = "m-1"
    assert "m-1" in ground().machine(moving, None, ()).busy
    broken = manager_pb2.Vm()
    broken.CopyFrom(VM)
    broken.problem.reason, broken.problem.message = "VM_UNSUPPORTED", "has a passed-through card"
    assert "passed-through" in ground().machine(broken, None, ()).busy
    assert ground().machine(VM, None, ()).busy == ""


def test_when_a_machine_came_and_how_often_it_moved() -> None:
    now = NOW.timestamp()
    known = Known("a", "web", "tokyo", now - 5, now, Standing("tokyo"), {}, failed_at=now - 9)
    moves = [
        Move("a", "tokyo", "osaka", now - HOUR),
        Move("a", "tokyo", "osaka", now - 25 * HOUR),
        Move("b", "tokyo", "osaka", now - HOUR),
    ]
    seen = ground().machine(VM, known, moves)
    assert (seen.since, seen.failed_at, seen.moves) == (now - 5, now - 9, (now - HOUR,))
    assert ground().machine(VM, None, ()).since == 0.0, "it was there before"
    elsewhere = replace(known, cloud_id="osaka")
    assert ground().machine(VM, elsewhere, ()).since == now, "somebody moved it"


def test_room_counts_what_is_planned_and_what_is_in_flight() -> None:
    room = [
        *two_clouds()[:5],
        records.capacity("osaka", free=records.resources(8, 16, 80)),
    ]
    others = [replace(MACHINE, vm_id=f"other-{number}") for number in range(2)]
    laid = ground(room)
    assert laid.feasible(MACHINE, "osaka", ()) == ""
    assert laid.feasible(MACHINE, "osaka", others[:1]) == ""
    assert "vCPU" in laid.feasible(MACHINE, "osaka", others)
    on_its_way = inflight.Decision("d", "osaka", "jp-east", MACHINE.resources, NOW)
    busy = ground(room, in_flight=inflight.Ledger().noted(on_its_way, 10))
    assert "vCPU" in busy.feasible(MACHINE, "osaka", others[:1])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"requirements": broker_pb2.Requirements(jurisdictions=["DE"])}, "law"),
        ({"requirements": broker_pb2.Requirements(required_traits=["gpu"])}, "gpu"),
        ({"requirements": broker_pb2.Requirements(excluded_clouds=["osaka"])}, "excluded"),
    ],
)
def test_the_policys_requirements_hold_of_every_cloud(changes: dict[str, object], why: str) -> None:
    assert why in ground(**changes).feasible(MACHINE, "osaka", ())


def test_taints_are_told_and_keep_machines_away() -> None:
    tainted = ground([records.cloud("osaka", taints=["maintenance"]), *two_clouds()])
    # The later record of a key counts.
    assert tainted.situation([], [], {}).taints == {}
    tainted = ground([*two_clouds(), records.cloud("osaka", taints=["maintenance"])])
    assert "maintenance" in tainted.situation([], [], {}).taints["osaka"]
    assert "maintenance" in tainted.feasible(MACHINE, "osaka", ())


def test_the_end_of_a_cloud_that_is_tainted_is_that_of_its_last_taint() -> None:
    def end(*taints: str, **ends: datetime) -> float | None:
        cloud = records.cloud("tokyo", taints=taints, taint_ends=ends)
        return ground([*two_clouds(), cloud]).situation([], [], {}).taint_ends.get("tokyo")

    soon, later = NOW + timedelta(hours=1), NOW + timedelta(hours=3)
    assert end() is None
    assert end("works") is None
    assert end("works", works=soon) == soon.timestamp()
    assert end("works", "tests", works=soon, tests=later) == later.timestamp()
    # What has no end that is known outlasts what has one; an end of what is no taint is none.
    assert end("works", "draining", works=soon) is None
    assert end(works=soon) is None
    assert end("works", tests=soon) is None


@pytest.mark.parametrize(("state", "runs"), [("shut off", False), ("running", True)])
def test_a_machine_is_told_as_on_or_off(state: str, runs: bool) -> None:
    vm = manager_pb2.Vm()
    vm.CopyFrom(VM)
    vm.state = state
    assert ground(vm=vm).machine(vm, None, []).runs is runs


def test_a_manager_that_found_something_keeps_the_machine() -> None:
    laid = ground()
    laid.estimates["a", "tokyo", "osaka"] = "HOST_INCOMPATIBLE: no such processor"
    assert "no such processor" in laid.feasible(MACHINE, "osaka", ())


def test_a_move_costs_what_the_sheets_say_until_a_manager_says_better() -> None:
    source = records.sheet("0.02", "0", "0")
    source.egress_gib.CopyFrom(money.from_decimal(Decimal("0.5"), "EUR"))
    source.migration_flat.CopyFrom(money.from_decimal(Decimal("0.25"), "EUR"))
    published = [*two_clouds(), records.offer("tokyo", prices=source)]
    laid = ground(published)
    cost = laid.move_cost(MACHINE, "osaka")
    assert cost is not None
    assert cost.transfer_bytes == 40 * GIB
    assert cost.egress == pytest.approx(20.0)
    assert cost.flat == pytest.approx(0.25)
    assert cost.overlap == pytest.approx(0.04 * 40 * GIB / 12_500_000 / 3600)
    assert (cost.downtime_seconds, cost.downtime) == (0.0, 0.0), "it is off"
    laid.estimates["a", "tokyo", "osaka"] = Estimate(
        GIB, Decimal("0.75"), Decimal("0.1"), 3600.0, 30.0
    )
    better = laid.move_cost(MACHINE, "osaka")
    assert better is not None
    assert (better.transfer_bytes, better.egress, better.flat) == (GIB, 0.75, 0.1)
    assert better.overlap == pytest.approx(0.04)
    assert laid.move_cost(MACHINE, "tokyo").total == 0.0  # type: ignore[union-attr]


def test_a_machine_that_runs_stands_still_by_its_mode() -> None:
    running = manager_pb2.Vm()
    running.CopyFrom(VM)
    running.state = "running"
    way = Way(1e6, 0.1)

    def still(mode: common_pb2.MigrationMode.ValueType) -> float:
        cost = costs.by_the_sheets(
            running, way, None, None, hourly=0.0, downtime_hour_price=1.0, mode=mode
        )
        assert cost.downtime == pytest.approx(cost.downtime_seconds / HOUR)
        return cost.downtime_seconds

    assert still(common_pb2.MIGRATION_MODE_WARM) == pytest.approx(4.0)
    assert still(common_pb2.MIGRATION_MODE_COLD) == pytest.approx(40 * GIB / 1e6 + 2)


def test_content_is_what_the_disks_have_allocated() -> None:
    vm = manager_pb2.Vm(resources=records.resources())
    assert costs.content_bytes(vm) == 40 * GIB
    vm.disks.add(size_bytes=10 * GIB, allocated_bytes=GIB)
    vm.disks.add(size_bytes=2 * GIB)
    assert costs.content_bytes(vm) == 3 * GIB


def test_an_estimate_counts_prices_of_the_policys_currency_only() -> None:
    answer = manager_pb2.EstimateMigrationResponse(
        wire_bytes=7,
        price=money.from_decimal(Decimal(3), "EUR"),
        destination_price=money.from_decimal(Decimal(4), "JPY"),
        duration_seconds=5.0,
    )
    found = costs.estimate_of(answer, "EUR")
    assert found == Estimate(7, Decimal(3), Decimal(0), 5.0, 0.0)
    for broken in (float("inf"), float("nan"), -1.0):
        senseless = manager_pb2.EstimateMigrationResponse(duration_seconds=broken)
        assert "makes no sense" in costs.estimate_of(senseless, "EUR")  # type: ignore[operator]
    answer.findings.add(reason="VM_BUSY", message="moves already")
    assert costs.estimate_of(answer, "EUR") == "VM_BUSY: moves already"


def test_latency_is_the_average_way_to_the_clouds_near_the_users() -> None:
    near = [broker_pb2.LinkLimit(cloud_id="osaka"), broker_pb2.LinkLimit(cloud_id="sendai")]
    requirements = broker_pb2.Requirements(links=near)
    published = [
        *two_clouds(),
        records.link("tokyo", "osaka", 8.0),
        records.link("tokyo", "sendai", 4.0),
    ]
    laid = ground(published, requirements=requirements)
    assert laid.latency(MACHINE, "tokyo") == pytest.approx(6.0)
    assert laid.latency(MACHINE, "osaka") is None, "nobody has measured the way to sendai"
    assert ground().latency(MACHINE, "tokyo") == 0.0


def test_a_way_is_as_fast_as_either_side_has_measured() -> None:
    fast = records.link("osaka", "tokyo", 8.0)
    fast.link.throughput_bytes_per_second = 10**9
    laid = ground([*two_clouds(), fast])
    slow = ground()
    assert laid.move_cost(MACHINE, "osaka").overlap < slow.move_cost(MACHINE, "osaka").overlap  # type: ignore[union-attr]
    old = records.link("osaka", "tokyo", 8.0, valid_until=NOW - timedelta(seconds=1))
    old.link.throughput_bytes_per_second = 10**9
    assert ground([*two_clouds(), old]).move_cost(MACHINE, "osaka") == slow.move_cost(
        MACHINE, "osaka"
    )


def test_levels_are_of_one_machine_for_every_cloud() -> None:
    levels = ground().levels()
    assert levels["tokyo"] == pytest.approx(0.02 * REFERENCE["vcpus"])
    assert levels["osaka"] == pytest.approx(0.01)
    assert ground(currency_code="USD").levels() == {}
    assert datetime.now(UTC) > NOW


def test_what_a_move_took_is_set_beside_what_was_estimated() -> None:
    migration = manager_pb2.Migration(downtime_seconds=3.0)
    migration.progress.wire_bytes = 4000
    migration.created_at.FromDatetime(NOW)
    migration.ended_at.FromDatetime(NOW + timedelta(seconds=90))
    took = costs.outcome_of(migration)
    assert took == Outcome(4000.0, 90.0, 3.0)
    estimated = MoveCost(transfer_bytes=2000.0, duration_seconds=100.0)
    assert costs.ratios(estimated, took) == {"transfer_bytes": 2.0, "duration": 0.9}
    # Of a warm one each round has its own count.
    migration.mode = common_pb2.MIGRATION_MODE_WARM
    assert costs.outcome_of(migration) == Outcome(0.0, 90.0, 3.0)
