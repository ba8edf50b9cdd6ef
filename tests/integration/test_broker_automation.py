"""Policies that act: a real directory, two real managers, and a broker that evaluates."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from manager import catalogue
from tests.conftest import HUB, Federation
from tests.support.automation_world import (
    ACME,
    BROKER,
    GLOBEX,
    SCOPE,
    World,
    automation_world,
)
from tests.support.clouds import VM, eventually
from watari import errors
from watari.rpc import client
from watari.v1 import broker_pb2, common_pb2, manager_pb2, manager_pb2_grpc

DONE, FAILED = broker_pb2.PLAN_STATE_DONE, broker_pb2.PLAN_STATE_FAILED
RECOMMENDED, RUNNING = broker_pb2.PLAN_STATE_RECOMMENDED, broker_pb2.PLAN_STATE_RUNNING
OTHER_BROKER = f"spiffe://{HUB}/broker/other"
SUPERSEDED = broker_pb2.PLAN_STATE_SUPERSEDED


@pytest.fixture
def ready(federation: Federation, tmp_path: Path) -> Iterator[World]:
    """web-1 of acme in tokyo, the cheaper cloud, and a broker."""
    with automation_world(federation, tmp_path) as world:
        world.tokyo.agent.add(VM, "web-1")
        eventually(lambda: VM in world.tokyo.vms(), "the machine is seen")
        world.automation = replace(world.automation, watches_max=1)
        world.start_broker()
        yield world


def approve(world: World, plan: broker_pb2.Plan, caller: str = ACME) -> broker_pb2.Plan:
    request = broker_pb2.ApprovePlanRequest(
        plan_id=plan.plan_id, expected_generation=plan.generation
    )
    return client.call(world.stub(caller).ApprovePlan, request).plan


def the_plan(world: World, *states: int) -> broker_pb2.Plan:
    """The newest plan, once it is in one of the states."""

    def there() -> bool:
        found = world.plans()
        return bool(found) and found[0].state in states

    eventually(there, f"a plan in {states}")
    return world.plans()[0]


def taint(world: World, end: str = "") -> None:
    """tokyo keeps machines away from now on, until that end if it is known."""
    world.tokyo.stop()
    ends = {"maintenance": end} if end else {}
    world.tokyo.change(taints=("maintenance",), taint_ends=ends)
    world.tokyo.start()


def test_a_price_that_rises_moves_the_machine_by_itself_and_the_plan_says_why(
    ready: World,
) -> None:
    assert ready.put().generation == 1
    evaluation = ready.evaluated()
    assert not evaluation.problems
    (stay,) = evaluation.staying
    assert (stay.vm_name, stay.cloud_id, stay.rule) == ("web-1", "tokyo", "best")
    assert ready.plans() == []

    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, DONE)
    (move,) = plan.moves
    assert (move.vm_name, move.from_cloud, move.to_cloud) == ("web-1", "tokyo", "osaka")
    assert (move.cause, plan.approved_by) == ("saving", "automatic")
    assert move.hourly_saving.units == 2 * (5 - 2)
    assert move.reason.startswith("saves ")
    assert "needs" in move.reason
    assert move.counterfactual.startswith("stays if the saving is ")
    assert VM in ready.osaka.vms()
    assert VM not in ready.tokyo.vms()
    migration = ready.tokyo.migration(move.migration_id)
    assert (migration.requested_by, migration.state) == (
        ACME,
        manager_pb2.MIGRATION_STATE_SUCCEEDED,
    )
    # The room was held before the source's manager was asked, and is what it took over.
    actions = [entry.action for entry in ready.osaka.audit()]
    assert [each for each in actions if each in ("reservation.held", "reservation.adopted")] == [
        "reservation.held",
        "reservation.adopted",
    ]
    took = move.outcome
    assert took.transfer_bytes == migration.progress.wire_bytes > 0
    seconds = migration.ended_at.ToNanoseconds() - migration.created_at.ToNanoseconds()
    assert took.duration_seconds == pytest.approx(seconds / 1e9)
    # It stays there: nothing costs less.
    assert ready.evaluated().staying[0].cloud_id == "osaka"
    assert len(ready.plans()) == 1
    # A move that had to pay leaves its home where it was, so that what it loses stays bounded.
    with sqlite3.connect(ready.path) as database:
        (standing,) = database.execute("SELECT standing FROM machines").fetchone()
    assert json.loads(standing)["home"] == "tokyo"


def test_a_machine_leaves_a_tainted_cloud_without_having_to_save(ready: World) -> None:
    ready.put(objective="evacuate")
    assert ready.evaluated().staying[0].rule == "best"
    taint(ready)
    (move,) = the_plan(ready, DONE).moves
    assert (move.cause, move.to_cloud) == ("taint", "osaka")
    assert "maintenance" in move.reason


def test_a_machine_waits_for_the_end_of_a_taint_where_that_costs_less_than_to_leave(
    ready: World,
) -> None:
    on = "6f1f2d2e-0000-4000-8000-000000000002"
    ready.tokyo.agent.add(on, "web-2", running=True)
    eventually(lambda: on in ready.tokyo.vms(), "the machine is seen")
    hourly = common_pb2.Money(currency_code="JPY", units=1000)
    ready.put(objective="evacuate", downtime_hour_price=hourly)
    ready.evaluated()
    end = ready.federation.clock.now() + timedelta(hours=2)
    taint(ready, end.isoformat())
    (move,) = the_plan(ready, DONE).moves
    assert (move.vm_name, move.cause, move.to_cloud) == ("web-2", "taint", "osaka")
    assert "for its expected end costs " in move.reason
    assert "JPY, to leave " in move.reason
    # The one that is off loses nothing by waiting.
    (stay,) = [each for each in ready.evaluated().staying if each.vm_name == "web-1"]
    assert (stay.rule, stay.cloud_id, stay.to_cloud) == ("taint", "tokyo", "osaka")
    assert "costs 0.00 JPY, to leave " in stay.reason
    assert stay.counterfactual == "moves when nobody knows when it ends"
    assert ready.tokyo.agent.estimates, "what it takes was asked before that was said"
    assert len(ready.plans()) == 1
    taint(ready)
    eventually(lambda: VM in ready.osaka.vms(), "it leaves once nobody knows the end")


def test_what_is_recommended_waits_for_approval_and_is_watched_to_its_end(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    ready.evaluated()
    assert ready.plans()[0] == plan, "the same decision leaves the plan as it is"
    stale = broker_pb2.ApprovePlanRequest(plan_id=plan.plan_id, expected_generation=99)
    with pytest.raises(errors.Conflict) as caught:
        client.call(ready.stub().ApprovePlan, stale)
    assert caught.value.reason == "GENERATION_CONFLICT"

    request = broker_pb2.WatchPlanRequest(plan_id=plan.plan_id)
    seen = []
    with client.stream(ready.stub().WatchPlan, request, timeout_seconds=30) as changes:
        for change in changes:
            if not seen:
                assert_no_further_watch(ready, request)
                assert approve(ready, change.plan).approved_by == ACME
            seen.append(change.plan.state)
    assert (seen[0], seen[-1]) == (RECOMMENDED, DONE)
    assert RUNNING in seen
    assert VM in ready.osaka.vms()


def assert_no_further_watch(world: World, request: broker_pb2.WatchPlanRequest) -> None:
    with (
        client.stream(world.stub().WatchPlan, request, timeout_seconds=60) as changes,
        pytest.raises(errors.Exhausted) as caught,
    ):
        next(iter(changes))
    assert caught.value.reason == "TOO_MANY_WATCHES"


def test_manual_only_recommends_and_a_better_price_here_takes_it_back(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_MANUAL)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    with pytest.raises(errors.FailedPrecondition) as caught:
        approve(ready, plan)
    assert caught.value.reason == "MIGRATION_STATE"
    ready.set_price(ready.tokyo, "1", version=3)
    ended = the_plan(ready, SUPERSEDED)
    assert ended.plan_id == plan.plan_id
    assert ended.moves[0].problem == "it is better to stay now"
    assert VM in ready.tokyo.vms()


def test_a_cancelled_plan_moves_nothing(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    request = broker_pb2.CancelPlanRequest(plan_id=plan.plan_id)
    cancelled = client.call(ready.stub().CancelPlan, request).plan
    assert cancelled.state == SUPERSEDED
    assert cancelled.moves[0].problem == f"{ACME} cancelled it"
    with pytest.raises(errors.WatariError):
        approve(ready, cancelled)
    assert VM in ready.tokyo.vms()


def test_a_move_that_no_delegation_covers_fails_with_the_managers_word(ready: World) -> None:
    once = ready.delegate(scope=replace(SCOPE, moves_max=1))
    ready.put(delegation=once)
    ready.set_price(ready.tokyo, "5")
    the_plan(ready, DONE)
    ready.tokyo.wait_state(ready.plans()[0].moves[0].migration_id, "SUCCEEDED")
    ready.osaka.wait_state(ready.osaka.migrate(VM, "tokyo").migration_id, "SUCCEEDED")
    failed = the_plan(ready, FAILED)
    assert "DELEGATION_INVALID" in failed.moves[0].problem
    assert "leave 1 times" in failed.moves[0].problem


def revoke(world: World, delegation_id: str, reason: str) -> None:
    """tokyo's operator ends it there."""
    request = manager_pb2.RevokeDelegationRequest(delegation_id=delegation_id, reason=reason)
    client.call(world.tokyo.operator.RevokeDelegation, request)


def refusals(world: World) -> int:
    """How often tokyo refused what was revoked."""
    entries = world.tokyo.audit()
    return sum(entry.details.get("reason") == "DELEGATION_REVOKED" for entry in entries)


def test_a_revoked_delegation_ends_its_plans_with_the_reason_and_is_asked_for_no_more(
    ready: World,
) -> None:
    ready.stop_broker()
    # Whatever else a cloud refuses is asked for again at each evaluation.
    ready.automation = replace(ready.automation, refused_seconds=0.0)
    ready.start_broker()
    ready.set_price(ready.tokyo, "5")
    put = ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    approved = the_plan(ready, RECOMMENDED)
    revoke(ready, put.delegation.delegation_id, "works ahead")
    ended = the_plan(ready, SUPERSEDED)
    assert ended.plan_id == approved.plan_id
    assert "revoked the delegation in this cloud" in ended.moves[0].problem
    assert ended.moves[0].problem.endswith("works ahead")
    with pytest.raises(errors.WatariError):
        approve(ready, ended)
    for _ in range(3):
        assert any("works ahead" in problem for problem in ready.evaluated().problems)
    eventually(lambda: refusals(ready) == 1, "the refusal is in the audit log")
    assert len(ready.plans()) == 1
    # Another delegation is good at once.
    ready.put(automation=broker_pb2.AUTOMATION_AUTOMATIC, generation=put.generation)
    assert the_plan(ready, DONE).plan_id != ended.plan_id
    assert refusals(ready) == 1


def test_a_move_that_is_refused_as_revoked_fails_with_the_reason(ready: World) -> None:
    ready.stop_broker()
    process = ready.broker_process()
    process.start({"WATARI_FAILPOINTS": "broker.automation.after_record=1*kill"})
    put = ready.put()
    ready.set_price(ready.tokyo, "5")
    process.wait_killed(30)
    revoke(ready, put.delegation.delegation_id, "works ahead")
    process.start()
    failed = the_plan(ready, FAILED)
    assert failed.moves[0].problem.startswith("DELEGATION_REVOKED: ")
    assert VM in ready.tokyo.vms()


def test_an_expired_delegation_shows_nothing_and_says_so(ready: World) -> None:
    ready.put(delegation=ready.delegate(life_seconds=2))
    eventually(lambda: "expired" in "".join(ready.evaluated().problems), "it is told")
    ready.set_price(ready.tokyo, "5")
    ready.evaluated()
    assert ready.plans() == []


def test_machines_go_only_where_the_delegation_lets_them(ready: World) -> None:
    ready.put(delegation=ready.delegate(scope=replace(SCOPE, to_clouds=["tokyo"])))
    ready.set_price(ready.tokyo, "5")

    def told() -> bool:
        return "delegation" in ready.evaluated().staying[0].reason

    eventually(told, "why it stays")
    assert ready.plans() == []


def test_another_tenants_machines_are_left_alone(ready: World) -> None:
    other = "6f1f2d2e-0000-4000-8000-000000000009"
    ready.tokyo.agent.add(other, "db-1", tenant="globex")
    eventually(lambda: other in ready.tokyo.vms(), "the machine is seen")
    ready.put()
    ready.set_price(ready.tokyo, "5")
    the_plan(ready, DONE)
    assert ready.evaluated().machines == 1
    assert other in ready.tokyo.vms()


def test_nothing_is_lost_when_the_broker_is_started_again(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    ready.stop_broker()
    with sqlite3.connect(ready.path) as database:
        before = database.execute("SELECT standing, looked_at FROM machines").fetchone()
        assert database.execute("SELECT count(*) FROM forecasts").fetchone() == (2,)
    ready.start_broker()
    (policy,) = ready.policies()
    assert (policy.generation, policy.delegated_by) == (1, ACME)
    assert ready.plans()[0] == plan
    ready.evaluated()
    with sqlite3.connect(ready.path) as database:
        after = database.execute("SELECT standing, looked_at FROM machines").fetchone()
    assert after[1] > before[1]
    assert approve(ready, ready.plans()[0]).plan_id == plan.plan_id
    the_plan(ready, DONE)


@pytest.mark.parametrize(
    "point",
    [
        "broker.automation.after_record",
        "broker.automation.after_ask",
        "broker.automation.before_finish",
    ],
)
def test_a_broker_that_is_killed_mid_plan_finishes_it_once(ready: World, point: str) -> None:
    ready.stop_broker()
    process = ready.broker_process()
    process.start({"WATARI_FAILPOINTS": f"{point}=1*kill"})
    ready.put()
    ready.set_price(ready.tokyo, "5")
    process.wait_killed(30)
    process.start()
    plan = the_plan(ready, DONE)
    assert len(ready.plans()) == 1
    listed = client.call(
        ready.tokyo.operator.ListMigrations, manager_pb2.ListMigrationsRequest()
    ).migrations
    assert [one.migration_id for one in listed] == [plan.moves[0].migration_id]
    assert VM in ready.osaka.vms()


def test_a_move_whose_manager_stays_away_fails_and_the_machine_rests(ready: World) -> None:
    ready.stop_broker()
    process = ready.broker_process()
    process.start({"WATARI_FAILPOINTS": "broker.automation.after_record=1*kill"})
    ready.put(cooldown_seconds=3600)
    ready.set_price(ready.tokyo, "5")
    process.wait_killed(30)
    with sqlite3.connect(ready.path) as database:
        database.execute("UPDATE moves SET began_at = began_at - 1000")
    database.close()
    process.start()
    plan = the_plan(ready, FAILED)
    assert "did not take it within" in plan.moves[0].problem
    assert ready.evaluated().staying[0].rule == "cooldown"
    assert VM in ready.tokyo.vms()


def test_a_silent_manager_supersedes_no_plan(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    ready.tokyo.stop()
    eventually(lambda: bool(ready.evaluated().problems), "its silence is told")
    assert ready.plans()[0] == plan


def test_a_deleted_policy_is_followed_to_the_end_of_what_runs_and_forgotten(
    ready: World,
) -> None:
    ready.put()
    ready.set_price(ready.tokyo, "5")
    the_plan(ready, RUNNING, DONE)
    ready.delete()
    assert ready.policies() == []
    assert the_plan(ready, DONE).moves[0].to_cloud == "osaka"

    def forgotten() -> bool:
        with sqlite3.connect(ready.path) as database:
            return database.execute("SELECT count(*) FROM policies").fetchone() == (0,)

    eventually(forgotten, "the policy's row is gone, and its delegation")
    ready.delete()
    with pytest.raises(errors.Denied):
        ready.delete(caller=GLOBEX, tenant="acme")


def test_a_schedule_has_the_machine_where_it_says(ready: World) -> None:
    always = [broker_pb2.ScheduleWindow(from_minute=0, to_minute=0, clouds=["osaka"])]
    ready.put(objective="schedule", schedule=always)
    (move,) = the_plan(ready, DONE).moves
    assert (move.cause, move.to_cloud) == ("schedule", "osaka")
    assert "the schedule has it in osaka" in move.reason
    assert move.hourly_saving.units < 0, "it costs more there, and goes all the same"


def test_a_cloud_that_becomes_too_dear_is_left(ready: World) -> None:
    ready.put(objective="evacuate", price_rise_max=0.5)
    ready.evaluated()
    ready.set_price(ready.tokyo, "9")
    (move,) = the_plan(ready, DONE).moves
    assert (move.cause, move.to_cloud) == ("price_change", "osaka")
    assert "at most 3.00 JPY/h is agreed to since arrival" in move.reason


def test_clouds_are_emptied_when_being_there_costs_more_than_moving(ready: World) -> None:
    other = "6f1f2d2e-0000-4000-8000-000000000002"
    ready.tokyo.agent.add(other, "web-2")
    eventually(lambda: other in ready.tokyo.vms(), "the machine is seen")
    ready.tokyo.wait_state(ready.tokyo.migrate(other, "osaka").migration_id, "SUCCEEDED")
    back = manager_pb2.EstimateMigrationRequest(vm=other, to_cloud="tokyo")

    def may_come_back() -> bool:
        answer = client.call(ready.osaka.operator.EstimateMigration, back)
        return not answer.findings

    eventually(may_come_back, "osaka's host has told of it")
    presence = common_pb2.Money(currency_code="JPY", units=50)
    ready.put(objective="consolidate", presence_hour_price=presence, confidence=0.0)
    (move,) = the_plan(ready, DONE).moves
    assert (move.vm_name, move.from_cloud, move.to_cloud) == ("web-2", "osaka", "tokyo")
    ready.evaluated()
    assert set(ready.tokyo.vms()) == {VM, other}
    assert len(ready.plans()) == 1, "nobody went the other way meanwhile"


def test_without_a_directory_nothing_is_decided_and_nothing_taken_back(ready: World) -> None:
    ready.put(automation=broker_pb2.AUTOMATION_APPROVED)
    ready.set_price(ready.tokyo, "5")
    plan = the_plan(ready, RECOMMENDED)
    approve(ready, plan)
    ready.stop_directory()

    def told() -> bool:
        return "nothing is decided" in "".join(ready.evaluated().problems)

    eventually(told, "that the directory is away")
    assert ready.plans()[0].state in (broker_pb2.PLAN_STATE_APPROVED, RUNNING, DONE)


def test_a_policy_in_a_currency_that_nobody_sells_in_says_so(ready: World) -> None:
    ready.put(currency_code="EUR")
    nobody = ["none of the clouds has a price in EUR that holds now"]
    eventually(lambda: ready.evaluated().problems == nobody, "no price is missed")
    assert ready.plans() == []


def test_moves_beyond_the_estimates_of_one_evaluation_wait_for_the_next(
    federation: Federation, tmp_path: Path
) -> None:
    with automation_world(federation, tmp_path) as world:
        names = {f"6f1f2d2e-0000-4000-8000-00000000000{number}": number for number in range(3)}
        for vm_id, number in names.items():
            world.tokyo.agent.add(vm_id, f"web-{number}")
        eventually(lambda: len(world.tokyo.vms()) == len(names), "all are seen")
        world.automation = replace(world.automation, estimates_per_round_max=1)
        world.start_broker()
        world.put()
        world.set_price(world.tokyo, "5")
        eventually(lambda: set(world.osaka.vms()) == set(names), "all move")
        plans = world.plans()
        assert [len(plan.moves) for plan in plans] == [1, 1, 1]
        assert len({plan.created_at.ToNanoseconds() for plan in plans}) == len(names)


def refuse_acme(world: World) -> None:
    """osaka takes no machine of acme."""
    channel = world.osaka.channel("spiffe://osaka.example/operator/main")
    stub = manager_pb2_grpc.AccountingServiceStub(channel)
    none = common_pb2.Resources(other={"machines": 0})
    quota = manager_pb2.Quota(tenant_domain="tokyo.example", tenant="acme", hard=none)
    request = manager_pb2.PutQuotaRequest(request_id=str(uuid.uuid4()), quota=quota)
    client.call(stub.PutQuota, request)


def test_what_the_destination_would_refuse_is_found_before_it_is_planned(ready: World) -> None:
    refuse_acme(ready)
    ready.put()
    ready.set_price(ready.tokyo, "5")

    def told() -> bool:
        return "QUOTA_EXCEEDED" in ready.evaluated().staying[0].reason

    eventually(told, "why it stays")
    assert ready.evaluated().staying[0].rule == "feasible"
    assert ready.plans() == []


def test_a_migration_that_fails_fails_the_plan_and_the_machine_rests(
    federation: Federation, tmp_path: Path
) -> None:
    with automation_world(federation, tmp_path) as world:
        world.tokyo.agent.add(VM, "web-1")
        eventually(lambda: VM in world.tokyo.vms(), "the machine is seen")
        busy = errors.FailedPrecondition("VM_BUSY", "somebody else has it")
        world.tokyo.agent.refuse("HoldGuest", busy)
        world.automation = replace(world.automation, estimates_per_round_max=0)
        world.start_broker()
        world.put(cooldown_seconds=3600)
        world.set_price(world.tokyo, "5")
        (move,) = the_plan(world, FAILED).moves
        assert move.problem.startswith("the migration failed: VM_BUSY")
        failed = world.tokyo.migration(move.migration_id)
        assert failed.state == manager_pb2.MIGRATION_STATE_FAILED
        assert world.evaluated().staying[0].rule == "cooldown"
        assert len(world.plans()) == 1
        assert VM in world.tokyo.vms()


def test_the_last_room_goes_to_one_of_two_brokers_and_the_others_move_does_not_begin(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with automation_world(federation, tmp_path) as world:
        world.tokyo.agent.add(VM, "web-1")
        eventually(lambda: VM in world.tokyo.vms(), "the machine is seen")
        world.osaka.stop()
        world.osaka.change(brokers=(BROKER, OTHER_BROKER))
        world.osaka.start()
        world.automation = replace(world.automation, estimates_per_round_max=0)
        world.start_broker()
        # As if another broker decided at the same moment: what clouds publish from now on comes too
        # late, and no estimate tells.
        monkeypatch.setattr(catalogue, "batches", lambda _puts, _gone: ())
        free = world.osaka.inventory().free
        taken = manager_pb2.HoldForMigrationRequest(
            delegation=world.delegate(delegate=OTHER_BROKER),
            migration_id=str(uuid.uuid4()),
            vm_id="6f1f2d2e-0000-4000-8000-000000000009",
            from_cloud="tokyo",
            resources=common_pb2.Resources(vcpus=free.vcpus, memory_bytes=1, disk_bytes=1),
        )
        stub = world.osaka.reservations(OTHER_BROKER)
        theirs = client.call(stub.HoldForMigration, taken).reservation
        always = [broker_pb2.ScheduleWindow(from_minute=0, to_minute=0, clouds=["osaka"])]
        world.put(objective="schedule", schedule=always, cooldown_seconds=3600)
        (move,) = the_plan(world, FAILED).moves
        assert move.problem.startswith("NO_CANDIDATE: ")
        assert "its manager holds no room" in move.problem
        listed = client.call(
            world.tokyo.operator.ListMigrations, manager_pb2.ListMigrationsRequest()
        )
        assert not listed.migrations
        assert [each.reservation_id for each in world.osaka.list_reservations()] == [
            theirs.reservation_id
        ]
        assert world.evaluated().staying[0].rule == "cooldown"


def test_a_cloud_that_does_not_take_the_brokers_word_is_gone_to_without(ready: World) -> None:
    ready.osaka.stop()
    ready.osaka.change(brokers=())
    ready.osaka.start()
    other = "6f1f2d2e-0000-4000-8000-000000000002"
    ready.tokyo.agent.add(other, "web-2")
    eventually(lambda: other in ready.tokyo.vms(), "the machine is seen")
    scope = replace(SCOPE, from_clouds=["tokyo"])
    ready.put(delegation=ready.delegate(scope=scope))
    ready.set_price(ready.tokyo, "5")
    # Nor does what the broker remembers of the first refusal keep the second one from going.
    eventually(lambda: set(ready.osaka.vms()) == {VM, other}, "both are there")
    actions = [entry.action for entry in ready.osaka.audit()]
    assert "reservation.held" not in actions
