"""The saga's table and its decisions."""

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.saga import states, steps
from manager.saga.record import Record
from manager.saga.states import State
from manager.saga.steps import Again, Back, Party, Step
from manager.settings.migrations import MigrationSettings
from watari import errors
from watari.v1 import agent_pb2, common_pb2, manager_pb2

LIMITS = MigrationSettings()
LEGAL = {(a, b) for a, following in states.TRANSITIONS.items() for b in following}
UNCOMMITTED = sorted(set(State) - states.ONWARD - states.FINAL)
NO_WAY_BACK = [State.HANDED_OVER, State.RETIRING, State.TAKING_BACK, State.ROLLING_BACK]
AWAY = errors.Unavailable("PEER_UNAVAILABLE", "away")
REFUSED = errors.FailedPrecondition("VM_BUSY", "busy")


def record(state: State, **changes: object) -> Record:
    """A migration in a state."""
    made = Record(
        migration_id=str(uuid.UUID(int=1)),
        vm_id=str(uuid.UUID(int=2)),
        vm_name="web-1",
        tenant_domain="tokyo.example",
        tenant="acme",
        host_id="host1",
        to_cloud="osaka",
        to_manager="spiffe://osaka.example/manager/main",
        state=state,
        generation=1,
        source_epoch=3,
        requested_by="spiffe://tokyo.example/operator/main",
        request=manager_pb2.MigrateVmRequest(),
        created_at=0,
        state_changed_at=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def after(state: State, party: Party, error: errors.WatariError, waited: float) -> Again | Back:
    """What follows a failure."""
    return steps.after_failure(
        record(state), party, error, failures=1, waited_seconds=waited, limits=LIMITS
    )


def test_the_states_are_those_of_the_contract() -> None:
    names = manager_pb2.MigrationState.DESCRIPTOR.values_by_name
    contract = {name.removeprefix("MIGRATION_STATE_") for name in names}
    assert {state.value for state in State} == contract - {"UNSPECIFIED"}
    assert set(states.TRANSITIONS) == set(State)


@pytest.mark.parametrize("current", State)
@pytest.mark.parametrize("following", State)
def test_every_step_outside_the_table_is_refused_and_names_both_states(
    current: State, following: State
) -> None:
    if (current, following) in LEGAL:
        states.check(current, following)
        return
    with pytest.raises(errors.FailedPrecondition) as caught:
        states.check(current, following)
    assert caught.value.reason == "MIGRATION_STATE"
    assert current in caught.value.message
    assert following in caught.value.message


def reachable(start: State) -> set[State]:
    """Every state that can follow, sooner or later."""
    found, todo = set(), [start]
    while todo:
        new = states.TRANSITIONS[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_after_the_commit_point_it_succeeds_or_is_taken_back_and_fails() -> None:
    assert reachable(State.HANDED_OVER) == {
        State.RETIRING,
        State.SUCCEEDED,
        State.TAKING_BACK,
        State.FAILED,
    }


def test_what_is_being_retired_never_comes_back_and_what_came_back_never_succeeds() -> None:
    assert reachable(State.RETIRING) == {State.SUCCEEDED}
    assert reachable(State.TAKING_BACK) == {State.FAILED}


def test_a_machine_that_was_taken_back_belongs_to_nobody_else_and_cannot_be_cancelled() -> None:
    assert State.TAKING_BACK not in states.COMMITTED | states.CANCELLABLE


def test_the_downtime_is_that_of_a_machine_that_ran() -> None:
    assert steps.downtime(record(State.HANDED_OVER), 5_000_000) is None
    stopped = record(State.HANDED_OVER, stopped_at=2_000_000)
    assert steps.downtime(stopped, 5_000_000) == 3_000_000
    assert steps.downtime(stopped, 1_000_000) == 0, "clocks may differ"


def test_a_roll_back_never_commits() -> None:
    assert not reachable(State.ROLLING_BACK) & states.COMMITTED


def test_every_state_can_end() -> None:
    for state in set(State) - states.FINAL:
        assert reachable(state) & states.FINAL


@pytest.mark.parametrize("state", UNCOMMITTED)
def test_a_cancellation_turns_round_whatever_has_not_committed(state: State) -> None:
    expected = Step.END if state is State.REQUESTED else Step.GO_BACK
    assert steps.next_step(record(state, cancel_requested=True)) is expected


@pytest.mark.parametrize("state", [*NO_WAY_BACK, *sorted(states.FINAL)])
def test_a_cancellation_changes_nothing_where_there_is_no_way_back(state: State) -> None:
    cancelled = steps.next_step(record(state, cancel_requested=True))
    assert cancelled is steps.next_step(record(state))


def test_every_state_has_its_step() -> None:
    found = [steps.next_step(record(state)) for state in State]
    assert found == [
        Step.BEGIN,
        Step.RESERVE,
        Step.COPY,
        Step.COMMIT,
        Step.HAND_OVER,
        Step.RETIRE,
        Step.NOTHING,
        Step.TAKE_BACK,
        Step.UNDO,
        Step.NOTHING,
        Step.NOTHING,
    ]


@pytest.mark.parametrize("state", NO_WAY_BACK)
@pytest.mark.parametrize("party", Party)
@pytest.mark.parametrize("error", [AWAY, REFUSED])
def test_where_there_is_no_way_back_every_failure_is_repeated_for_ever(
    state: State, party: Party, error: errors.WatariError
) -> None:
    assert isinstance(after(state, party, error, waited=1e9), Again)


@pytest.mark.parametrize("state", UNCOMMITTED)
def test_a_refusal_before_the_commit_point_goes_back_at_once(state: State) -> None:
    outcome = after(state, Party.PEER, REFUSED, waited=0)
    assert isinstance(outcome, Back)
    assert outcome.problem.reason == "VM_BUSY"


@pytest.mark.parametrize(
    ("party", "limit"),
    [
        (Party.OWN_AGENT, LIMITS.agent_wait_seconds_max),
        (Party.PEER, LIMITS.peer_wait_seconds_max),
        (Party.TRANSFER, LIMITS.copying_seconds_max),
    ],
)
def test_silence_before_the_commit_point_is_waited_for_and_then_given_up(
    party: Party, limit: float
) -> None:
    assert isinstance(after(State.COPYING, party, AWAY, waited=limit - 1), Again)
    given_up = after(State.COPYING, party, AWAY, waited=limit)
    assert isinstance(given_up, Back)
    assert given_up.problem.reason == "PEER_UNAVAILABLE"


def test_our_own_database_is_waited_for_however_long() -> None:
    busy = errors.Unavailable("SERVER_UNAVAILABLE", "busy")
    assert isinstance(after(State.COPYING, Party.OURSELVES, busy, waited=1e9), Again)


def test_an_agent_that_has_no_place_is_asked_again() -> None:
    full = errors.Exhausted("TOO_MANY_TRANSFERS", "full")
    assert isinstance(after(State.COPYING, Party.OWN_AGENT, full, waited=0), Again)


@given(st.integers(-5, 10_000))
def test_the_backoff_grows_and_stays_within_its_limit(failures: int) -> None:
    delay = steps.backoff_seconds(failures, LIMITS)
    assert LIMITS.retry_initial_seconds <= delay <= LIMITS.retry_max_seconds
    assert steps.backoff_seconds(failures + 1, LIMITS) >= delay


@pytest.mark.parametrize(
    ("failed", "retryable", "again"),
    [
        (1, True, True),
        (LIMITS.transfer_attempts_max - 1, True, True),
        (LIMITS.transfer_attempts_max, True, False),
        (1, False, False),
    ],
)
def test_transfers_are_repeated_while_it_may_help_and_up_to_the_limit(
    failed: int, retryable: bool, again: bool
) -> None:
    problem = common_pb2.Problem(reason="SESSION_NOT_FOUND", retryable=retryable)
    outcome = steps.after_transfer_failed(
        record(State.COPYING, transfers_failed=failed), problem, LIMITS
    )
    assert isinstance(outcome, Again) is again


def test_the_first_new_attempt_comes_at_once_and_none_is_waited_for_long() -> None:
    lost = common_pb2.Problem(reason="PEER_UNAVAILABLE", retryable=True)
    first, last = (
        steps.after_transfer_failed(record(State.COPYING, transfers_failed=failed), lost, LIMITS)
        for failed in (1, LIMITS.transfer_attempts_max - 1)
    )
    assert isinstance(first, Again)
    assert isinstance(last, Again)
    assert first.delay_seconds <= 1
    assert last.delay_seconds <= 30


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_attempts_are_counted_from_the_last_that_got_further_than_all_before(
    settled: list[int],
) -> None:
    migration, furthest, in_vain = record(State.COPYING), 0, 0
    for done in settled:
        migration = replace(migration, **steps.count_failure(migration, done))
        capped = min(done, steps.BYTES_COUNTED_MAX)
        in_vain = 0 if capped > furthest else in_vain + 1
        furthest = max(furthest, capped)
        assert migration.transfers_failed == in_vain
        assert migration.furthest_bytes == furthest < 2**63


def test_copying_has_a_deadline_and_no_other_state_has_this_one() -> None:
    late = int((LIMITS.copying_seconds_max + 1) * 1_000_000)
    steps.require_in_time(record(State.CONFIRMING), late, LIMITS)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        steps.require_in_time(record(State.COPYING), late, LIMITS)
    assert not caught.value.retryable


def test_the_reservation_id_follows_from_the_migration() -> None:
    one, other = record(State.RESERVING), record(State.RESERVING)
    other = replace(other, migration_id=str(uuid.uuid4()))
    assert steps.reservation_id(one) == steps.reservation_id(one)
    assert steps.reservation_id(one) != steps.reservation_id(other)


def test_what_a_broker_holds_is_reserved_under_its_id() -> None:
    held = str(uuid.uuid4())
    request = manager_pb2.MigrateVmRequest(reservation_id=held)
    assert steps.reservation_id(replace(record(State.RESERVING), request=request)) == held


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_host_may_not_know_the_epoch_or_must_agree(epoch: int) -> None:
    steps.require_same_machine(record(State.RESERVING), agent_pb2.Guest(epoch=epoch))


def test_a_host_that_holds_another_epoch_is_refused() -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        steps.require_same_machine(record(State.RESERVING), agent_pb2.Guest(epoch=2))
    assert caught.value.reason == "EPOCH_MISMATCH"


def test_a_guest_with_a_problem_is_refused_with_it() -> None:
    guest = agent_pb2.Guest(problem=common_pb2.Problem(reason="IMAGE_UNREADABLE"))
    with pytest.raises(errors.FailedPrecondition) as caught:
        steps.require_same_machine(record(State.RESERVING), guest)
    assert caught.value.reason == "IMAGE_UNREADABLE"


GRANT = common_pb2.Grant(
    migration_id="m",
    vm_id="v",
    source_epoch=3,
    disks=[
        common_pb2.DiskSpec(disk_id="vda", size_bytes=10),
        common_pb2.DiskSpec(disk_id="vdb", size_bytes=20),
    ],
)


def receipt() -> common_pb2.Receipt:
    """One that matches GRANT."""
    return common_pb2.Receipt(
        migration_id="m",
        vm_id="v",
        destination_epoch=4,
        disks=[
            common_pb2.DiskReceipt(disk_id="vda", size_bytes=10, root=b"a"),
            common_pb2.DiskReceipt(disk_id="vdb", size_bytes=20, root=b"b"),
        ],
        definition_sha256=b"d",
        root=b"r",
    )


def test_a_receipt_that_says_what_the_source_read_is_good() -> None:
    other_clock = receipt()
    other_clock.completed_at.seconds = 5
    steps.require_receipt(GRANT, other_clock, receipt())


def _drop_disk(changed: common_pb2.Receipt) -> None:
    del changed.disks[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda changed: setattr(changed, "migration_id", "other"),
        lambda changed: setattr(changed, "vm_id", "other"),
        lambda changed: setattr(changed, "destination_epoch", 5),
        lambda changed: setattr(changed, "definition_sha256", b"x"),
        lambda changed: setattr(changed, "root", b"x"),
        lambda changed: setattr(changed.disks[0], "root", b"x"),
        lambda changed: setattr(changed.disks[0], "size_bytes", 11),
        _drop_disk,
    ],
)
def test_a_receipt_that_differs_in_anything_that_matters_is_refused(change) -> None:
    changed = receipt()
    change(changed)
    with pytest.raises(errors.DataLoss) as caught:
        steps.require_receipt(GRANT, changed, receipt())
    assert caught.value.reason == "RECEIPT_MISMATCH"


def test_two_sides_that_agree_on_fewer_disks_than_granted_are_refused() -> None:
    changed = receipt()
    _drop_disk(changed)
    with pytest.raises(errors.DataLoss, match="granted disks"):
        steps.require_receipt(GRANT, changed, changed)


def test_a_receipt_without_a_root_is_refused_though_both_sides_agree() -> None:
    changed = receipt()
    changed.root = b""
    with pytest.raises(errors.DataLoss, match="no root"):
        steps.require_receipt(GRANT, changed, changed)
