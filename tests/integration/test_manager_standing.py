"""What a broker may do at a manager under a standing delegation, and nothing else."""

import contextlib
import time
import uuid
from dataclasses import replace

import pytest

from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from tests.support.standing import (
    ACME,
    BROKER,
    GLOBEX,
    GLOBEX_VM,
    OPERATOR,
    OTHER_BROKER,
    OTHER_VM,
    SCOPE,
    admitting,
    delegate,
    estimate,
    get_migration,
    get_vm,
    listed,
    migrate,
    nothing_happened,
)
from watari import delegation, errors, standing
from watari.identity import SpiffeId
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2


@pytest.fixture
def tokyo(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """tokyo, which admits two brokers, with two machines of acme and one of globex."""
    return admitting(clouds)


def refused(call: object, why: str) -> None:
    """Denied with what is wrong and what to do about it."""
    with pytest.raises(errors.Denied, match=why) as caught:
        call()  # type: ignore[operator]
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.hint


@pytest.mark.parametrize("signer", [ACME, OPERATOR])
def test_a_broker_sees_and_moves_the_tenants_machines_and_no_others(tokyo, signer):
    shown = delegate(tokyo, signer)
    assert listed(tokyo, shown) == ["web-1", "web-2"]
    assert get_vm(tokyo, shown, OTHER_VM).name == "web-2"
    assert estimate(tokyo, shown).total_bytes > 0
    for call in (get_vm, estimate):
        with pytest.raises(errors.NotFound):
            call(tokyo, shown, GLOBEX_VM)
    with pytest.raises(errors.NotFound):
        migrate(tokyo, shown, vm=GLOBEX_VM)
    for vm in (VM, OTHER_VM):
        migration = migrate(tokyo, shown, vm=vm)
        tokyo.wait_state(migration.migration_id, "SUCCEEDED")
        assert get_migration(tokyo, shown, migration.migration_id).requested_by == signer
    used = [entry for entry in tokyo.audit() if entry.action == "delegation.used"]
    assert [entry.actor for entry in used] == [BROKER] * 2
    said = common_pb2.StandingDelegation.FromString(shown.payload)
    assert {entry.details["standing_delegation"] for entry in used} == {said.delegation_id}


def test_it_goes_with_the_tenants_machine_to_another_provider_and_back(tokyo, clouds):
    _, osaka = clouds
    shown = delegate(tokyo)
    tokyo.wait_state(migrate(tokyo, shown).migration_id, "SUCCEEDED")
    assert listed(osaka, shown) == ["web-1"]
    osaka.wait_state(migrate(osaka, shown, to_cloud="tokyo").migration_id, "SUCCEEDED")
    assert listed(tokyo, shown) == ["web-1", "web-2"]


def test_machines_that_are_named_are_all_there_are(tokyo):
    shown = delegate(tokyo, scope=replace(SCOPE, vm_ids=[OTHER_VM, GLOBEX_VM]))
    assert listed(tokyo, shown) == ["web-2"]
    for call in (
        lambda: get_vm(tokyo, shown),
        lambda: estimate(tokyo, shown),
        lambda: migrate(tokyo, shown),
    ):
        refused(call, f"of which {VM} is none")
    with pytest.raises(errors.NotFound):
        migrate(tokyo, shown, vm=GLOBEX_VM)
    assert nothing_happened(tokyo)


def test_moves_within_the_window_are_counted_over_restarts_and_documents(tokyo, clouds):
    _, osaka = clouds
    once = replace(SCOPE, moves_max=1)
    shown = delegate(tokyo, scope=once)
    first = migrate(tokyo, shown)
    tokyo.wait_state(first.migration_id, "SUCCEEDED")
    osaka.wait_state(migrate(osaka, shown, to_cloud="tokyo").migration_id, "SUCCEEDED")
    refused(lambda: migrate(tokyo, shown), "leave 1 times within 1 day")
    tokyo.stop()
    tokyo.start()
    refused(lambda: migrate(tokyo, shown), "leave 1 times within 1 day")
    refused(lambda: migrate(tokyo, delegate(tokyo, scope=once)), "leave 1 times within 1 day")
    # What has begun is repeated all the same; the machine is free, and its tenant may move it.
    again = migrate(tokyo, shown, migration_id=first.migration_id)
    assert again.state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    assert tokyo.vms()[VM].migration_id == ""
    request = manager_pb2.MigrateVmRequest(migration_id=str(uuid.uuid4()), vm=VM, to_cloud="osaka")
    client.call(tokyo.seen_by(ACME).MigrateVm, request)


def test_a_manager_on_postgresql_counts_and_remembers_as_well(tokyo, clouds, postgresql_server):
    _, osaka = clouds
    tokyo.stop()
    tokyo.change(store=postgresql_server.settings())
    tokyo.start()
    eventually(lambda: len(tokyo.vms()) == 3, "all are seen")
    shown = delegate(tokyo, scope=replace(SCOPE, moves_max=1))
    tokyo.wait_state(migrate(tokyo, shown).migration_id, "SUCCEEDED")
    osaka.wait_state(migrate(osaka, shown, to_cloud="tokyo").migration_id, "SUCCEEDED")
    refused(lambda: migrate(tokyo, shown), "leave 1 times within 1 day")
    assert migrate(tokyo, shown, vm=OTHER_VM).vm_id == OTHER_VM


def test_only_moves_of_brokers_count(tokyo, clouds):
    _, osaka = clouds
    shown = delegate(tokyo, scope=replace(SCOPE, moves_max=1))
    tokyo.wait_state(tokyo.migrate(VM, "osaka").migration_id, "SUCCEEDED")
    osaka.wait_state(osaka.migrate(VM, "tokyo").migration_id, "SUCCEEDED")
    tokyo.wait_state(migrate(tokyo, shown).migration_id, "SUCCEEDED")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"delegate": OTHER_BROKER}, f"it is for {OTHER_BROKER}"),
        ({"scope": replace(SCOPE, from_clouds=["osaka"])}, "of osaka, not of tokyo"),
        ({"scope": replace(SCOPE, to_clouds=["sendai"])}, "go to sendai, not to osaka"),
        ({"life_seconds": -1}, "expired at"),
        ({"life_seconds": standing.LIFE_SECONDS_MAX + 60}, "good until"),
        ({"signer": GLOBEX}, "signed it, for machines of tenant acme"),
        ({"signer": f"spiffe://{OSAKA}/user/acme"}, "signed it, for machines of tenant acme"),
        ({"signer": f"spiffe://{OSAKA}/operator/main"}, "signed it, for machines of tenant acme"),
        ({"signer": f"spiffe://{TOKYO}/manager/main"}, "signed it, for machines of tenant acme"),
        ({"signer": BROKER}, "signed it, for machines of tenant acme"),
        ({"scope": replace(SCOPE, to_clouds=[])}, "clouds in to_clouds"),
        ({"scope": replace(SCOPE, moves_max=0)}, "moves_max"),
        ({"scope": replace(SCOPE, window_seconds=60)}, "window_seconds"),
        ({"scope": replace(SCOPE, vm_ids=["web-1"])}, "vm_ids"),
    ],
)
def test_each_way_in_which_it_does_not_cover_a_migration(tokyo, changes, why):
    refused(lambda: migrate(tokyo, delegate(tokyo, **changes)), why)
    assert nothing_happened(tokyo)


def test_an_operator_of_another_provider_delegates_nothing_there(clouds, tokyo):
    _, osaka = clouds
    refused(lambda: listed(osaka, delegate(tokyo, OPERATOR)), "who runs another provider")


def test_another_broker_cannot_use_it_nor_one_that_is_not_admitted(tokyo):
    shown = delegate(tokyo)
    migration_id = migrate(tokyo, shown).migration_id
    calls = [
        lambda: listed(tokyo, shown, OTHER_BROKER),
        lambda: get_vm(tokyo, shown, broker=OTHER_BROKER),
        lambda: migrate(tokyo, shown, OTHER_BROKER),
        lambda: get_migration(tokyo, shown, migration_id, OTHER_BROKER),
    ]
    for call in calls:
        refused(call, f"it is for {BROKER}")
    tokyo.stop()
    tokyo.change(brokers=())
    tokyo.start()
    for call in (lambda: listed(tokyo, shown), lambda: migrate(tokyo, shown, vm=OTHER_VM)):
        with pytest.raises(errors.Denied, match="not admitted"):
            call()


def test_a_delegation_of_one_migration_shows_no_list_and_no_estimate(tokyo):
    now = tokyo.federation.clock.now()
    shown = delegation.sign(
        tokyo.federation.party(ACME),
        now,
        migration_id=str(uuid.uuid4()),
        delegate=BROKER,
        vm_id=VM,
        from_cloud="tokyo",
    )
    refused(lambda: listed(tokyo, shown), "it is for one migration")
    refused(lambda: estimate(tokyo, shown), "it is for one migration")
    refused(lambda: listed(tokyo, None), "shows none")


def test_an_altered_one_is_refused_and_names_are_no_machines(tokyo):
    shown = delegate(tokyo)
    refused(lambda: get_vm(tokyo, shown, "web-1"), "by their UUID")
    shown.payload = delegate(tokyo, scope=replace(SCOPE, moves_max=100)).payload
    refused(lambda: migrate(tokyo, shown), "signature")


def test_it_shows_only_migrations_that_it_let_begin(tokyo):
    by_hand = tokyo.migrate(VM, "osaka").migration_id
    shown = delegate(tokyo)
    begun = migrate(tokyo, shown, vm=OTHER_VM).migration_id
    assert get_migration(tokyo, shown, begun).vm_id == OTHER_VM
    with pytest.raises(errors.NotFound) as caught:
        get_migration(tokyo, shown, by_hand)
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
    other = delegate(tokyo, delegate=OTHER_BROKER)
    with pytest.raises(errors.NotFound):
        get_migration(tokyo, other, begun, OTHER_BROKER)


def test_a_document_outlives_the_certificate_where_it_was_seen_in_time(tokyo, clouds):
    _, osaka = clouds
    federation = tokyo.federation
    signer = SpiffeId.parse(ACME)
    for seconds in (2, 10, 60):  # on a machine that is slow it has to be seen in more time
        short = federation.issue(signer, federation.authorities[TOKYO], valid_seconds=seconds)
        shown = delegate(tokyo, short)
        with contextlib.suppress(errors.Denied):
            assert listed(tokyo, shown) == ["web-1", "web-2"]
            break
    time.sleep((short.current().validity[1] - federation.clock.now()).total_seconds() + 0.5)
    tokyo.stop()
    tokyo.start()
    assert listed(tokyo, shown) == ["web-1", "web-2"]
    tokyo.wait_state(migrate(tokyo, shown).migration_id, "SUCCEEDED")
    # osaka sees it for the first time, and nobody can tell when it was signed.
    refused(lambda: listed(osaka, shown), "valid")
