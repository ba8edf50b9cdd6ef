"""The life of a plan: every step there is, and that no machine is in two live plans."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.policies import plans
from broker.policies.model import Automation, Cause, Decision, MoveCost, Policy, Proposal, Reckoning
from broker.policies.plans import Action, Plan, State
from watari import errors

NOTHING = Reckoning(0.0, 0.0, 0.0, 0.0, MoveCost(), 0.0)
POLICY = Policy("p", "t", automation=Automation.APPROVED)


def move(vm_id: str, to_cloud: str = "b") -> Proposal:
    return Proposal(vm_id, "a", to_cloud, Cause.SAVING, "why", "stays if", NOTHING)


def plan(*states: State, level: Automation = Automation.APPROVED, policy_id: str = "p") -> Plan:
    actions = tuple(Action(move(f"vm{number}"), state) for number, state in enumerate(states))
    return Plan("plan", policy_id, "t", level, 0.0, actions)


@pytest.mark.parametrize(("current", "following"), list(product(State, State)))
def test_every_step_is_either_in_the_table_or_refused(current: State, following: State) -> None:
    expected = {
        ("RECOMMENDED", "APPROVED"),
        ("RECOMMENDED", "SUPERSEDED"),
        ("APPROVED", "RUNNING"),
        ("APPROVED", "FAILED"),
        ("APPROVED", "SUPERSEDED"),
        ("RUNNING", "DONE"),
        ("RUNNING", "FAILED"),
    }
    if (current, following) in expected:
        plans.check(current, following)
        return
    with pytest.raises(errors.FailedPrecondition) as caught:
        plans.check(current, following)
    assert caught.value.reason == "MIGRATION_STATE"
    assert str(current) in caught.value.message
    assert str(following) in caught.value.message


@pytest.mark.parametrize("states", list(product(State, repeat=3)))
def test_a_plans_state_follows_from_its_actions(states: tuple[State, ...]) -> None:
    state = plan(*states).state
    assert (state in plans.FINAL) == all(each in plans.FINAL for each in states)
    if set(states) == {states[0]}:
        assert state == states[0]
    if State.RUNNING in states:
        assert state == State.RUNNING
    if state in plans.FINAL:
        assert (state == State.FAILED) == (State.FAILED in states)
        assert (state == State.SUPERSEDED) == (set(states) == {State.SUPERSEDED})
    if state == State.APPROVED:
        assert not {State.RUNNING, State.DONE, State.FAILED} & set(states)


def test_a_plan_is_approved_as_it_was_looked_at_and_only_once() -> None:
    waiting = plan(State.RECOMMENDED, State.SUPERSEDED)
    with pytest.raises(errors.Conflict, match="generation 1, not 7"):
        plans.approve(waiting, "spiffe://x/user/u", 7, 1.0)
    approved = plans.approve(waiting, "spiffe://x/user/u", 1, 1.0)
    assert [each.state for each in approved.actions] == [State.APPROVED, State.SUPERSEDED]
    assert (approved.state, approved.generation) == (State.APPROVED, 2)
    assert approved.approved_by == "spiffe://x/user/u"
    with pytest.raises(errors.FailedPrecondition, match="APPROVED never becomes APPROVED"):
        plans.approve(approved, "spiffe://x/user/u", 2, 2.0)


def test_who_only_wants_recommendations_approves_nothing() -> None:
    with pytest.raises(errors.FailedPrecondition, match="only wants recommendations"):
        plans.approve(plan(State.RECOMMENDED, level=Automation.MANUAL), "u", 1, 1.0)


def test_a_move_runs_and_ends_with_its_migration() -> None:
    running = plans.begin(plan(State.APPROVED, State.APPROVED), "vm0", "m0", 1.0)
    assert running.actions[0].migration_id == "m0"
    assert running.state == State.RUNNING
    took = plans.Outcome(1e6, 12.0, 3.0)
    half = plans.finish(running, "vm0", "", 2.0, took)
    assert (half.state, half.ended_at) == (State.RUNNING, None)
    assert [each.outcome for each in half.actions] == [took, None]
    whole = plans.finish(half, "vm1", "no room", 3.0)
    assert (whole.state, whole.ended_at) == (State.FAILED, 3.0)
    assert whole.actions[1].problem == "no room"
    with pytest.raises(errors.NotFound):
        plans.begin(whole, "vm9", "m9", 4.0)
    with pytest.raises(errors.FailedPrecondition):
        plans.begin(whole, "vm0", "m0", 4.0)


def test_cancelling_ends_what_has_not_begun() -> None:
    cancelled = plans.cancel(
        plan(State.RUNNING, State.APPROVED, State.RECOMMENDED, State.DONE), "asked for", 1.0
    )
    assert [each.state for each in cancelled.actions] == [
        State.RUNNING,
        State.SUPERSEDED,
        State.SUPERSEDED,
        State.DONE,
    ]
    assert plans.cancel(cancelled, "again", 2.0) == cancelled


def test_what_may_not_leave_a_cloud_is_withdrawn_with_the_reason() -> None:
    before = plan(State.RECOMMENDED, State.RUNNING, State.APPROVED)
    elsewhere = replace(before.actions[2], proposal=replace(move("vm-x"), from_cloud="c"))
    before = replace(before, actions=(*before.actions[:2], elsewhere))
    assert plans.withdraw(before, {}, 9.0) == before
    assert plans.withdraw(before, {"b": "nobody leaves it"}, 9.0) == before
    after = plans.withdraw(before, {"a": "it was revoked"}, 9.0)
    assert [action.state for action in after.actions] == [
        State.SUPERSEDED,
        State.RUNNING,
        State.APPROVED,
    ]
    assert after.actions[0].problem == "it was revoked"
    assert (after.generation, after.ended_at) == (before.generation + 1, None)
    ended = plans.withdraw(plan(State.APPROVED), {"a": "it was revoked"}, 9.0)
    assert (ended.state, ended.ended_at) == (State.SUPERSEDED, 9.0)


def renewed(live: list[Plan], *moves: Proposal, policy: Policy = POLICY) -> plans.Renewal:
    return plans.renew(live, Decision(moves), policy, policy.automation, "new", 5.0)


def test_the_same_decision_again_changes_nothing() -> None:
    live = [plan(State.RECOMMENDED, State.APPROVED, State.RUNNING)]
    assert renewed(live, move("vm0"), move("vm1"), move("vm2")) == plans.Renewal((), None)


def test_a_newer_decision_supersedes_what_has_not_begun() -> None:
    live = [plan(State.RECOMMENDED, State.APPROVED, State.RUNNING)]
    renewal = renewed(live, move("vm1", "c"), move("vm2", "c"))
    (before,) = renewal.changed
    assert [each.state for each in before.actions] == [
        State.SUPERSEDED,
        State.SUPERSEDED,
        State.RUNNING,
    ]
    assert [each.problem for each in before.actions] == [
        "it is better to stay now",
        "plan new replaces it",
        "",
    ]
    assert renewal.plan is not None
    assert [each.proposal.vm_id for each in renewal.plan.actions] == ["vm1"], "vm2 moves already"


def test_only_automatic_plans_go_ahead_by_themselves() -> None:
    for level in Automation:
        made = renewed([], move("vm0"), policy=replace(POLICY, automation=level)).plan
        assert made is not None
        automatic = level is Automation.AUTOMATIC
        assert made.state == (State.APPROVED if automatic else State.RECOMMENDED)
        assert made.approved_by == (plans.BY_ITSELF if automatic else "")


def test_a_change_of_the_level_takes_effect_at_once() -> None:
    live = [plan(State.APPROVED, level=Automation.AUTOMATIC)]
    renewal = renewed(live, move("vm0"))
    assert renewal.changed[0].state == State.SUPERSEDED
    assert renewal.plan is not None
    assert renewal.plan.state == State.RECOMMENDED


def test_a_tenant_has_one_level_the_most_careful_of_its_policies() -> None:
    policies = [replace(POLICY, automation=level) for level in Automation]
    assert plans.automation(policies) is Automation.MANUAL
    assert plans.automation(policies[1:]) is Automation.APPROVED
    assert plans.automation([]) is Automation.MANUAL


class AnyHistory(RuleBasedStateMachine):
    """Two policies of one tenant decide about the same machines, in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: dict[str, Plan] = {}
        self.now = 0.0

    @rule(
        policy_id=st.sampled_from(["p", "q"]),
        wanted=st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from("bcd")),
        level=st.sampled_from(list(Automation)),
    )
    def decide(self, policy_id: str, wanted: dict[str, str], level: Automation) -> None:
        self.now += 1
        live = [each for each in self.plans.values() if each.live()]
        running = {a.proposal.vm_id for p in live for a in p.actions if a.state == State.RUNNING}
        decision = Decision(tuple(move(vm_id, cloud) for vm_id, cloud in wanted.items()))
        policy = replace(POLICY, policy_id=policy_id)
        renewal = plans.renew(live, decision, policy, level, f"plan{self.now}", self.now)
        for each in renewal.changed:
            assert each.generation == self.plans[each.plan_id].generation + 1
            self.plans[each.plan_id] = each
        if renewal.plan is not None:
            self.plans[renewal.plan.plan_id] = renewal.plan
        covered = {vm_id for each in self.plans.values() for vm_id in each.live()}
        assert set(wanted) <= covered, "what is decided is in a plan"
        still = {
            a.proposal.vm_id
            for p in self.plans.values()
            for a in p.actions
            if a.state == State.RUNNING
        }
        assert running == still, "what runs, runs on"

    @rule(vm_id=st.sampled_from("uvwxyz"), step=st.sampled_from(["begin", "done", "failed"]))
    def carry_out(self, vm_id: str, step: str) -> None:
        for each in list(self.plans.values()):
            if vm_id not in each.live():
                continue
            try:
                if step == "begin":
                    after = plans.begin(each, vm_id, "m", self.now)
                else:
                    after = plans.finish(each, vm_id, "no" * (step == "failed"), self.now)
            except errors.FailedPrecondition:
                continue
            self.plans[each.plan_id] = after

    @rule(data=st.data(), cancelled=st.booleans())
    def person(self, data: st.DataObject, cancelled: bool) -> None:
        live = [each for each in self.plans.values() if each.live()]
        if not live:
            return
        chosen = data.draw(st.sampled_from(live))
        if cancelled:
            after = plans.cancel(chosen, "asked for", self.now)
        else:
            try:
                after = plans.approve(chosen, "u", chosen.generation, self.now)
            except errors.FailedPrecondition:
                return
            assert chosen.automation is not Automation.MANUAL
        self.plans[chosen.plan_id] = after

    @invariant()
    def no_machine_is_in_two_live_plans(self) -> None:
        live = [vm_id for each in self.plans.values() for vm_id in each.live()]
        assert len(live) == len(set(live))

    @invariant()
    def a_plan_has_ended_when_nothing_of_it_is_live(self) -> None:
        for each in self.plans.values():
            assert (each.ended_at is not None) == (not each.live()) == (each.state in plans.FINAL)


TestAnyHistory = AnyHistory.TestCase
