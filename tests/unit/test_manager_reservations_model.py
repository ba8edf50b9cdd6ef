"""Reservations on a real database against a simple model, and the table of their states."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from manager.reservation_rows import LIVE, TRANSITIONS, State
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari.identity import Identity


class Model(RuleBasedStateMachine):
    """The reservations do what a dictionary would, and the room always adds up."""

    own: Identity
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), self.own)
        self.states: dict[str, State] = {}
        self.vcpus: dict[str, int] = {}
        self.ends: dict[str, float] = {}

    def teardown(self) -> None:
        self.rig.store.close()
        self.folder.cleanup()

    @rule(target=keys, vcpus=st.integers(1, 5), ttl=st.integers(10, 100))
    def reserve(self, vcpus: int, ttl: int) -> str:
        asked = request(vcpus=vcpus, ttl_seconds=ttl)
        key = asked.reservation_id
        if self.held() + vcpus <= VCPUS:
            self.rig.reservations.reserve(asked, TOKYO)
            self.states[key], self.vcpus[key] = State.PENDING, vcpus
            self.ends[key] = self.rig.clock.monotonic() + ttl
        else:
            assert reason_of(self.rig.reservations.reserve, asked, TOKYO) == (
                "INSUFFICIENT_CAPACITY"
            )
        return key

    @rule(key=keys)
    def confirm(self, key: str) -> None:
        state = self.states.get(key)
        if state in LIVE:
            self.rig.reservations.confirm(key, TOKYO)
            self.states[key] = State.CONFIRMED
        else:
            expected = {
                None: "RESERVATION_NOT_FOUND",
                State.EXPIRED: "RESERVATION_EXPIRED",
                State.RELEASED: "RESERVATION_STATE",
            }[state]
            assert reason_of(self.rig.reservations.confirm, key, TOKYO) == expected

    @rule(key=keys)
    def release(self, key: str) -> None:
        released = self.rig.reservations.release(key, TOKYO)
        state = self.states.get(key)
        if state in LIVE:
            self.states[key] = State.RELEASED
        assert (released and released.state) == self.states.get(key)

    @rule(key=keys, ttl=st.integers(10, 100))
    def extend(self, key: str, ttl: int) -> None:
        if self.states.get(key) is State.PENDING:
            self.rig.reservations.extend(key, ttl, TOKYO)
            self.ends[key] = max(self.ends[key], self.rig.clock.monotonic() + ttl)
        else:
            reason_of(self.rig.reservations.extend, key, ttl, TOKYO)

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.rig.clock.advance(seconds)
        for key, state in self.states.items():
            if state is State.PENDING and self.ends[key] <= self.rig.clock.monotonic():
                self.states[key] = State.EXPIRED
        self.rig.reservations.expire_due()

    @invariant()
    def the_room_adds_up(self) -> None:
        assert self.rig.held() == self.held() <= VCPUS

    @invariant()
    def every_state_is_as_expected(self) -> None:
        for key, state in self.states.items():
            assert self.rig.reservations.get(key, TOKYO).state is state

    @invariant()
    def whatever_ended_is_owed_to_be_discarded(self) -> None:
        ended = [state for state in self.states.values() if state not in LIVE]
        assert self.rig.owed() == len(ended)

    def held(self) -> int:
        """What the model says is held."""
        return sum(self.vcpus[key] for key, state in self.states.items() if state in LIVE)


def test_reservations_behave_like_their_model(federation: Federation) -> None:
    Model.own = federation.party(OSAKA)
    limits = hypothesis_settings(max_examples=12, stateful_step_count=15, deadline=None)
    Model.TestCase.settings = limits
    Model.TestCase("runTest").runTest()


def test_no_state_follows_a_final_one_and_used_comes_from_confirmed_only() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in set(State) - LIVE:
        late = {State.RELINQUISHED} if state in (State.RELEASED, State.EXPIRED) else set()
        assert TRANSITIONS[state] == late, "a hand-over that comes too late is given back"
    assert [state for state in State if State.USED in TRANSITIONS[state]] == [State.CONFIRMED]
