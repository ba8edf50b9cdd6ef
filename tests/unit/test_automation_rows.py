"""The broker's database: what is written comes back, bounds hold, and one broker has it."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.automation import engine, estimating, memory, plan_rows, policy_rows
from broker.automation.memory import Known
from broker.automation.plan_rows import Kept
from broker.automation.policy_rows import Held, Tenant, View
from broker.automation.store import Store
from broker.policies import plans
from broker.policies.forecast import Forecaster
from broker.policies.model import (
    DAY,
    HOUR,
    Automation,
    Cause,
    Decision,
    Move,
    MoveCost,
    Proposal,
    Reckoning,
    Standing,
)
from broker.policies.plans import Action, Plan, State
from watari import errors
from watari.v1 import broker_pb2, common_pb2

ACME, GLOBEX = Tenant("tokyo.example", "acme"), Tenant("tokyo.example", "globex")
NAMESAKE = Tenant("osaka.example", "acme")
NOW = 1_767_225_600.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "folder" / "automation.sqlite")
    yield opened
    opened.close()


def held(tenant: Tenant = ACME, policy_id: str = "p", **changes: object) -> Held:
    message = broker_pb2.Policy(
        policy_id=policy_id, objective="cost", automation=broker_pb2.AUTOMATION_MANUAL
    )
    made = Held(tenant, policy_id, 1, message, common_pb2.SignedDocument(payload=b""), "x")
    return replace(made, **changes)  # type: ignore[arg-type]


def proposal(vm_id: str, from_cloud: str = "tokyo") -> Proposal:
    one = Reckoning(1.0, 2.0, 0.5, 1.5, MoveCost(egress=1.0), 1.25)
    return Proposal(vm_id, from_cloud, "osaka", Cause.SAVING, "why", "else", one)


def plan(at: float = NOW, state: State = State.RECOMMENDED, *vm_ids: str) -> Plan:
    actions = tuple(Action(proposal(vm_id), state) for vm_id in vm_ids or ("a",))
    return Plan(str(uuid.uuid4()), "p", "acme", Automation.MANUAL, at, actions)


def kept(at: float = NOW, state: State = State.RECOMMENDED, tenant: Tenant = ACME) -> Kept:
    return Kept(tenant, "EUR", plan(at, state))


def test_a_file_is_one_brokers_and_one_releases(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "automation.sqlite"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(errors.InvalidArgument, match="another broker uses it") as caught:
        Store(path)
    assert caught.value.reason == "CONFIG_INVALID"
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(errors.InvalidArgument, match="version 99"):
        Store(path)
    (tmp_path / "noise").write_bytes(b"no database at all, and longer than a header" * 99)
    with pytest.raises(errors.InvalidArgument):
        Store(tmp_path / "noise")


def test_what_a_failed_block_wrote_is_gone(store: Store) -> None:
    def fail() -> None:
        with store.write() as connection:
            policy_rows.put(connection, held())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with store.read() as connection:
        assert policy_rows.count(connection) == 0


def test_policies_are_seen_by_their_tenant_and_its_providers_operator(store: Store) -> None:
    with store.write() as connection:
        for tenant in (GLOBEX, NAMESAKE, ACME):
            for name in ("b", "a"):
                policy_rows.put(connection, held(tenant, name))
        policy_rows.put(connection, held(ACME, "gone", deleted=True))
    with store.read() as connection:

        def seen(view: View) -> list[str]:
            found: list[str] = []
            after = None
            while page := policy_rows.page(connection, view, after, 1):
                found.append(f"{page[0].tenant.name}/{page[0].policy_id}")
                after = page[0].key
            return found

        assert seen(View("tokyo.example", "acme")) == ["acme/a", "acme/b"]
        assert seen(View("tokyo.example", None)) == ["acme/a", "acme/b", "globex/a", "globex/b"]
        assert seen(View("osaka.example", None)) == ["acme/a", "acme/b"]
        assert seen(View("nobody.example", None)) == []
        assert policy_rows.count(connection) == 6
        assert len(policy_rows.everything(connection)) == 7


def test_plans_come_newest_first_and_the_oldest_that_ended_go(store: Store) -> None:
    with store.write() as connection:
        written = [kept(NOW + number, State.DONE) for number in range(6)]
        written += [kept(NOW - 99, State.RUNNING), kept(NOW, tenant=GLOBEX)]
        for each in written:
            plan_rows.put(connection, each)
        plan_rows.prune(connection, 4)
        page = plan_rows.page(
            connection,
            View("tokyo.example", "acme"),
            policy_id="p",
            live_only=False,
            after=None,
            limit=9,
        )
        assert [each.plan.created_at - NOW for each in page] == [5, 4, -99]
        assert page[0] == written[5]
        (running,) = plan_rows.live(connection, ACME)
        assert running == written[6]
        rest = plan_rows.page(
            connection,
            View("tokyo.example", None),
            policy_id="",
            live_only=True,
            after=page[0].position,
            limit=9,
        )
        assert [each.tenant for each in rest] == [GLOBEX, ACME]


_FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    standing=st.builds(
        Standing,
        home=st.sampled_from(["tokyo", ""]),
        regret=st.dictionaries(st.sampled_from(["a", "b"]), _FLOATS),
        allowance=_FLOATS,
        arrival_price=st.none() | _FLOATS,
    ),
    burdens=st.dictionaries(st.sampled_from(["a", "b"]), _FLOATS),
    prices=st.lists(st.floats(0.001, 1000.0), max_size=60),
)
def test_what_was_learnt_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    standing: Standing,
    burdens: dict[str, float],
    prices: list[float],
) -> None:
    store = Store(tmp_path_factory.mktemp("memory") / "automation.sqlite")
    forecaster = Forecaster()
    for hour, price in enumerate(prices):
        forecaster = forecaster.seen(NOW + hour * HOUR, price)
    known = Known("a", "web", "tokyo", 1.5, NOW, standing, burdens, failed_at=2.5)
    with store.write() as connection:
        memory.put_machine(connection, held(), known)
        memory.put_machine(connection, held(), known)
        memory.put_forecast(connection, "EUR", "tokyo", forecaster, NOW)
        assert memory.machines(connection, held()) == {"a": known}
        assert memory.machines(connection, held(GLOBEX)) == {}
        assert memory.names(connection, ACME) == {"a": "web"}
        assert memory.forecasts(connection, "EUR") == {"tokyo": forecaster}
        assert memory.forecasts(connection, "JPY") == {}
    store.close()


def test_what_is_old_is_forgotten(store: Store) -> None:
    old = NOW - 31 * DAY
    with store.write() as connection:
        for vm_id, at in (("a", NOW), ("b", old)):
            known = Known(vm_id, vm_id, "tokyo", 0.0, at, Standing("tokyo"), {})
            memory.put_machine(connection, held(), known)
            memory.put_forecast(connection, "EUR", vm_id, Forecaster(), at)
        for number, at in enumerate((NOW, NOW - 3 * DAY)):
            memory.put_move(connection, ACME, f"m-{number}", Move("a", "tokyo", "osaka", at))
        memory.prune(connection, NOW)
        assert list(memory.machines(connection, held())) == ["a"]
        assert list(memory.forecasts(connection, "EUR")) == ["a"]
        assert [move.began_at for move in memory.moves(connection, ACME, 0.0)] == [NOW]
        assert memory.moves(connection, NAMESAKE, 0.0) == []
        assert memory.move_of(connection, "m-1") is None


def test_what_was_not_looked_at_is_not_superseded() -> None:
    before = Plan(
        str(uuid.uuid4()),
        "p",
        "acme",
        Automation.MANUAL,
        NOW,
        (Action(proposal("a", "tokyo")), Action(proposal("b", "kyoto"))),
    )
    after = plans.cancel(before, "it is better to stay now", NOW + 1)
    assert after.ended_at == NOW + 1
    seen = engine.keep_unseen(before, after, {"tokyo": "silent"})
    assert [action.state for action in seen.actions] == [State.RECOMMENDED, State.SUPERSEDED]
    assert seen.ended_at is None
    assert engine.keep_unseen(before, after, {}) == after
    assert engine.keep_unseen(before, after, {"tokyo": "", "kyoto": ""}) == before


def test_what_is_only_second_best_for_want_of_an_estimate_is_held_back() -> None:
    saving = proposal("a")
    emptying = replace(proposal("b"), cause=Cause.CONSOLIDATION)
    fleeing = replace(proposal("a"), cause=Cause.TAINT)
    decision = Decision((saving, emptying, fleeing))
    known = {("b", "tokyo", "kyoto"): "QUOTA_EXCEEDED: no more"}
    assert estimating.hold_back(decision, known) == decision, "that will not be better in a while"

    waits = {("a", "tokyo", "kyoto"): estimating.WAITS}
    held = estimating.hold_back(decision, waits)
    assert held.moves == (fleeing,)
    assert [(stay.vm_id, stay.rule) for stay in held.stays] == [
        ("a", "feasible"),
        ("b", "feasible"),
    ]
    assert all(estimating.WAITS in stay.reason for stay in held.stays)

    failed = {("c", "tokyo", "kyoto"): f"{estimating.UNKNOWN}: PEER_UNAVAILABLE: away"}
    assert estimating.hold_back(decision, failed).moves == (saving, fleeing)


def test_json_in_the_database_is_what_it_seems(store: Store, tmp_path: Path) -> None:
    with store.write() as connection:
        known = Known("a", "web", "tokyo", 0.0, NOW, Standing("tokyo", {"osaka": 1.5}), {})
        memory.put_machine(connection, held(), known)
    with sqlite3.connect(tmp_path / "folder" / "automation.sqlite") as database:
        (text,) = database.execute("SELECT standing FROM machines").fetchone()
    assert json.loads(text)["regret"] == {"osaka": 1.5}
