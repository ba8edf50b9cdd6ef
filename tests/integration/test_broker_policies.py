"""The calls about policies and plans: who may make them, what is refused, what comes back."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.automation_world import (
    ACME,
    EAGER,
    FAST,
    GLOBEX,
    OPERATOR,
    SCOPE,
    World,
    automation_world,
)
from watari import errors, standing
from watari.rpc import client
from watari.v1 import broker_pb2

OTHER_OPERATOR = f"spiffe://{OSAKA}/operator/main"
NAMESAKE = f"spiffe://{OSAKA}/user/acme"


@pytest.fixture(scope="module")
def served(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A broker with room for two policies of a tenant, and three in all; clouds as they are."""
    with automation_world(federation, tmp_path_factory.mktemp("policies")) as world:
        world.automation = replace(
            FAST, interval_seconds=3600, policies_per_tenant_max=2, policies_max=3, watches_max=1
        )
        world.start_broker()
        yield world


@pytest.fixture
def world(served: World) -> Iterator[World]:
    """Without policies."""
    yield served
    for operator in (OPERATOR, OTHER_OPERATOR):
        for policy in served.policies(operator):
            served.delete(policy.policy_id, operator, policy.tenant)


def refused(kind: type[errors.WatariError], reason: str, call: object) -> errors.WatariError:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert caught.value.reason == reason
    assert caught.value.hint
    return caught.value


def test_a_policy_comes_back_with_its_delegation_and_generation(world: World) -> None:
    made = world.put()
    assert (made.tenant, made.tenant_domain, made.generation) == ("acme", TOKYO, 1)
    assert made.delegated_by == ACME
    assert list(made.delegation.to_clouds) == SCOPE.to_clouds
    assert world.policies() == [made]
    changed = world.put(generation=1, objective="evacuate")
    assert (changed.generation, changed.objective) == (2, "evacuate")
    assert changed.delegation.delegation_id != made.delegation.delegation_id


def test_a_change_may_keep_the_delegation_and_a_repetition_changes_nothing(world: World) -> None:
    made = world.put()
    policy = broker_pb2.Policy(**EAGER | {"generation": 1, "objective": "evacuate"})
    request = broker_pb2.PutPolicyRequest(request_id=str(uuid.uuid4()), policy=policy)
    changed = client.call(world.stub().PutPolicy, request).policy
    assert changed.delegation == made.delegation
    assert client.call(world.stub().PutPolicy, request).policy == changed
    policy.objective = "cost"
    again = broker_pb2.PutPolicyRequest(request_id=str(uuid.uuid4()), policy=policy)
    refused(
        errors.Conflict, "GENERATION_CONFLICT", lambda: client.call(world.stub().PutPolicy, again)
    )


def test_who_changes_what_acts_under_anothers_delegation_signs_one_too(world: World) -> None:
    world.put()
    policy = broker_pb2.Policy(
        **EAGER | {"generation": 1, "tenant": "acme", "objective": "latency"}
    )
    request = broker_pb2.PutPolicyRequest(request_id=str(uuid.uuid4()), policy=policy)
    error = refused(
        errors.Denied,
        "DELEGATION_INVALID",
        lambda: client.call(world.stub(OPERATOR).PutPolicy, request),
    )
    assert f"{ACME} signed the one that the policy has" in error.message
    request.delegation.CopyFrom(world.delegate(OPERATOR))
    changed = client.call(world.stub(OPERATOR).PutPolicy, request).policy
    assert (changed.delegated_by, changed.objective) == (OPERATOR, "latency")


def test_each_tenant_has_its_own_and_an_operator_those_of_its_tenants(world: World) -> None:
    world.put()
    globex = replace(SCOPE, tenant="globex")
    world.put(GLOBEX, world.delegate(GLOBEX, globex))
    world.put(NAMESAKE, world.delegate(NAMESAKE, replace(SCOPE, tenant_domain=OSAKA)))
    assert [one.tenant for one in world.policies()] == ["acme"]
    assert [one.tenant for one in world.policies(OPERATOR)] == ["acme", "globex"]
    assert [one.tenant_domain for one in world.policies(NAMESAKE)] == [OSAKA]
    refused(errors.Denied, "NOT_ALLOWED", lambda: world.put(GLOBEX, tenant="acme"))
    refused(errors.Denied, "NOT_ALLOWED", lambda: world.delete(caller=GLOBEX, tenant="acme"))
    world.delete("cheap", GLOBEX)
    assert [one.tenant for one in world.policies(OPERATOR)] == ["acme"]
    pages = broker_pb2.ListPoliciesRequest(page_size=1)
    first = client.call(world.stub(OTHER_OPERATOR).ListPolicies, pages)
    assert [one.tenant_domain for one in first.policies] == [OSAKA]
    assert not first.next_page_token


def test_an_operator_puts_a_policy_for_a_tenant_that_it_names(world: World) -> None:
    made = world.put(OPERATOR, tenant="acme")
    assert made.delegated_by == OPERATOR
    assert world.policies() == [made]
    refused(errors.InvalidArgument, "INVALID_FIELD", lambda: world.put(OPERATOR))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"signer": OPERATOR}, f"{OPERATOR} signed it, not {ACME}"),
        ({"delegate": f"spiffe://{OSAKA}/broker/main"}, "it is for spiffe://osaka.example/broker"),
        ({"life_seconds": -5}, "expired at"),
        ({"life_seconds": standing.LIFE_SECONDS_MAX + 60}, "good until"),
        ({"scope": replace(SCOPE, tenant="globex")}, "for machines of tenant globex"),
        ({"signer": NAMESAKE}, "for machines of tenant acme of tokyo.example"),
    ],
)
def test_a_delegation_that_is_not_the_callers_to_this_broker_is_refused(
    world: World, changes: dict[str, object], why: str
) -> None:
    document = world.delegate(**changes)  # type: ignore[arg-type]
    error = refused(errors.Denied, "DELEGATION_INVALID", lambda: world.put(delegation=document))
    assert why in error.message
    assert world.policies() == []


def test_a_new_policy_needs_a_delegation(world: World) -> None:
    request = broker_pb2.PutPolicyRequest(
        request_id=str(uuid.uuid4()), policy=broker_pb2.Policy(**EAGER)
    )
    refused(
        errors.Denied,
        "DELEGATION_INVALID",
        lambda: client.call(world.stub().PutPolicy, request),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "happiness"},
        {"automation": 0},
        {"policy_id": "no name"},
        {"mode": 77},
        {"patience": float("nan")},
        {"requirements": broker_pb2.Requirements(clouds=["Not A Cloud"])},
        {"weights": broker_pb2.Weights(price=-1)},
        {"schedule": [broker_pb2.ScheduleWindow(from_minute=1, to_minute=9999, clouds=["a"])]},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(world: World, changes: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidArgument):
        world.put(**changes)
    assert world.policies() == []


def test_there_are_as_many_policies_as_the_settings_say(world: World) -> None:
    world.put()
    world.put(policy_id="second")
    error = refused(errors.Exhausted, "TOO_MANY_POLICIES", lambda: world.put(policy_id="third"))
    assert "tenant acme" in error.message
    world.put(GLOBEX, world.delegate(GLOBEX, replace(SCOPE, tenant="globex")))
    error = refused(
        errors.Exhausted,
        "TOO_MANY_POLICIES",
        lambda: world.put(NAMESAKE, world.delegate(NAMESAKE, replace(SCOPE, tenant_domain=OSAKA))),
    )
    assert "the broker has 3" in error.message


@pytest.mark.parametrize("call", ["GetPlan", "ApprovePlan", "CancelPlan"])
def test_a_plan_that_is_not_there_is_not_found(world: World, call: str) -> None:
    request = getattr(broker_pb2, f"{call}Request")(plan_id=str(uuid.uuid4()))
    refused(
        errors.NotFound,
        "RECORD_NOT_FOUND",
        lambda: client.call(getattr(world.stub(), call), request),
    )


def test_without_a_path_policies_are_refused(federation: Federation, tmp_path: Path) -> None:
    with automation_world(federation, tmp_path) as off:
        process = off.broker_process()
        config = off.folder / "broker.toml"
        text = config.read_text()
        config.write_text(text.replace(f'path = "{off.path}"\n', ""))
        process.start()
        refused(errors.FailedPrecondition, "AUTOMATION_OFF", off.policies)
        refused(errors.FailedPrecondition, "AUTOMATION_OFF", off.put)
