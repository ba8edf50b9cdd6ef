"""Reservations in advance on a real database against a model that counts minute by minute."""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from manager import capacity, inventory, tables
from manager.ownership import Tenant
from manager.reservation import State
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
LIMITS = {"acme": 6, "globex": VCPUS}
"""CPUs that a tenant may have."""

MINUTE = 60
AHEAD_MAX, LENGTH_MAX, STEP_MAX = 15, 8, 6
HORIZON = AHEAD_MAX + LENGTH_MAX + 1
"""In minutes: whatever is booked has ended by then."""

tenants = st.sampled_from(sorted(LIMITS))
sizes = st.integers(1, 5)


@dataclass
class Held:
    """What the model knows of a reservation: room from a minute until another, or for ever."""

    asked: manager_pb2.ReserveRequest
    state: State
    start: int
    end: int | None

    def takes(self, minute: int) -> int:
        """CPUs at that minute."""
        if self.state not in (State.BOOKED, State.CONFIRMED):
            return 0
        within = self.start <= minute and (self.end is None or minute < self.end)
        return self.asked.resources.vcpus if within else 0


class Model(RuleBasedStateMachine):
    """At no minute is more promised than there is, or than a tenant may; and whatever the minutes
    have room for is admitted.
    """

    own: Identity
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), self.own)
        self.minute = 0
        self.made: dict[str, Held] = {}
        self.begin = self.rig.clock.now()
        for tenant, vcpus in LIMITS.items():
            hard = common_pb2.Resources(vcpus=vcpus)
            quota = manager_pb2.Quota(tenant_domain="tokyo.example", tenant=tenant, hard=hard)
            self.rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)

    def teardown(self) -> None:
        self.rig.store.close()
        self.folder.cleanup()

    @rule(target=keys, tenant=tenants, vcpus=sizes)
    def reserve_now(self, tenant: str, vcpus: int) -> str:
        asked = request(vcpus=vcpus, ttl_seconds=3600, tenant=tenant)
        return self.admit(Held(asked, State.CONFIRMED, self.minute, None))

    @rule(
        target=keys,
        tenant=tenants,
        vcpus=sizes,
        ahead=st.integers(1, AHEAD_MAX),
        length=st.integers(1, LENGTH_MAX),
    )
    def book(self, tenant: str, vcpus: int, ahead: int, length: int) -> str:
        asked = request(vcpus=vcpus, ttl_seconds=3600, tenant=tenant)
        start = self.minute + ahead
        asked.starts_at.FromDatetime(self.begin + timedelta(minutes=start))
        asked.ends_at.FromDatetime(self.begin + timedelta(minutes=start + length))
        return self.admit(Held(asked, State.BOOKED, start, start + length))

    @rule(key=keys)
    def claim(self, key: str) -> None:
        """By asking again: nothing comes of it before its time, nor when it is over."""
        held = self.made.get(key)
        if held is None:
            return
        if held.state is not State.BOOKED or self.minute < held.start:
            again = self.rig.reservations.reserve(held.asked, TOKYO)
            state = held.state
            assert again.reservation.state == manager_pb2.ReservationState.Value(
                f"RESERVATION_STATE_{state}"
            )
            assert again.HasField("grant") == (held.end is None or state is State.CONFIRMED)
            return
        lasting = Held(held.asked, State.CONFIRMED, self.minute, None)
        refused = self.refusal(lasting, besides=held)
        if refused is None:
            claimed = self.rig.reservations.reserve(held.asked, TOKYO)
            assert claimed.reservation.state == manager_pb2.RESERVATION_STATE_PENDING
            assert claimed.HasField("grant")
            self.rig.reservations.confirm(key, TOKYO)
            self.made[key] = lasting
        else:
            assert reason_of(self.rig.reservations.reserve, held.asked, TOKYO) == refused

    @rule(key=keys)
    def confirm_without_a_claim(self, key: str) -> None:
        held = self.made.get(key)
        if held is not None and held.state is State.BOOKED:
            assert reason_of(self.rig.reservations.confirm, key, TOKYO) == "RESERVATION_STATE"
            assert reason_of(self.rig.reservations.extend, key, 60, TOKYO) == "RESERVATION_STATE"

    @rule(key=keys)
    def release(self, key: str) -> None:
        held = self.made.get(key)
        if held is not None:
            self.rig.reservations.release(key, TOKYO)
            if held.state in (State.BOOKED, State.CONFIRMED):
                held.state = State.RELEASED

    @rule(minutes=st.integers(1, STEP_MAX), looked=st.booleans())
    def time_passes(self, minutes: int, *, looked: bool) -> None:
        """What is over is so whether or not the janitor has looked."""
        self.rig.clock.advance(minutes * MINUTE)
        self.minute += minutes
        for held in self.made.values():
            if held.state is State.BOOKED and held.end is not None and held.end <= self.minute:
                held.state = State.EXPIRED
        if looked:
            self.rig.reservations.expire_due()

    @invariant()
    def at_no_minute_is_more_promised_than_there_is(self) -> None:
        rows, allocations = tables.reservations.c, tables.allocations.c
        query = (
            sa.select(allocations.kind, allocations.amount, rows.starts_at, rows.ends_at)
            .join(tables.reservations, rows.reservation_id == allocations.consumer_id)
            .where(allocations.resource_class == inventory.VCPUS)
        )
        with self.rig.store.read() as connection:
            found = connection.execute(query).all()
            assert capacity.miscounted(connection) == {}
        begin = self.begin.timestamp() * 1_000_000
        for minute in range(self.minute, self.minute + HORIZON):
            moment = begin + minute * MINUTE * 1_000_000
            taken = sum(
                amount
                for kind, amount, starts_at, ends_at in found
                if kind == capacity.RESERVATION or starts_at <= moment < ends_at
            )
            assert taken == sum(held.takes(minute) for held in self.made.values())
            assert taken <= VCPUS

    @invariant()
    def every_state_is_as_expected(self) -> None:
        self.rig.reservations.expire_due()
        for key, held in self.made.items():
            found = self.rig.reservations.get(key, TOKYO)
            assert found.state is held.state
            assert (found.message().HasField("starts_at")) == found.request.HasField("starts_at")

    @invariant()
    def a_quote_counts_what_is_booked(self) -> None:
        for tenant, limit in LIMITS.items():
            most = max(self.taken(minute, tenant) for minute in self.minutes(None))
            with self.rig.store.read() as connection:
                refused, _ = self.rig.quotas.look(
                    connection, Tenant("tokyo.example", tenant), {inventory.VCPUS: limit - most + 1}
                )
            assert [each.reason for each in refused] == ["QUOTA_EXCEEDED"]

    def admit(self, held: Held) -> str:
        """Make it, if the model does."""
        key, refused = held.asked.reservation_id, self.refusal(held)
        if refused is None:
            answer = self.rig.reservations.reserve(held.asked, TOKYO)
            assert answer.HasField("grant") == (held.end is None)
            if held.end is None:
                self.rig.reservations.confirm(key, TOKYO)
            self.made[key] = held
        else:
            assert reason_of(self.rig.reservations.reserve, held.asked, TOKYO) == refused
        return key

    def refusal(self, held: Held, besides: Held | None = None) -> str | None:
        """Why the model does not admit it, if so."""
        more, tenant = held.asked.resources.vcpus, held.asked.tenant
        minutes = [each for each in self.minutes(held.end) if each >= held.start]
        if any(self.taken(minute, tenant, besides) + more > LIMITS[tenant] for minute in minutes):
            return "QUOTA_EXCEEDED"
        if any(self.taken(minute, None, besides) + more > VCPUS for minute in minutes):
            return "INSUFFICIENT_CAPACITY"
        return None

    def minutes(self, end: int | None) -> range:
        """Those that matter, until one that is not among them."""
        return range(self.minute, self.minute + HORIZON if end is None else end)

    def taken(self, minute: int, tenant: str | None, besides: Held | None = None) -> int:
        """CPUs that a tenant has at a minute, or all have."""
        return sum(
            held.takes(minute)
            for held in self.made.values()
            if held is not besides and tenant in (None, held.asked.tenant)
        )


def test_reservations_in_advance_behave_like_their_model(federation: Federation) -> None:
    Model.own = federation.party(OSAKA)
    limits = hypothesis_settings(max_examples=20, stateful_step_count=25, deadline=None)
    Model.TestCase.settings = limits
    Model.TestCase("runTest").runTest()
