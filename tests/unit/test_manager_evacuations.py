"""manager.evacuations.planning: what an evacuation does next, and that doing so leads to an end."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.evacuations import planning
from manager.evacuations.planning import Plan, Present, Situation, Standing
from manager.evacuations.rows import Evacuation, Machine, Stage, migration_id
from manager.saga.states import State
from manager.settings.migrations import EvacuationSettings
from watari import errors
from watari.v1 import common_pb2, manager_pb2

ID = "0f1f2d2e-0000-4000-8000-00000000000e"
LIMITS = EvacuationSettings(attempts_max=2, retry_initial_seconds=10, retry_max_seconds=15)
SECOND = 1_000_000
FULL = common_pb2.Problem(reason="INSUFFICIENT_CAPACITY", message="full")
AWAY = common_pb2.Problem(reason="PEER_UNAVAILABLE", message="away", retryable=True)
BROKEN = common_pb2.Problem(reason="VM_NOT_MOVABLE", message="a device")


def evacuation(**changed: object) -> Evacuation:
    values: dict[str, object] = {"to_clouds": ["osaka", "kyoto"], "concurrency": 2} | changed
    request = manager_pb2.StartEvacuationRequest(evacuation_id=ID, **values)  # type: ignore[arg-type]
    return Evacuation(ID, "spiffe://tokyo.example/operator/main", request, created_at=0)


def machine(name: str, stage: Stage = Stage.WAITING, **changed: object) -> Machine:
    base = Machine(ID, f"id-{name}", name, disk_bytes=1, stage=stage)
    return replace(base, **changed)  # type: ignore[arg-type]


def running(name: str, **changed: object) -> Machine:
    return machine(name, Stage.RUNNING, **({"tries": 1, "attempts": 1} | changed))


def situation(
    *machines: Machine,
    away: tuple[str, ...] = (),
    busy: Mapping[str, str] | None = None,
    migrations: Mapping[str, Standing] | None = None,
    of: Evacuation | None = None,
    now: int = 100 * SECOND,
    minute: int = 0,
) -> Situation:
    here = [each for each in machines if each.vm_name not in away]
    moving = busy or {}
    return Situation(
        of or evacuation(),
        {each.vm_id: each for each in machines},
        {
            each.vm_id: Present(each.vm_id, each.vm_name, 1, moving.get(each.vm_name, ""))
            for each in here
        },
        migrations or {},
        now,
        minute,
    )


def ended(each: Machine, state: State, problem: common_pb2.Problem | None = None):
    return {each.migration_id: Standing(state, problem)}


def plan(found: Situation) -> Plan:
    return planning.plan(found, LIMITS)


def only(planned: Plan) -> Machine:
    (changed,) = planned.changed
    return changed


def test_no_more_than_the_concurrency_run_at_a_time() -> None:
    going = running("a")
    found = situation(
        going,
        machine("b"),
        machine("c"),
        migrations={going.migration_id: Standing(State.COPYING)},
    )
    (begun,) = plan(found).begin
    assert (begun.vm_name, begun.stage, begun.tries, begun.attempts) == ("b", Stage.RUNNING, 1, 1)
    assert begun.migration_id == migration_id(ID, "id-b", 1)


def test_whom_the_request_names_goes_first_then_the_smallest() -> None:
    machines = [
        machine("large", disk_bytes=9),
        machine("small", disk_bytes=1),
        machine("medium", disk_bytes=5),
        machine("db", disk_bytes=100),
        machine("web", disk_bytes=50),
    ]
    order = planning.ranked(machines, ["id-web", "db", "nobody", "db"])
    assert [each.vm_name for each in order] == ["web", "db", "small", "medium", "large"]


def test_what_was_claimed_and_never_recorded_is_begun_under_the_same_id() -> None:
    cut_off = running("a", attempts=3)
    planned = plan(situation(cut_off))
    assert planned.begin == [cut_off]
    assert not planned.changed


def test_a_machine_that_arrived_is_done_and_the_evacuation_ends() -> None:
    going = running("a")
    planned = plan(situation(going, away=("a",), migrations=ended(going, State.SUCCEEDED)))
    assert only(planned).stage is Stage.ARRIVED
    assert planned.ended


@pytest.mark.parametrize("state", [State.HANDED_OVER, State.RETIRING, State.ROLLING_BACK])
def test_a_migration_that_has_not_ended_keeps_its_place(state: State) -> None:
    going = running("a")
    planned = plan(situation(going, away=("a",), migrations=ended(going, state, AWAY)))
    assert planned == Plan([], [], ended=False)


def test_a_destination_without_room_gives_way_to_the_next_at_once() -> None:
    going = running("a")
    (begun,) = plan(situation(going, migrations=ended(going, State.FAILED, FULL))).begin
    assert (begun.destination, begun.tries, begun.attempts) == (1, 1, 2)


def test_without_another_destination_the_machine_is_listed_with_its_problem() -> None:
    going = running("a", destination=1)
    planned = plan(situation(going, migrations=ended(going, State.FAILED, FULL)))
    assert (only(planned).stage, only(planned).problem) == (Stage.FAILED, FULL)
    assert planned.ended


def test_a_passing_problem_is_tried_again_after_a_delay_that_grows() -> None:
    first = running("a")
    waiting = only(plan(situation(first, migrations=ended(first, State.FAILED, AWAY))))
    assert (waiting.stage, waiting.destination) == (Stage.WAITING, 0)
    assert waiting.due_at == 110 * SECOND
    early = plan(situation(waiting, now=waiting.due_at - 1))
    assert not early.begin
    assert early.waiting_for == AWAY
    (again,) = plan(situation(waiting, now=waiting.due_at)).begin
    assert (again.tries, again.attempts, again.destination) == (2, 2, 0)


def test_a_destination_that_fails_as_often_as_it_may_gives_way_to_the_next() -> None:
    last = running("a", tries=LIMITS.attempts_max, attempts=2)
    (begun,) = plan(situation(last, migrations=ended(last, State.FAILED, AWAY))).begin
    assert (begun.destination, begun.tries, begun.attempts) == (1, 1, 3)
    final = replace(last, destination=1)
    planned = plan(situation(final, migrations=ended(final, State.FAILED, AWAY)))
    assert only(planned).stage is Stage.FAILED


def test_a_machine_that_cannot_move_is_not_tried_elsewhere_and_does_not_stop_the_rest() -> None:
    bad = running("a")
    planned = plan(situation(bad, machine("b"), migrations=ended(bad, State.FAILED, BROKEN)))
    stages = {each.vm_name: each.stage for each in planned.changed}
    assert stages == {"a": Stage.FAILED, "b": Stage.RUNNING}


def test_a_migration_that_somebody_cancelled_is_not_started_again() -> None:
    going = running("a")
    planned = plan(situation(going, migrations=ended(going, State.CANCELLED)))
    assert only(planned).stage is Stage.FAILED
    assert only(planned).problem.reason == "CANCELLED"  # type: ignore[union-attr]


def test_machines_that_other_migrations_move_are_waited_for() -> None:
    planned = plan(situation(machine("a"), busy={"a": "other"}))
    assert not planned.begin
    assert not planned.ended
    assert planned.waiting_for is not None
    assert (planned.waiting_for.reason, planned.waiting_for.metadata["migration_id"]) == (
        "VM_BUSY",
        "other",
    )


def test_what_went_away_by_itself_is_no_failure() -> None:
    planned = plan(situation(machine("a"), machine("b", Stage.FAILED), away=("a", "b")))
    assert {each.stage for each in planned.changed} == {Stage.GONE}
    assert planned.ended


def test_machines_that_come_meanwhile_are_included_and_so_are_those_that_come_back() -> None:
    back = machine("a", Stage.ARRIVED, attempts=2, tries=2, destination=1)
    found = situation(back)
    fresh = {**found.present, "id-new": Present("id-new", "new", 7)}
    planned = plan(replace(found, present=fresh))
    begun = {each.vm_name: each for each in planned.begin}
    assert (begun["a"].attempts, begun["a"].destination) == (3, 0)
    assert (begun["new"].attempts, begun["new"].disk_bytes) == (1, 7)


def test_machines_beyond_the_limit_are_taken_up_as_others_go() -> None:
    limits = replace(LIMITS, machines_max=1)
    found = situation()
    present = {name: Present(name, name) for name in ("a", "b")}
    planned = planning.plan(replace(found, present=present), limits)
    assert [each.vm_id for each in planned.changed] == ["a"]
    done = machine("a", Stage.FAILED, vm_id="a")
    later = planning.plan(replace(found, machines={"a": done}, present=present), limits)
    assert [each.vm_id for each in later.begin] == ["b"]
    none = planning.plan(replace(found, present=present), replace(limits, machines_max=0))
    assert not none.ended


@pytest.mark.parametrize(
    ("window", "minute", "is_open"),
    [
        ((60, 300), 59, False),
        ((60, 300), 60, True),
        ((60, 300), 299, True),
        ((60, 300), 300, False),
        ((1320, 360), 1320, True),
        ((1320, 360), 0, True),
        ((1320, 360), 359, True),
        ((1320, 360), 360, False),
        ((1320, 360), 720, False),
        ((60, 60), 0, True),
        ((60, 60), 60, True),
    ],
)
def test_migrations_are_started_within_the_window_only(
    window: tuple[int, int], minute: int, is_open: bool
) -> None:
    asked = manager_pb2.MaintenanceWindow(from_minute=window[0], to_minute=window[1])
    planned = plan(situation(machine("a"), of=evacuation(window=asked), minute=minute))
    assert bool(planned.begin) is is_open
    assert not planned.ended
    assert (planned.waiting_for is None) is is_open


def test_outside_of_the_window_it_says_what_it_waits_for_and_what_was_claimed_goes_on() -> None:
    asked = manager_pb2.MaintenanceWindow(from_minute=60, to_minute=300)
    planned = plan(situation(machine("a"), of=evacuation(window=asked), minute=720))
    assert "01:00-05:00" in planned.waiting_for.message  # type: ignore[union-attr]
    claimed = running("b")
    going = plan(situation(claimed, machine("a"), of=evacuation(window=asked), minute=720))
    assert going.begin == [claimed]
    assert going.waiting_for is None


def test_a_cancelled_evacuation_starts_nothing_and_ends_with_what_runs() -> None:
    cancelled = replace(evacuation(), cancelled=True)
    going = running("a")
    copying = {going.migration_id: Standing(State.COPYING)}
    planned = plan(situation(going, machine("b"), of=cancelled, migrations=copying))
    assert planned == Plan([], [], ended=False)
    done = ended(going, State.SUCCEEDED)
    planned = plan(situation(going, machine("b"), away=("a",), of=cancelled, migrations=done))
    assert planned.ended
    assert not planned.begin


def test_an_empty_host_is_evacuated_at_once() -> None:
    assert plan(situation()).ended


@pytest.mark.parametrize(
    ("error", "stage", "destination"),
    [
        (errors.FailedPrecondition("VM_BUSY", "busy"), Stage.WAITING, 0),
        (errors.Unavailable("SERVER_UNAVAILABLE", "too many"), Stage.WAITING, 0),
        (errors.Unavailable("PEER_UNAVAILABLE", "the directory is away"), Stage.WAITING, 0),
        (errors.NotFound("CLOUD_NOT_FOUND", "no osaka"), Stage.WAITING, 1),
        (errors.FailedPrecondition("VM_RUNNING", "it runs"), Stage.FAILED, 0),
    ],
)
def test_a_refusal_before_anything_was_recorded_is_no_attempt(
    error: errors.WatariError, stage: Stage, destination: int
) -> None:
    row = planning.after_refusal(running("a"), error, situation(), LIMITS)
    assert (row.stage, row.destination, row.attempts, row.tries) == (stage, destination, 0, 0)
    assert row.migration_id == ""
    assert row.problem == errors.to_problem(error)


@dataclass
class World:
    """Migrations that end as they are told, over an evacuation that is cut off anywhere."""

    outcomes: list[tuple[State, common_pb2.Problem | None]]
    machines: dict[str, Machine] = field(default_factory=dict)
    present: dict[str, Present] = field(default_factory=dict)
    migrations: dict[str, Standing] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    now: int = 0

    def step(self, of: Evacuation, begun: int) -> Plan:
        """Plan, write, and start the first `begun` migrations before the crash."""
        planned = plan(
            Situation(of, self.machines, self.present, self.migrations, self.now, minute=0)
        )
        self.machines |= {each.vm_id: each for each in planned.changed}
        for each in planned.begin[:begun]:
            assert each.migration_id not in self.migrations
            assert not self.present[each.vm_id].migration_id
            self.migrations[each.migration_id] = Standing(State.COPYING)
            moving = replace(self.present[each.vm_id], migration_id=each.migration_id)
            self.present[each.vm_id] = moving
        return planned

    def end_one(self) -> None:
        for each in list(self.present.values()):
            if not each.migration_id:
                continue
            state, problem = self.outcomes.pop() if self.outcomes else (State.SUCCEEDED, None)
            self.migrations[each.migration_id] = Standing(state, problem)
            if state is State.SUCCEEDED:
                self.moved.append(each.vm_id)
                del self.present[each.vm_id]
            else:
                self.present[each.vm_id] = replace(each, migration_id="")
            return


OUTCOMES = st.sampled_from(
    [
        (State.SUCCEEDED, None),
        (State.FAILED, FULL),
        (State.FAILED, AWAY),
        (State.FAILED, BROKEN),
        (State.CANCELLED, None),
    ]
)


@given(
    count=st.integers(0, 8),
    concurrency=st.integers(1, 4),
    outcomes=st.lists(OUTCOMES, max_size=30),
    crashes=st.lists(st.integers(0, 4), max_size=30),
)
def test_whatever_happens_it_ends_and_each_machine_is_in_one_place(
    count: int,
    concurrency: int,
    outcomes: list[tuple[State, common_pb2.Problem | None]],
    crashes: list[int],
) -> None:
    world = World(list(outcomes))
    names = [str(uuid.UUID(int=number)) for number in range(count)]
    world.present = {name: Present(name, name, int(name[-1], 16)) for name in names}
    of = evacuation(concurrency=concurrency)
    for _ in range(1000):
        planned = world.step(of, crashes.pop() if crashes else concurrency)
        going = sum(each.state is State.COPYING for each in world.migrations.values())
        assert going <= concurrency
        if planned.ended:
            break
        world.end_one()
        world.now += 5 * SECOND
    assert planned.ended
    assert len(world.moved) == len(set(world.moved))
    stages = {name: world.machines[name].stage for name in names}
    assert {name for name, stage in stages.items() if stage is Stage.ARRIVED} == set(world.moved)
    assert {name for name, stage in stages.items() if stage is Stage.FAILED} == set(world.present)
    assert set(stages.values()) <= {Stage.ARRIVED, Stage.FAILED}
