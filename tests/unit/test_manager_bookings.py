"""Reservations in advance: the arithmetic, the bounds, and what is told of them."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager import requests
from manager.bookings import ALWAYS, Booking, Span, of_host, of_tenant
from manager.ownership import Tenant
from manager.reservation import State
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari import audit, errors
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

ACME = Tenant("tokyo.example", "acme")
DAY = 86_400
spans = st.builds(lambda start, length: Span(start, start + length), *[st.integers(1, 9)] * 2)


def booking(span: Span, vcpus: int, host_id: str = "h1", tenant: Tenant = ACME) -> Booking:
    return Booking("r", tenant, span, {host_id: {"vcpus": vcpus, "storage_bytes": 7}})


lasting = st.builds(lambda span: Span(span.start), spans)


@given(st.lists(st.tuples(spans, st.integers(1, 5)), max_size=8), spans | lasting)
def test_the_peak_is_what_counting_every_moment_gives(made, within: Span) -> None:
    counted = [
        sum(vcpus for span, vcpus in made if span.start <= moment < (span.end or 0))
        for moment in range(within.start, within.end or 20)
    ]
    found = of_host([booking(*each) for each in made], "h1", within)
    assert found.get("vcpus", 0) == max(counted)


def test_only_what_is_asked_about_is_counted_and_a_tenant_by_machines() -> None:
    other = Tenant("osaka.example", "acme")
    made = [
        booking(Span(0, 5), 2),
        booking(Span(5, 9), 3),
        booking(Span(0, 9), 1, "h2"),
        booking(Span(0, 9), 8, tenant=other),
    ]
    assert of_host(made[:3], "h1", ALWAYS) == {"vcpus": 3, "storage_bytes": 7}
    assert of_tenant(made, ACME, ALWAYS, "machines") == {"vcpus": 4, "machines": 2}
    assert of_tenant(made, ACME, Span(9), "machines") == {}


@pytest.fixture
def rig(federation: Federation, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, federation.party(OSAKA))
    yield made
    made.store.close()


def booked(
    rig: Rig, ahead: float, seconds: float, vcpus: int = VCPUS
) -> manager_pb2.ReserveRequest:
    """A request for a time that starts so many seconds ahead."""
    made = request(vcpus=vcpus)
    made.starts_at.FromDatetime(rig.clock.now() + timedelta(seconds=ahead))
    made.ends_at.FromDatetime(rig.clock.now() + timedelta(seconds=ahead + seconds))
    return made


@pytest.mark.parametrize(
    ("ahead", "seconds"), [(0, 60), (-1, 60), (31 * DAY, 60), (60, 8 * DAY), (60, 0), (60, -30)]
)
def test_a_time_out_of_bounds_is_refused_and_takes_nothing(rig: Rig, ahead, seconds) -> None:
    asked = booked(rig, ahead, seconds)
    with pytest.raises(errors.InvalidArgument) as caught:
        rig.reservations.reserve(asked, TOKYO)
    assert caught.value.reason == "INVALID_FIELD"
    assert reason_of(rig.reservations.get, asked.reservation_id, TOKYO) == "RESERVATION_NOT_FOUND"


def test_a_time_needs_both_ends() -> None:
    asked = request()
    asked.starts_at.seconds = 4_000_000_000
    with pytest.raises(errors.InvalidArgument, match="set both"):
        requests.reserve(asked)
    asked.ends_at.seconds = 2**40
    with pytest.raises(errors.InvalidArgument, match="moment"):
        requests.reserve(asked)


def test_room_is_held_from_the_start_on_and_may_be_used_by_others_before_and_after(
    rig: Rig,
) -> None:
    first, second = booked(rig, 60, 60), booked(rig, 120, 60)
    for asked in (first, second):
        answer = rig.reservations.reserve(asked, TOKYO)
        assert answer.reservation.state == manager_pb2.RESERVATION_STATE_BOOKED
        assert answer.reservation.ends_at == answer.reservation.expires_at == asked.ends_at
        assert not answer.HasField("grant")
        assert not answer.HasField("agent_control")
    # A machine has no end: there is no room for one, however free the host is now.
    assert reason_of(rig.reservations.reserve, request(vcpus=1), TOKYO) == "INSUFFICIENT_CAPACITY"
    between = booked(rig, 119, 2, vcpus=1)
    assert reason_of(rig.reservations.reserve, between, TOKYO) == "INSUFFICIENT_CAPACITY"
    rig.reservations.reserve(booked(rig, 180, 60), TOKYO)


def test_a_claim_is_for_good_and_so_refused_where_others_come_later(rig: Rig) -> None:
    first, second = booked(rig, 60, 60), booked(rig, 120, 60)
    for asked in (first, second):
        rig.reservations.reserve(asked, TOKYO)
    rig.clock.advance(60)
    assert reason_of(rig.reservations.reserve, first, TOKYO) == "INSUFFICIENT_CAPACITY"
    assert rig.reservations.get(first.reservation_id, TOKYO).state is State.BOOKED
    rig.reservations.release(second.reservation_id, TOKYO)
    claimed = rig.reservations.reserve(first, TOKYO)
    assert claimed.reservation.state == manager_pb2.RESERVATION_STATE_PENDING
    assert claimed.HasField("grant")
    assert claimed.HasField("agent_control")
    assert rig.reservations.reserve(first, TOKYO) == claimed, "repeating it changes nothing"
    assert rig.held() == VCPUS
    rig.clock.advance(60)
    rig.reservations.expire_due()
    assert rig.held() == 0, "a claim that nobody confirmed expires like any other"


def test_what_ends_unclaimed_is_over_and_owes_nothing(rig: Rig) -> None:
    asked = booked(rig, 60, 60)
    rig.reservations.reserve(asked, TOKYO)
    listed = rig.reservations.page(active_only=True, after=None, limit=10)
    assert [each.reservation_id for each in listed] == [asked.reservation_id]
    rig.clock.advance(120)
    assert rig.reservations.reserve(request(vcpus=VCPUS), TOKYO).HasField("grant")
    assert rig.reservations.get(asked.reservation_id, TOKYO).state is State.EXPIRED
    assert rig.owed() == 0
    assert not rig.reservations.reserve(asked, TOKYO).HasField("grant")


def test_only_who_booked_claims_and_the_log_tells_of_each_step(rig: Rig) -> None:
    asked = booked(rig, 60, 60)
    rig.reservations.reserve(asked, TOKYO)
    rig.clock.advance(60)
    other = manager_pb2.ReserveRequest()
    other.CopyFrom(asked)
    other.resources.vcpus = 1
    assert reason_of(rig.reservations.reserve, other, TOKYO) == "ID_REUSED"
    assert rig.reservations.get(asked.reservation_id, TOKYO).state is State.BOOKED
    rig.reservations.reserve(asked, TOKYO)
    entries = rig.audit()
    audit.verify(entries)
    assert [each.action for each in entries] == [
        *("reservation.booked", "reservation.claimed", "grant.issued")
    ]


OPERATORS = [
    SpiffeId.parse(f"spiffe://{each}.example/operator/main") for each in ("tokyo", "osaka")
]
"""Of the machine's provider, and of the cloud that it comes to."""


def for_tokyo(asked: manager_pb2.ReserveRequest) -> manager_pb2.ReserveRequest:
    """The same as any operator asks for it: it says whose tenant it is."""
    asked.tenant_domain = "tokyo.example"
    return asked


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_an_operator_booked_is_claimed_by_the_manager_that_the_machine_leaves(
    rig: Rig, operator: SpiffeId
) -> None:
    asked = for_tokyo(booked(rig, 60, 60))
    rig.reservations.reserve(asked, operator)
    claim = request(vcpus=VCPUS)
    claim.reservation_id, claim.vm_id = asked.reservation_id, asked.vm_id
    assert reason_of(rig.reservations.reserve, claim, TOKYO) == "RESERVATION_STATE"
    rig.clock.advance(60)
    assert not rig.reservations.reserve(asked, operator).HasField("grant")
    stranger = request(vcpus=VCPUS)
    stranger.reservation_id = asked.reservation_id
    assert reason_of(rig.reservations.reserve, stranger, TOKYO) == "ID_REUSED"
    answer = rig.reservations.reserve(claim, TOKYO)
    assert answer.reservation.state == manager_pb2.RESERVATION_STATE_PENDING
    assert answer.reservation.migration_id == claim.migration_id
    assert rig.reservations.reserve(claim, TOKYO) == answer
    assert rig.held() == VCPUS
    rig.reservations.confirm(asked.reservation_id, TOKYO)
    claimed = next(each for each in rig.audit() if each.action == "reservation.claimed")
    assert claimed.details["booked_by"] == str(operator)


def test_a_claim_is_for_one_migration(rig: Rig) -> None:
    asked, running = for_tokyo(booked(rig, 60, 60, vcpus=1)), request()
    rig.reservations.reserve(asked, OPERATORS[0])
    rig.reservations.reserve(running, TOKYO)
    rig.clock.advance(60)
    claim = request(migration_id=running.migration_id)
    claim.reservation_id, claim.vm_id = asked.reservation_id, asked.vm_id
    assert reason_of(rig.reservations.reserve, claim, TOKYO) == "ID_REUSED"


@pytest.mark.parametrize(
    ("operator", "changes"),
    [
        ("hub.example", {}),
        ("tokyo.example", {"from_cloud": "nowhere"}),
        ("tokyo.example", {"from_cloud": "osaka"}),
        ("tokyo.example", {"source_agent": "spiffe://hub.example/agent/h1"}),
        ("osaka.example", {"source_agent": "spiffe://osaka.example/agent/h1"}),
    ],
)
def test_an_operator_books_for_machines_of_its_provider_or_for_its_own_cloud(
    rig: Rig, operator: str, changes: dict[str, str]
) -> None:
    caller = SpiffeId.parse(f"spiffe://{operator}/operator/main")
    asked = for_tokyo(booked(rig, 60, 60))
    for name, value in changes.items():
        setattr(asked, name, value)
    assert reason_of(rig.reservations.reserve, asked, caller) == "NOT_ALLOWED"
    assert rig.audit() == []


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_reserves_in_advance_only(rig: Rig, operator: SpiffeId) -> None:
    assert reason_of(rig.reservations.reserve, for_tokyo(request()), operator) == "NOT_ALLOWED"


def test_there_are_so_many_in_advance_as_may_be(federation: Federation, tmp_path: Path) -> None:
    made = Rig(tmp_path, federation.party(OSAKA), booked_max=1)
    made.reservations.reserve(booked(made, 60, 60, vcpus=1), TOKYO)
    again = booked(made, 60, 60, vcpus=1)
    assert reason_of(made.reservations.reserve, again, TOKYO) == "INSUFFICIENT_CAPACITY"
    made.store.close()
