"""What follows from a hand-over, from a resolution and from a relinquishment: decisions alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from manager import requests, resolutions, takeover
from manager.reservation import Reservation, State
from manager.saga import documents, resolving, returning, states
from manager.saga.record import Record
from manager.saga.resolving import GIVE_UP, KEEP, Way
from manager.saga.states import State as Saga
from manager.takeover import Answer
from tests.conftest import Federation
from tests.support import reservations, saga_model
from watari import errors, identity
from watari.v1 import agent_pb2, common_pb2, manager_pb2

UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no")
AWAY = errors.Unavailable("PEER_UNAVAILABLE", "away")
OURS, OTHER = b"this hand-over", b"another one"


@pytest.mark.parametrize(
    ("state", "recorded", "answer"),
    [
        (State.PENDING, None, Answer.REFUSE),
        (State.CONFIRMED, None, Answer.RECORD),
        (State.CONFIRMED, OURS, Answer.GO_ON),
        (State.CONFIRMED, OTHER, Answer.REFUSE),
        (State.USED, None, Answer.RECORD),
        (State.USED, OURS, Answer.GO_ON),
        (State.USED, OTHER, Answer.REFUSE),
        (State.RELEASED, None, Answer.RELINQUISH),
        (State.EXPIRED, None, Answer.RELINQUISH),
        (State.RELINQUISHED, OURS, Answer.RELINQUISHED),
        (State.RELINQUISHED, OTHER, Answer.RELINQUISHED),
    ],
)
def test_a_hand_over_means_what_its_reservation_allows(state, recorded, answer):
    assert takeover.on_hand_over(state, recorded, OURS) is answer


def gives_up(error, *, run=True, kept=False, waited=0.0):
    """Whether the machine is given back after this."""
    return takeover.gives_up(error, run=run, kept=kept, waited_seconds=waited, seconds_max=300)


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("reason", ["VM_LIFECYCLE_FAILED", "HOST_INCOMPATIBLE", "VM_BUSY"])
def test_a_host_that_can_never_make_the_machine_gives_it_back_at_once(run, reason):
    assert gives_up(errors.FailedPrecondition(reason, "no"), run=run)


def test_a_host_that_lost_what_had_arrived_gives_the_machine_back():
    assert gives_up(errors.NotFound("TRANSFER_NOT_FOUND", "nothing has arrived"))


@pytest.mark.parametrize(
    "error",
    [
        AWAY,
        errors.DeadlineExceeded("DEADLINE_EXCEEDED", "slow"),
        errors.Internal("INTERNAL", "a bug"),
        errors.Denied("NOT_ALLOWED", "who are you"),
        errors.Unauthenticated("PEER_UNAUTHENTICATED", "an old certificate"),
        errors.Exhausted("OVERLOADED", "too many calls"),
        errors.Exhausted("PEER_ERROR", "gRPC has no more streams"),
        errors.NotFound("PEER_ERROR", "something in between"),
        errors.Unimplemented("NOT_SERVED", "not yet"),
        errors.Cancelled("CANCELLED", "it stops"),
    ],
)
def test_what_says_nothing_of_the_machine_is_waited_out(error):
    assert not gives_up(error, waited=299)
    assert gives_up(error, waited=300)


def test_a_machine_that_is_off_goes_back_on_its_hosts_own_word_alone():
    assert not gives_up(AWAY, run=False, waited=1e9)


def test_what_an_operator_keeps_never_goes_back():
    assert not gives_up(UNFIT, kept=True, waited=1e9)


def row(state: State, **changes: object) -> Reservation:
    """A reservation in a state."""
    request = reservations.request()
    made = Reservation(
        reservation_id=request.reservation_id,
        migration_id=request.migration_id,
        vm_id=request.vm_id,
        from_cloud="tokyo",
        requested_by=str(reservations.TOKYO),
        host_id="h1",
        state=state,
        expires_at=0,
        created_at=0,
        price_version=1,
        request=request,
        grant=common_pb2.SignedDocument(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


HANDED = common_pb2.SignedDocument(payload=b"x")


@pytest.mark.parametrize(
    ("found", "committed"),
    [
        (row(State.PENDING), False),
        (row(State.CONFIRMED), False),
        (row(State.CONFIRMED, hand_over=HANDED), True),
        (row(State.CONFIRMED, resolution=KEEP), True),
        (row(State.USED), True),
        (row(State.RELEASED), False),
        (row(State.RELINQUISHED, hand_over=HANDED), False),
    ],
)
def test_a_reservation_is_released_until_its_machine_comes(found, committed):
    assert found.committed is committed


@pytest.mark.parametrize(
    ("found", "allowed"),
    [
        (row(State.PENDING), {GIVE_UP}),
        (row(State.CONFIRMED), {GIVE_UP, KEEP}),
        (row(State.CONFIRMED, hand_over=HANDED), set()),
        (row(State.CONFIRMED, resolution=KEEP), set()),
        (row(State.USED), set()),
        (row(State.RELEASED), set()),
        (row(State.EXPIRED), set()),
        (row(State.RELINQUISHED, hand_over=HANDED), set()),
    ],
)
def test_a_destination_resolves_what_was_not_handed_over(found, allowed):
    for resolution in (KEEP, GIVE_UP):
        if resolution in allowed:
            resolutions.require_open(found, resolution)
            continue
        with pytest.raises(errors.FailedPrecondition) as caught:
            resolutions.require_open(found, resolution)
        assert found.state in caught.value.message
        assert caught.value.hint


WAYS = {
    (Saga.HANDED_OVER, KEEP, True): Way.TAKE_BACK,
    (Saga.HANDED_OVER, KEEP, False): Way.TAKE_BACK,
    (Saga.HANDED_OVER, GIVE_UP, True): Way.LEAVE,
    (Saga.HANDED_OVER, GIVE_UP, False): Way.LEAVE,
    (Saga.RETIRING, GIVE_UP, False): Way.END,
}


@pytest.mark.parametrize("state", Saga)
@pytest.mark.parametrize("resolution", [KEEP, GIVE_UP])
@pytest.mark.parametrize("answers", [True, False])
def test_a_source_resolves_what_only_the_other_side_could_end(state, resolution, answers):
    migration = saga_model.record(state)
    expected = WAYS.get((state, resolution, answers))
    if expected is not None:
        assert resolving.decide(migration, resolution, host_answers=answers) is expected
        return
    with pytest.raises(errors.FailedPrecondition) as caught:
        resolving.decide(migration, resolution, host_answers=answers)
    assert caught.value.reason == "MIGRATION_STATE"
    assert state in caught.value.message
    decided = replace(migration, resolution=resolution)
    assert resolving.decide(decided, resolution, host_answers=answers) is Way.NOTHING


def test_every_way_is_a_step_of_the_table_and_says_what_it_costs():
    assert {Way.TAKE_BACK, Way.LEAVE, Way.END} == set(resolving.CONSEQUENCES)
    steps = {
        Way.TAKE_BACK: (Saga.HANDED_OVER, Saga.TAKING_BACK),
        Way.LEAVE: (Saga.HANDED_OVER, Saga.RETIRING),
        Way.END: (Saga.RETIRING, Saga.SUCCEEDED),
    }
    for current, following in steps.values():
        states.check(current, following)


@pytest.mark.parametrize(
    ("kind", "disk_id", "good"),
    [
        ("UNSPECIFIED", "vda", True),
        ("MEMORY", "memory", True),
        ("NVRAM", "nvram", True),
        ("TPM", "tpm", True),
        ("MEMORY", "vda", False),
        ("TPM", "nvram", False),
        ("UNSPECIFIED", "memory", False),
        (17, "memory", False),
    ],
)
def test_saved_state_has_its_own_ids(kind, disk_id, good):
    number = kind if isinstance(kind, int) else common_pb2.DiskKind.Value(f"DISK_KIND_{kind}")
    request = reservations.request()
    request.disks[0].disk_id, request.disks[0].kind = disk_id, number
    if good:
        requests.reserve(request)
        return
    with pytest.raises(errors.InvalidArgument) as caught:
        requests.reserve(request)
    assert caught.value.metadata["field"] == "disks.kind"


@pytest.mark.parametrize("mode", [*common_pb2.MigrationMode.values(), 99])
def test_every_mode_of_the_contract_is_taken_and_no_other(mode):
    request = manager_pb2.MigrateVmRequest(
        migration_id=reservations.request().migration_id, vm="web-1", to_cloud="osaka", mode=mode
    )
    if mode in common_pb2.MigrationMode.values():
        requests.migrate(request)
        return
    with pytest.raises(errors.InvalidArgument):
        requests.migrate(request)


def test_an_unspecified_mode_is_cold():
    assert saga_model.record(Saga.REQUESTED).mode == common_pb2.MIGRATION_MODE_COLD


def test_a_machine_is_not_stopped_in_the_future_nor_without_running():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    transfer = agent_pb2.Transfer()
    assert documents.stopped_at(transfer, now) is None
    transfer.stopped_at.FromDatetime(now - timedelta(seconds=3))
    told = documents.stopped_at(transfer, now)
    transfer.stopped_at.FromDatetime(now + timedelta(seconds=3))
    latest = documents.stopped_at(transfer, now)
    assert latest is not None
    assert told is not None
    assert latest - told == 3_000_000


class Word:
    """A relinquishment by osaka's manager, as it may be forged."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.record: Record = saga_model.record(Saga.HANDED_OVER)
        self.signer = self.record.to_manager
        self.purpose = "relinquish"
        self.content = common_pb2.Relinquishment(
            migration_id=self.record.migration_id,
            ownership=common_pb2.Ownership(
                vm_id=self.record.vm_id, cloud_id="tokyo", epoch=self.record.source_epoch + 2
            ),
            cause=common_pb2.Problem(reason="HOST_INCOMPATIBLE", message="x" * 5000),
        )
        self.content.relinquished_at.FromDatetime(federation.clock.now())

    def check(self) -> common_pb2.Relinquishment:
        """As tokyo's manager looks at it."""
        signer = self.federation.party(self.signer)
        payload = self.content.SerializeToString()
        document = identity.sign(signer, payload, self.purpose)
        own = self.federation.party("spiffe://tokyo.example/manager/main")
        now = self.federation.clock.now()
        return returning.check(own, now, "tokyo", self.record, document)


@pytest.fixture
def word(federation: Federation) -> Word:
    return Word(federation)


def test_the_destinations_word_is_believed_and_its_cause_is_shown_in_part(word: Word) -> None:
    problem = returning.problem(word.record, word.check())
    assert problem.reason == "VM_RELINQUISHED"
    assert problem.metadata["cause"] == "HOST_INCOMPATIBLE"
    assert len(problem.message) < 600


@pytest.mark.parametrize("field", ["vm_id", "cloud_id", "epoch"])
def test_a_word_about_another_ownership_is_not_believed(word: Word, field: str) -> None:
    setattr(word.content.ownership, field, 4 if field == "epoch" else "other")
    with pytest.raises(errors.Internal) as caught:
        word.check()
    assert caught.value.reason == "PEER_ERROR"


def test_a_word_about_another_migration_is_not_believed(word: Word) -> None:
    word.content.migration_id = "00000000-0000-4000-8000-000000000009"
    with pytest.raises(errors.Internal):
        word.check()


@pytest.mark.parametrize(
    "change",
    [
        {"signer": "spiffe://hub.example/manager/main"},
        {"signer": "spiffe://osaka.example/agent/host1"},
        {"purpose": "hand-over"},
    ],
)
def test_another_partys_word_and_another_documents_are_not_believed(
    word: Word, change: dict[str, str]
) -> None:
    for name, value in change.items():
        setattr(word, name, value)
    with pytest.raises(errors.Unauthenticated) as caught:
        word.check()
    assert caught.value.reason == "SIGNATURE_INVALID"
