"""What a broker may do at a manager: what the tenant's delegation says, and nothing else."""

import uuid

import pytest

from tests.conftest import HUB, OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from watari import delegation, errors
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2, manager_pb2_grpc

BROKER = f"spiffe://{HUB}/broker/main"
OTHER_BROKER = f"spiffe://{OSAKA}/broker/main"
ACME = f"spiffe://{TOKYO}/user/acme"
GLOBEX = f"spiffe://{TOKYO}/user/globex"
NAMESAKE = f"spiffe://{OSAKA}/user/acme"
OPERATOR = f"spiffe://{TOKYO}/operator/main"
OTHER_VM = "6f1f2d2e-0000-4000-8000-000000000002"


@pytest.fixture
def tokyo(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """tokyo, which admits two brokers, with two machines of acme."""
    cloud, osaka = clouds
    for each in (cloud, osaka):
        each.stop()
        each.change(brokers=(BROKER, OTHER_BROKER))
        each.start()
    cloud.agent.add(OTHER_VM, "web-2")
    eventually(lambda: len(cloud.vms()) == 2, "both are seen")
    return cloud


def delegate(
    cloud: Cloud, signer: str = ACME, *, life_seconds: int = 60, **changes: object
) -> common_pb2.SignedDocument:
    """web-1 delegated to the broker, with any of the fields changed."""
    fields = {
        "migration_id": str(uuid.uuid4()),
        "delegate": BROKER,
        "vm_id": VM,
        "from_cloud": cloud.cloud_id,
    }
    now = cloud.federation.clock.now()
    return delegation.sign(
        cloud.federation.party(signer), now, life_seconds=life_seconds, **fields | changes
    )


def get_vm(
    cloud: Cloud,
    shown: common_pb2.SignedDocument | None,
    name: str = VM,
    broker: str = BROKER,
) -> manager_pb2.Vm:
    """A machine as a broker sees it."""
    request = manager_pb2.GetVmRequest(vm=name, delegation=shown)
    return client.call(cloud.seen_by(broker).GetVm, request).vm


def migrate(
    cloud: Cloud,
    shown: common_pb2.SignedDocument | None,
    broker: str = BROKER,
    **changes: object,
) -> manager_pb2.Migration:
    """What a broker asks for: what the delegation says, with any of the fields changed."""
    signed = common_pb2.Delegation.FromString(shown.payload if shown else b"")
    fields = {"migration_id": signed.migration_id, "vm": VM, "to_cloud": "osaka"} | changes
    request = manager_pb2.MigrateVmRequest(delegation=shown, **fields)
    return client.call(cloud.seen_by(broker).MigrateVm, request).migration


def get_migration(
    cloud: Cloud,
    shown: common_pb2.SignedDocument | None,
    migration_id: str = "",
    broker: str = BROKER,
) -> manager_pb2.Migration:
    """The delegated migration, or another, as a broker sees it."""
    signed = common_pb2.Delegation.FromString(shown.payload if shown else b"")
    request = manager_pb2.GetMigrationRequest(
        migration_id=migration_id or signed.migration_id, delegation=shown
    )
    return client.call(cloud.seen_by(broker).GetMigration, request).migration


def nothing_happened(cloud: Cloud) -> bool:
    """Whether the cloud has no migration."""
    stub = cloud.operator.ListMigrations
    return not client.call(stub, manager_pb2.ListMigrationsRequest()).migrations


@pytest.mark.parametrize("signer", [ACME, OPERATOR])
def test_a_broker_moves_what_was_delegated_on_the_signers_word(tokyo, signer):
    shown = delegate(tokyo, signer)
    assert get_vm(tokyo, shown).name == "web-1"
    migration_id = migrate(tokyo, shown).migration_id
    assert migrate(tokyo, shown).migration_id == migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert get_migration(tokyo, shown).requested_by == signer


def test_a_tenant_delegates_its_machine_in_another_providers_cloud(tokyo, clouds):
    _, osaka = clouds
    tokyo.wait_state(migrate(tokyo, delegate(tokyo)).migration_id, "SUCCEEDED")
    back = delegate(osaka)
    osaka.wait_state(migrate(osaka, back, to_cloud="tokyo").migration_id, "SUCCEEDED")
    assert tokyo.vms()[VM].tenant_domain == TOKYO


def test_without_a_delegation_a_broker_sees_and_moves_nothing(tokyo):
    calls = (
        lambda: get_vm(tokyo, None),
        lambda: migrate(tokyo, None, migration_id=str(uuid.uuid4())),
        lambda: get_migration(tokyo, None, str(uuid.uuid4())),
    )
    for call in calls:
        with pytest.raises(errors.Denied, match="shows none") as caught:
            call()
        assert caught.value.reason == "DELEGATION_INVALID"
        assert caught.value.hint
    assert nothing_happened(tokyo)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"delegate": OTHER_BROKER}, f"it is for {OTHER_BROKER}"),
        ({"from_cloud": "osaka"}, "of cloud osaka, not of tokyo"),
        ({"vm_id": OTHER_VM}, f"it is for machine {OTHER_VM}"),
        ({"to_clouds": ["sendai", "kyoto"]}, "go to sendai, kyoto, not to osaka"),
        ({"life_seconds": -1}, "expired at"),
        ({"life_seconds": delegation.LIFE_SECONDS_MAX + 60}, "good until"),
        ({"signer": f"spiffe://{OSAKA}/operator/main"}, "runs another provider"),
        ({"signer": f"spiffe://{TOKYO}/manager/main"}, "signs delegations"),
        ({"signer": BROKER}, "signs delegations"),
        ({"signer": "spiffe://stranger.example/user/acme"}, "stranger"),
    ],
)
def test_each_way_in_which_a_delegation_does_not_cover_a_migration(tokyo, changes, why):
    with pytest.raises(errors.Denied, match=why) as caught:
        migrate(tokyo, delegate(tokyo, **changes))
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.hint
    assert nothing_happened(tokyo)


def test_a_delegation_is_for_one_migration_and_one_machine(tokyo):
    shown = delegate(tokyo)
    for changes, why in (
        ({"migration_id": str(uuid.uuid4())}, "it is for migration"),
        ({"vm": OTHER_VM}, "it is for machine"),
        ({"vm": "web-1"}, "it is for machine"),
    ):
        with pytest.raises(errors.Denied, match=why):
            migrate(tokyo, shown, **changes)
    for name in (OTHER_VM, "web-2", "web-1", "nothing"):
        with pytest.raises(errors.Denied, match="it is for machine"):
            get_vm(tokyo, shown, name)
    with pytest.raises(errors.Denied, match="it is for migration"):
        get_migration(tokyo, shown, str(uuid.uuid4()))
    assert nothing_happened(tokyo)


def test_an_altered_delegation_is_refused(tokyo):
    shown = delegate(tokyo)
    shown.payload = delegate(tokyo, vm_id=OTHER_VM).payload
    with pytest.raises(errors.Denied, match="signature") as caught:
        migrate(tokyo, shown, vm=OTHER_VM)
    assert caught.value.reason == "DELEGATION_INVALID"


@pytest.mark.parametrize("signer", [GLOBEX, NAMESAKE])
def test_who_does_not_own_the_machine_delegates_nothing(tokyo, signer):
    shown = delegate(tokyo, signer)
    for call in (get_vm, migrate):
        with pytest.raises(errors.NotFound) as caught:
            call(tokyo, shown)
        assert caught.value.reason == "VM_NOT_FOUND"
    assert nothing_happened(tokyo)


def test_another_broker_cannot_replay_a_delegation(tokyo):
    shown = delegate(tokyo)
    migrate(tokyo, shown)
    for call in (get_vm, migrate, get_migration):
        with pytest.raises(errors.Denied, match=f"it is for {BROKER}"):
            call(tokyo, shown, broker=OTHER_BROKER)


def test_a_broker_that_the_operator_has_not_admitted_gets_nothing_with_any_delegation(tokyo):
    tokyo.stop()
    tokyo.change(brokers=(OTHER_BROKER,))
    tokyo.start()
    shown = delegate(tokyo)
    for call in (get_vm, migrate, get_migration):
        with pytest.raises(errors.Denied, match="not admitted") as caught:
            call(tokyo, shown)
        assert caught.value.reason == "NOT_ALLOWED"
        assert "manager.brokers" in caught.value.hint
    assert nothing_happened(tokyo)


def test_what_began_in_time_may_be_looked_at_and_repeated_later(tokyo):
    migration_id = str(uuid.uuid4())
    migrate(tokyo, delegate(tokyo, migration_id=migration_id))
    tokyo.wait_state(migration_id, "SUCCEEDED")
    late = delegate(tokyo, migration_id=migration_id, life_seconds=-60)
    assert get_migration(tokyo, late).migration_id == migration_id
    assert migrate(tokyo, late).migration_id == migration_id
    with pytest.raises(errors.Denied, match="expired at"):
        get_vm(tokyo, late)
    with pytest.raises(errors.Denied, match="expired at"):
        migrate(tokyo, delegate(tokyo, life_seconds=-60))


def test_the_tenant_may_repeat_what_its_broker_asked(tokyo):
    shown = delegate(tokyo)
    migration_id = migrate(tokyo, shown).migration_id
    request = manager_pb2.MigrateVmRequest(migration_id=migration_id, vm=VM, to_cloud="osaka")
    again = client.call(tokyo.seen_by(ACME).MigrateVm, request).migration
    assert (again.migration_id, again.requested_by) == (migration_id, ACME)
    with pytest.raises(errors.AlreadyExists):
        client.call(tokyo.seen_by(OPERATOR).MigrateVm, request)


def test_a_delegation_shows_no_migration_of_another_machine(tokyo):
    migration_id = str(uuid.uuid4())
    request = manager_pb2.MigrateVmRequest(migration_id=migration_id, vm=OTHER_VM, to_cloud="osaka")
    client.call(tokyo.seen_by(ACME).MigrateVm, request)
    shown = delegate(tokyo, migration_id=migration_id)
    with pytest.raises(errors.NotFound) as caught:
        get_migration(tokyo, shown)
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
    with pytest.raises(errors.AlreadyExists) as reused:
        migrate(tokyo, shown)
    assert reused.value.reason == "ID_REUSED"


@pytest.mark.parametrize("person", [ACME, OPERATOR])
def test_a_person_shows_no_delegation(tokyo, person):
    with pytest.raises(errors.InvalidArgument, match="only a broker"):
        migrate(tokyo, delegate(tokyo), broker=person)


def test_a_broker_calls_nothing_else(tokyo):
    stub = tokyo.seen_by(BROKER)
    accounting = manager_pb2_grpc.AccountingServiceStub(tokyo.channel(BROKER))
    for method, request in (
        (stub.ListMigrations, manager_pb2.ListMigrationsRequest()),
        (stub.CancelMigration, manager_pb2.CancelMigrationRequest()),
        (stub.ListInventories, manager_pb2.ListInventoriesRequest()),
        (accounting.ListUsageRecords, manager_pb2.ListUsageRecordsRequest()),
    ):
        with pytest.raises(errors.Denied) as caught:
            client.call(method, request)
        assert caught.value.reason == "NOT_ALLOWED"
