"""Room that a broker holds: counted once, taken over by the source it is for, and else gone."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager import capacity
from manager.admitting import Confirm, Hold, Reserve
from manager.reservation import State
from manager.settings.store import StoreSettings
from manager.store import micros
from tests.conftest import Federation
from tests.support.reservations import GIB, OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari import audit, errors
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

BROKER = SpiffeId.parse("spiffe://hub.example/broker/main")
OTHER_BROKER = SpiffeId.parse("spiffe://osaka.example/broker/main")
OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
SECONDS = 1_000_000
HELD = manager_pb2.RESERVATION_STATE_HELD
PENDING = manager_pb2.RESERVATION_STATE_PENDING


@pytest.fixture(scope="module")
def own(federation: Federation) -> Identity:
    """osaka's manager."""
    return federation.party(OSAKA)


@pytest.fixture
def rig(tmp_path: Path, own: Identity, database: StoreSettings) -> Iterator[Rig]:
    made = Rig(tmp_path, own, database)
    yield made
    made.store.close()


def held_for(asked: manager_pb2.ReserveRequest) -> manager_pb2.ReserveRequest:
    """What a broker has held, for a source that will ask so."""
    return manager_pb2.ReserveRequest(
        reservation_id=asked.reservation_id,
        migration_id=asked.migration_id,
        from_cloud=asked.from_cloud,
        vm_id=asked.vm_id,
        tenant=asked.tenant,
        tenant_domain=asked.tenant_domain or TOKYO.domain,
        resources=asked.resources,
        disks=[common_pb2.DiskSpec(disk_id="written", size_bytes=GIB, allocated_bytes=GIB)],
    )


def hold(
    rig: Rig, asked: manager_pb2.ReserveRequest, broker: SpiffeId = BROKER, seconds: int = 300
) -> manager_pb2.Reservation:
    """Have room held for what a source will ask."""
    expires_at = micros(rig.clock.now()) + seconds * SECONDS
    return rig.reservations.hold(held_for(asked), broker, expires_at).reservation


def taken(rig: Rig, reservation_id: str) -> dict[str, int]:
    """Its allocations."""
    with rig.store.read() as connection:
        found = capacity.by_consumer(connection).get(("reservation", reservation_id), {})
        assert not capacity.miscounted(connection)
    return {name: amount for name, (_, amount) in found.items()}


def copy(asked: manager_pb2.ReserveRequest, **changes: object) -> manager_pb2.ReserveRequest:
    """The same request but for some fields."""
    made = manager_pb2.ReserveRequest()
    made.CopyFrom(asked)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_hold_takes_room_and_a_retry_gives_the_same_answer(rig: Rig) -> None:
    asked = request(vcpus=3)
    first = hold(rig, asked)
    assert (first.state, first.requested_by) == (HELD, str(BROKER))
    assert (first.migration_id, first.vm_id) == (asked.migration_id, asked.vm_id)
    rig.clock.advance(5)
    expires_at = micros(rig.clock.now()) + 300 * SECONDS
    assert rig.reservations.hold(held_for(asked), BROKER, expires_at).reservation == first
    assert rig.held() == 3
    assert [entry.action for entry in rig.audit()] == ["reservation.held"]


def test_the_source_takes_a_hold_over_and_it_is_never_counted_twice(rig: Rig) -> None:
    asked = request(vcpus=VCPUS)
    before = hold(rig, asked)
    answer = rig.reservations.reserve(asked, TOKYO)
    assert answer.reservation.state == PENDING
    assert answer.reservation.requested_by == str(TOKYO)
    assert answer.reservation.host_id == before.host_id
    assert answer.reservation.price_version == before.price_version
    assert answer.grant.payload
    assert rig.held() == VCPUS
    assert taken(rig, asked.reservation_id)["vcpus"] == VCPUS
    # Each side may repeat what it asked.
    assert rig.reservations.reserve(asked, TOKYO) == answer
    assert hold(rig, asked) == answer.reservation
    assert rig.reservations.confirm(asked.reservation_id, TOKYO).state is State.CONFIRMED
    actions = [entry.action for entry in rig.audit()]
    assert actions == [
        "reservation.held",
        "reservation.adopted",
        "grant.issued",
        "reservation.confirmed",
    ]
    audit.verify(rig.audit())


def test_what_was_taken_over_the_broker_cannot_give_back(rig: Rig) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    rig.reservations.reserve(asked, TOKYO)
    assert rig.reservations.release(asked.reservation_id, BROKER) is None
    assert rig.reservations.get(asked.reservation_id, TOKYO).state is State.PENDING


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_id": str(uuid.uuid4())},
        {"migration_id": str(uuid.uuid4())},
        {"tenant": "evil"},
        {"tenant_domain": "osaka.example"},
    ],
)
def test_a_reservation_of_something_else_does_not_get_the_held_room(
    rig: Rig, changes: dict[str, str]
) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    assert reason_of(rig.reservations.reserve, copy(asked, **changes), TOKYO) == "ID_REUSED"
    assert rig.held() == 2
    assert rig.reservations.reserve(asked, TOKYO).reservation.state == PENDING


def test_what_a_hold_does_not_cover_is_admitted_like_anything_else(rig: Rig) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    bigger = copy(asked)
    bigger.resources.vcpus = 5
    assert rig.reservations.reserve(bigger, TOKYO).reservation.state == PENDING
    assert rig.held() == 5
    assert taken(rig, asked.reservation_id)["vcpus"] == 5
    assert "reservation.hold_outgrown" in [entry.action for entry in rig.audit()]


def test_who_outgrew_a_hold_comes_before_others_of_the_same_write(rig: Rig) -> None:
    asked, other = request(vcpus=6), request(vcpus=2)
    hold(rig, asked)
    bigger = copy(asked)
    bigger.resources.vcpus = 7
    refused, admitted = rig.together([Reserve(other, TOKYO), Reserve(bigger, TOKYO)])
    assert isinstance(refused, errors.Exhausted)
    assert not isinstance(admitted, errors.WatariError)
    assert rig.held() == 7


def test_less_written_than_held_gives_the_rest_back(rig: Rig) -> None:
    asked = request()
    asked.disks[0].allocated_bytes = GIB // 2
    hold(rig, asked)
    assert taken(rig, asked.reservation_id)["storage_bytes"] == GIB
    rig.reservations.reserve(asked, TOKYO)
    assert taken(rig, asked.reservation_id)["storage_bytes"] == GIB // 2


def test_a_hold_ends_with_its_time_and_an_ordinary_reservation_follows(rig: Rig) -> None:
    asked = request(vcpus=VCPUS)
    hold(rig, asked, seconds=20)
    rig.clock.advance(21)
    assert rig.reservations.expire_due() == 1
    assert rig.held() == 0
    assert reason_of(rig.reservations.get, asked.reservation_id, BROKER) == "RESERVATION_NOT_FOUND"
    assert rig.owed() == 0, "nothing was granted, so nothing can have arrived"
    assert rig.reservations.reserve(asked, TOKYO).reservation.state == PENDING
    assert rig.held() == VCPUS


def test_room_is_held_for_no_longer_than_the_cloud_allows(rig: Rig) -> None:
    most = rig.settings.reservations.hold_seconds_max
    found = hold(rig, request(), seconds=100_000)
    assert found.expires_at.seconds - found.created_at.seconds == most


@pytest.mark.parametrize("caller", [BROKER, OPERATOR, TOKYO])
def test_broker_operator_and_the_source_may_give_a_hold_back_and_it_may_be_held_again(
    rig: Rig, caller: SpiffeId
) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    released = rig.reservations.release(asked.reservation_id, caller)
    assert released is not None
    assert released.state is State.RELEASED
    assert rig.held() == 0
    assert rig.owed() == 0
    assert hold(rig, asked).state == HELD
    assert rig.held() == 2


def test_nobody_else_touches_a_hold(rig: Rig) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    mallory = SpiffeId.parse("spiffe://hub.example/manager/main")
    for caller in (OTHER_BROKER, mallory):
        assert rig.reservations.release(asked.reservation_id, caller) is None
        assert reason_of(rig.reservations.confirm, asked.reservation_id, caller) == (
            "RESERVATION_NOT_FOUND"
        )
    assert reason_of(rig.reservations.confirm, asked.reservation_id, BROKER) == "RESERVATION_STATE"
    assert reason_of(hold, rig, asked, OTHER_BROKER) == "ID_REUSED"
    assert rig.held() == 2


def test_a_hold_is_admitted_by_the_same_rules_as_a_reservation(rig: Rig) -> None:
    hold(rig, request(vcpus=VCPUS - 1))
    refused = request(vcpus=2)
    assert reason_of(hold, rig, refused) == "INSUFFICIENT_CAPACITY"
    assert reason_of(rig.reservations.reserve, refused, TOKYO) == "INSUFFICIENT_CAPACITY"
    here = request()
    rig.own(here.vm_id, "osaka", 3)
    assert reason_of(hold, rig, here) == "VM_ALREADY_THERE"
    elsewhere = request()
    rig.own(elsewhere.vm_id, "kyoto", 7)
    assert hold(rig, elsewhere).state == HELD, "which epoch it has, the source says later"
    assert reason_of(rig.reservations.reserve, elsewhere, TOKYO) == "EPOCH_MISMATCH"
    trait = held_for(request())
    trait.required_traits.append("gpu")
    expires_at = micros(rig.clock.now()) + SECONDS
    assert reason_of(rig.reservations.hold, trait, BROKER, expires_at) == "HOST_INCOMPATIBLE"


def test_a_hold_counts_in_the_tenants_quota_once(rig: Rig) -> None:
    rig.quotas.put(
        manager_pb2.Quota(
            tenant_domain="tokyo.example",
            tenant="acme",
            hard=common_pb2.Resources(vcpus=3),
        ),
        str(uuid.uuid4()),
        OPERATOR,
    )
    asked = request(vcpus=3)
    hold(rig, asked)
    assert reason_of(hold, rig, request(vcpus=1)) == "QUOTA_EXCEEDED"
    assert rig.reservations.reserve(asked, TOKYO).reservation.state == PENDING


def test_holds_of_a_tenant_are_bounded_and_others_still_get_room(
    tmp_path: Path, own: Identity
) -> None:
    rig = Rig(tmp_path, own, held_per_tenant_max=2)
    outcomes = rig.together(
        [Hold(held_for(request(vcpus=1, tenant=f"t{n % 2}")), BROKER, 2**60) for n in range(4)]
    )
    assert not any(isinstance(each, errors.WatariError) for each in outcomes)
    assert reason_of(hold, rig, request(tenant="t0")) == "QUOTA_EXCEEDED"
    assert hold(rig, request(tenant="t2")).state == HELD
    rig.store.close()


def test_a_source_that_is_refused_leaves_its_hold(rig: Rig) -> None:
    asked = request(vcpus=2)
    hold(rig, asked)
    rig.own(asked.vm_id, "osaka", 3)
    assert reason_of(rig.reservations.reserve, asked, TOKYO) == "VM_ALREADY_THERE"
    assert rig.held() == 2


def test_holds_adoptions_and_confirmations_share_a_write(rig: Rig) -> None:
    kept, new, firm = request(vcpus=2), request(vcpus=1), request(vcpus=1)
    hold(rig, kept)
    rig.reservations.reserve(firm, TOKYO)
    outcomes = rig.together(
        [
            Hold(held_for(new), BROKER, 2**60),
            Reserve(kept, TOKYO),
            Confirm(firm.reservation_id, TOKYO),
            Reserve(request(vcpus=VCPUS), TOKYO),
        ]
    )
    states = [
        each.reason if isinstance(each, errors.WatariError) else each.row.state for each in outcomes
    ]
    assert states == [State.HELD, State.PENDING, State.CONFIRMED, "INSUFFICIENT_CAPACITY"]
    assert rig.held() == 4
