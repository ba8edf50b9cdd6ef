"""Reservations on a real database: whose they are, how long they last, and by many threads."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager import capacity
from manager.reservation import State
from manager.settings.store import StoreSettings
from manager.store import micros
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari import errors, identity
from watari.clock import SystemClock
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
MALLORY = SpiffeId.parse("spiffe://hub.example/manager/main")
SIBLING = SpiffeId.parse("spiffe://osaka.example/manager/second")
"""The manager of another cloud of this provider."""


@pytest.fixture(scope="module")
def own(federation: Federation) -> Identity:
    """osaka's manager."""
    return federation.party(OSAKA)


@pytest.fixture
def rig(tmp_path: Path, own: Identity, database: StoreSettings) -> Iterator[Rig]:
    made = Rig(tmp_path, own, database)
    yield made
    made.store.close()


def test_a_reservation_holds_room_and_grants_exactly_what_was_asked(rig: Rig, own: Identity):
    asked = request(vcpus=3)
    answer = rig.reservations.reserve(asked, TOKYO)
    assert answer.reservation.state == manager_pb2.RESERVATION_STATE_PENDING
    assert rig.held() == 3
    assert answer.agent_control.spiffe_id == "spiffe://osaka.example/agent/h1"
    payload, signer = identity.verify(
        own.trust, answer.grant, "grant", own.spiffe_id, now=SystemClock().now()
    )
    grant = common_pb2.Grant.FromString(payload)
    assert signer == own.spiffe_id
    assert grant.migration_id == asked.migration_id
    assert grant.source_epoch == 1
    assert list(grant.disks) == list(asked.disks)
    assert grant.bytes_max > sum(disk.size_bytes for disk in asked.disks)
    assert grant.source_manager == str(TOKYO)


def test_repeating_a_call_gives_the_same_reservation_and_grant(rig: Rig):
    asked = request()
    first = rig.reservations.reserve(asked, TOKYO)
    rig.clock.advance(5)
    assert rig.reservations.reserve(asked, TOKYO) == first
    assert rig.held() == 1


def test_the_same_id_with_other_content_or_from_another_is_refused(rig: Rig):
    asked = request()
    rig.reservations.reserve(asked, TOKYO)
    other = manager_pb2.ReserveRequest()
    other.CopyFrom(asked)
    other.resources.vcpus = 2
    assert reason_of(rig.reservations.reserve, other, TOKYO) == "ID_REUSED"
    twin = request(migration_id=asked.migration_id)
    assert reason_of(rig.reservations.reserve, twin, TOKYO) == "ID_REUSED"


def test_nobody_reserves_in_the_name_of_another_cloud(rig: Rig):
    assert reason_of(rig.reservations.reserve, request(), MALLORY) == "NOT_ALLOWED"
    foreign = request(from_cloud="hub", source_agent="spiffe://tokyo.example/agent/h1")
    assert reason_of(rig.reservations.reserve, foreign, MALLORY) == "NOT_ALLOWED"
    own_name = request(from_cloud="osaka")
    assert reason_of(rig.reservations.reserve, own_name, TOKYO) == "NOT_ALLOWED"


def test_nobody_sees_or_changes_the_reservation_of_another(rig: Rig):
    asked = request()
    rig.reservations.reserve(asked, TOKYO)
    key = asked.reservation_id
    for call in (
        lambda: rig.reservations.get(key, MALLORY),
        lambda: rig.reservations.extend(key, 60, MALLORY),
        lambda: rig.reservations.confirm(key, MALLORY),
        lambda: rig.reservations.confirm(key, OPERATOR),
        lambda: rig.reservations.get(key, SIBLING),
    ):
        assert reason_of(call) == "RESERVATION_NOT_FOUND"
    assert rig.reservations.release(key, MALLORY) is None
    assert rig.reservations.release(key, SIBLING) is None
    assert rig.reservations.get(key, OPERATOR).state is State.PENDING


def test_an_operator_may_release_a_pending_one_and_never_a_confirmed_one(rig: Rig):
    first, second = request(), request()
    rig.reservations.reserve(first, TOKYO)
    released = rig.reservations.release(first.reservation_id, OPERATOR)
    assert released is not None
    assert released.state is State.RELEASED
    rig.reservations.reserve(second, TOKYO)
    rig.reservations.confirm(second.reservation_id, TOKYO)
    assert rig.reservations.release(second.reservation_id, OPERATOR) is None
    assert rig.reservations.get(second.reservation_id, TOKYO).state is State.CONFIRMED


def test_a_machine_that_is_here_already_is_refused(rig: Rig):
    asked = request()
    rig.own(asked.vm_id, "osaka", 2)
    assert reason_of(rig.reservations.reserve, asked, TOKYO) == "VM_ALREADY_THERE"


@pytest.mark.parametrize(
    ("owner", "epoch", "refused"),
    [("tokyo", 3, False), ("tokyo", 2, False), ("tokyo", 4, True), ("kyoto", 3, True)],
)
def test_an_old_or_contradicting_epoch_is_refused(rig: Rig, owner: str, epoch: int, refused: bool):
    asked = request(source_epoch=3)
    rig.own(asked.vm_id, owner, epoch)
    if refused:
        assert reason_of(rig.reservations.reserve, asked, TOKYO) == "EPOCH_MISMATCH"
    else:
        rig.reservations.reserve(asked, TOKYO)


def test_a_pending_reservation_expires_and_gives_its_room_back(rig: Rig):
    asked = request(vcpus=8, ttl_seconds=60)
    rig.reservations.reserve(asked, TOKYO)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "INSUFFICIENT_CAPACITY"
    rig.clock.advance(60)
    rig.reservations.reserve(request(), TOKYO)
    key = asked.reservation_id
    assert reason_of(rig.reservations.confirm, key, TOKYO) == "RESERVATION_EXPIRED"
    assert reason_of(rig.reservations.extend, key, 60, TOKYO) == "RESERVATION_EXPIRED"
    released = rig.reservations.release(key, TOKYO)
    assert released is not None
    assert released.state is State.EXPIRED
    assert rig.owed() == 1


def test_the_time_of_a_reservation_has_a_limit_and_never_shrinks(rig: Rig):
    asked = request(ttl_seconds=80_000)
    rig.reservations.reserve(asked, TOKYO)
    limit = rig.settings.reservations.ttl_seconds_max
    first = rig.reservations.get(asked.reservation_id, TOKYO).expires_at
    assert first == micros(rig.clock.now()) + limit * 1_000_000
    assert rig.reservations.extend(asked.reservation_id, 10, TOKYO).expires_at == first


def test_a_confirmed_reservation_never_expires(rig: Rig):
    asked = request(ttl_seconds=10)
    rig.reservations.reserve(asked, TOKYO)
    rig.reservations.confirm(asked.reservation_id, TOKYO)
    rig.clock.advance(1_000_000)
    assert rig.reservations.expire_due() == 0
    assert rig.reservations.confirm(asked.reservation_id, TOKYO).state is State.CONFIRMED
    assert reason_of(rig.reservations.extend, asked.reservation_id, 60, TOKYO) == (
        "RESERVATION_STATE"
    )


def test_releasing_what_is_unknown_is_no_error(rig: Rig):
    assert rig.reservations.release(str(uuid.uuid4()), TOKYO) is None


def test_thirty_two_threads_for_the_last_units_never_get_more_than_there_is(rig: Rig):
    ready = threading.Barrier(32)
    outcomes: list[str] = []

    def take() -> None:
        ready.wait()
        try:
            rig.reservations.reserve(request(vcpus=1), TOKYO)
            outcomes.append("held")
        except errors.WatariError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=take) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes.count("held") == VCPUS
    assert outcomes.count("INSUFFICIENT_CAPACITY") == 32 - VCPUS
    assert rig.held() == VCPUS


def test_room_that_was_seen_before_somebody_else_took_some_cannot_be_taken(rig: Rig):
    with rig.store.read() as connection:
        (seen,) = capacity.views(connection, rig.settings.agents)
    rig.reservations.reserve(request(vcpus=1), TOKYO)
    with rig.store.write() as connection, pytest.raises(errors.Conflict) as caught:
        capacity.take(connection, seen, capacity.RESERVATION, str(uuid.uuid4()), {"vcpus": 8})
    assert caught.value.reason == "GENERATION_CONFLICT"


def test_confirmation_and_expiry_at_the_same_moment_have_one_winner(rig: Rig):
    for _ in range(20):
        asked = request(ttl_seconds=10)
        rig.reservations.reserve(asked, TOKYO)
        ready = threading.Barrier(2)
        outcome: list[str] = []

        def confirm(asked=asked, ready=ready, outcome=outcome) -> None:
            ready.wait()
            try:
                outcome.append(rig.reservations.confirm(asked.reservation_id, TOKYO).state)
            except errors.FailedPrecondition as error:
                outcome.append(error.reason)

        thread = threading.Thread(target=confirm)
        thread.start()
        ready.wait()
        rig.clock.advance(10)
        rig.reservations.expire_due()
        thread.join(60)
        state = rig.reservations.get(asked.reservation_id, TOKYO).state
        assert (outcome[0], state) in [
            (State.CONFIRMED, State.CONFIRMED),
            ("RESERVATION_EXPIRED", State.EXPIRED),
        ]
        assert rig.held() == (1 if state is State.CONFIRMED else 0)
        rig.reservations.release(asked.reservation_id, TOKYO)
