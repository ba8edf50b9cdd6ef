"""Whose machines a caller may see, and what a delegation adds: values only."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from manager import ownership
from manager.callers import Caller
from manager.delegations import Mandate
from manager.ownership import EVERYTHING, Tenant, View
from manager.saga.records import Record
from manager.saga.states import State
from watari import delegation, errors
from watari.identity import Role, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OWN, FOREIGN = "tokyo.example", "osaka.example"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
MIGRATION_ID = str(uuid.uuid4())
VM_ID = str(uuid.uuid4())


def test_an_operator_sees_everything_of_its_own_provider() -> None:
    assert ownership.view_of(SpiffeId(OWN, Role.OPERATOR, "main"), OWN) == EVERYTHING


@pytest.mark.parametrize("domain", [OWN, FOREIGN])
def test_a_user_sees_exactly_its_tenants_part_wherever_it_comes_from(domain: str) -> None:
    view = ownership.view_of(SpiffeId(domain, Role.USER, "acme"), OWN)
    assert view == View(Tenant(domain, "acme"))


@pytest.mark.parametrize(
    "caller",
    [SpiffeId(FOREIGN, Role.OPERATOR, "main")]
    + [
        SpiffeId(domain, role, "acme")
        for domain in (OWN, FOREIGN)
        for role in Role
        if role not in (Role.OPERATOR, Role.USER)
    ],
    ids=str,
)
def test_nobody_else_sees_anything(caller: SpiffeId) -> None:
    with pytest.raises(errors.Denied) as caught:
        ownership.view_of(caller, OWN)
    assert caught.value.reason == "NOT_ALLOWED"


def test_what_arrives_is_a_tenant_of_whoever_the_source_says_else_of_the_source() -> None:
    manager = SpiffeId(FOREIGN, Role.MANAGER, "main")
    assert ownership.domain_of_arrival("", manager) == FOREIGN
    assert ownership.domain_of_arrival(OWN, manager) == OWN


def mandate(expires_at: datetime = NOW + timedelta(minutes=1), *to_clouds: str) -> Mandate:
    """What a broker may do."""
    made = common_pb2.Delegation(
        migration_id=MIGRATION_ID, vm_id=VM_ID, from_cloud="tokyo", to_clouds=to_clouds
    )
    made.expires_at.FromDatetime(expires_at)
    return Mandate(made)


def test_a_mandate_is_over_at_its_moment() -> None:
    mandate(NOW + timedelta(seconds=1)).require_alive(NOW)
    with pytest.raises(errors.Denied, match="expired at 2026-03-01T00:00:00"):
        mandate(NOW).require_alive(NOW)


def test_a_mandate_is_no_standing_permission() -> None:
    longest = NOW + timedelta(seconds=delegation.LIFE_SECONDS_MAX)
    mandate(longest).require_alive(NOW)
    with pytest.raises(errors.Denied, match="good until") as caught:
        mandate(longest + timedelta(seconds=1)).require_alive(NOW)
    assert caught.value.hint == "at most 86400 seconds from now"


def test_an_end_that_is_no_moment_is_refused() -> None:
    wrong = mandate()
    wrong.delegation.expires_at.seconds = 2**60
    with pytest.raises(errors.Denied, match="no moment"):
        wrong.require_alive(NOW)


def test_a_mandate_names_one_machine_and_its_destinations() -> None:
    anywhere, somewhere = mandate(), mandate(NOW, "osaka", "sendai")
    anywhere.require_vm(VM_ID)
    anywhere.require_destination("kyoto")
    somewhere.require_destination("sendai")
    for name in ("web-1", str(uuid.uuid4())):
        with pytest.raises(errors.Denied, match="it is for machine"):
            anywhere.require_vm(name)
    with pytest.raises(errors.Denied, match="osaka, sendai, not to kyoto"):
        somewhere.require_destination("kyoto")


def migration(vm_id: str = VM_ID, migration_id: str = MIGRATION_ID) -> Record:
    """One that the tenant asked for."""
    return Record(
        migration_id=migration_id,
        vm_id=vm_id,
        vm_name="web-1",
        tenant_domain=OWN,
        tenant="acme",
        host_id="host1",
        to_cloud="osaka",
        to_manager="spiffe://osaka.example/manager/main",
        state=State.COPYING,
        generation=1,
        source_epoch=3,
        requested_by=f"spiffe://{OWN}/user/acme",
        request=manager_pb2.MigrateVmRequest(),
        created_at=0,
        state_changed_at=0,
    )


def test_a_person_needs_no_mandate_and_a_mandate_concerns_one_migration_of_one_machine() -> None:
    person = SpiffeId(OWN, Role.USER, "acme")
    view = ownership.view_of(person, OWN)
    assert Caller(person, view).concerns(migration("any machine", "any migration"))
    assert Caller(person, view, mandate()).concerns(migration())
    assert not Caller(person, view, mandate()).concerns(migration(vm_id="another machine"))
    assert not Caller(person, view, mandate()).concerns(migration(migration_id="another one"))
