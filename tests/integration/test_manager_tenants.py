"""Whose machines a caller sees and moves: tenants of two providers, and operators."""

import uuid

import grpc
import pytest

from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from tests.support.scripted_agent import HANGS
from watari import errors
from watari.rpc import client
from watari.v1 import manager_pb2, manager_pb2_grpc

ACME = f"spiffe://{TOKYO}/user/acme"
GLOBEX = f"spiffe://{TOKYO}/user/globex"
NAMESAKE = f"spiffe://{OSAKA}/user/acme"
"""A tenant of another provider with the same name."""

GLOBEX_VM = "6f1f2d2e-0000-4000-8000-000000000002"
OPERATORS = (f"spiffe://{TOKYO}/operator/main", f"spiffe://{OSAKA}/operator/main")


@pytest.fixture
def pair(clouds: tuple[Cloud, Cloud]) -> tuple[Cloud, Cloud]:
    """tokyo with acme's web-1 and globex's, which has the same name, and osaka."""
    tokyo, osaka = clouds
    tokyo.agent.add(GLOBEX_VM, "web-1", tenant="globex")
    eventually(lambda: len(tokyo.vms()) == 2, "both are seen")
    return tokyo, osaka


def vm(cloud: Cloud, caller: str, name: str) -> manager_pb2.Vm:
    """A machine as somebody sees it."""
    return client.call(cloud.seen_by(caller).GetVm, manager_pb2.GetVmRequest(vm=name)).vm


def vms(cloud: Cloud, caller: str) -> list[str]:
    """Every machine that somebody sees, one a page."""
    request, found = manager_pb2.ListVmsRequest(page_size=1), []
    while True:
        page = client.call(cloud.seen_by(caller).ListVms, request)
        assert len(page.vms) <= 1
        found += [each.vm_id for each in page.vms]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def migrate(
    cloud: Cloud, caller: str, name: str, to_cloud: str, migration_id: str = ""
) -> manager_pb2.Migration:
    """Ask for a migration as somebody."""
    request = manager_pb2.MigrateVmRequest(
        migration_id=migration_id or str(uuid.uuid4()), vm=name, to_cloud=to_cloud
    )
    return client.call(cloud.seen_by(caller).MigrateVm, request).migration


def migrations(cloud: Cloud, caller: str) -> list[str]:
    """Every migration that somebody sees."""
    request = manager_pb2.ListMigrationsRequest()
    answer = client.call(cloud.seen_by(caller).ListMigrations, request)
    return [each.migration_id for each in answer.migrations]


def usage(cloud: Cloud, caller: str, tenant: str = "") -> list[str]:
    """The machines of every usage record that somebody sees."""
    stub = manager_pb2_grpc.AccountingServiceStub(cloud.channel(caller))
    request = manager_pb2.ListUsageRecordsRequest(tenant=tenant)
    return [each.vm_id for each in client.call(stub.ListUsageRecords, request).records]


def refusal(method: "grpc.UnaryUnaryMultiCallable[object, object]", request: object) -> tuple:
    """All that an error tells."""
    with pytest.raises(errors.WatariError) as caught:
        client.call(method, request)
    error = caught.value
    return error.code, error.reason, error.message, error.hint, error.metadata


def test_a_tenant_sees_its_own_machines_and_a_shared_name_is_not_ambiguous(pair):
    tokyo, _ = pair
    assert vms(tokyo, ACME) == [VM]
    assert vms(tokyo, GLOBEX) == [GLOBEX_VM]
    assert vms(tokyo, NAMESAKE) == []
    assert vm(tokyo, ACME, "web-1").vm_id == VM
    found = vm(tokyo, GLOBEX, "web-1")
    assert (found.vm_id, found.tenant_domain, found.tenant) == (GLOBEX_VM, TOKYO, "globex")
    assert vms(tokyo, OPERATORS[0]) == [VM, GLOBEX_VM]
    with pytest.raises(errors.FailedPrecondition) as caught:
        vm(tokyo, OPERATORS[0], "web-1")
    assert caught.value.reason == "VM_NAME_AMBIGUOUS"


def test_a_foreign_operator_is_let_nowhere_near(pair):
    tokyo, _ = pair
    for stub in (tokyo.seen_by(OPERATORS[1]).ListVms, tokyo.seen_by(OPERATORS[1]).ListInventories):
        with pytest.raises(errors.Denied) as caught:
            client.call(stub, manager_pb2.ListVmsRequest())
        assert caught.value.reason == "NOT_ALLOWED"


@pytest.mark.parametrize("stranger", [GLOBEX, NAMESAKE])
def test_anothers_machine_answers_like_one_that_does_not_exist(pair, stranger):
    tokyo, _ = pair
    stub, absent = tokyo.seen_by(stranger), GLOBEX_VM.replace("2", "9")
    theirs = VM if stranger == GLOBEX else GLOBEX_VM
    answers = []
    for name in (theirs, absent):
        requests = (
            (stub.GetVm, manager_pb2.GetVmRequest(vm=name)),
            (
                stub.EstimateMigration,
                manager_pb2.EstimateMigrationRequest(vm=name, to_cloud="osaka"),
            ),
            (
                stub.MigrateVm,
                manager_pb2.MigrateVmRequest(
                    migration_id=str(uuid.uuid4()), vm=name, to_cloud="osaka"
                ),
            ),
        )
        answers.append(
            [
                tuple(str(part).replace(name, "ID") for part in refusal(*request))
                for request in requests
            ]
        )
    assert answers[0] == answers[1]
    assert all("VM_NOT_FOUND" in answer for answer in answers[0])
    assert not migrations(tokyo, OPERATORS[0])


def test_a_machine_that_went_is_not_told_of_to_others(pair):
    tokyo, _ = pair
    started = migrate(tokyo, ACME, "web-1", "osaka")
    tokyo.wait_state(started.migration_id, "SUCCEEDED")
    with pytest.raises(errors.NotFound) as caught:
        vm(tokyo, ACME, VM)
    assert "handed over to cloud osaka" in caught.value.hint
    with pytest.raises(errors.NotFound) as caught:
        vm(tokyo, GLOBEX, VM)
    assert "osaka" not in str(caught.value)


def test_anothers_migration_answers_like_one_that_does_not_exist(pair):
    tokyo, _ = pair
    tokyo.agent.script.append(HANGS)
    migration_id = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "COPYING")
    stub, absent = tokyo.seen_by(GLOBEX), str(uuid.uuid4())
    for method, kind in (
        (stub.GetMigration, manager_pb2.GetMigrationRequest),
        (stub.CancelMigration, manager_pb2.CancelMigrationRequest),
        (stub.SetMigrationLimit, manager_pb2.SetMigrationLimitRequest),
    ):
        told = []
        for each in (migration_id, absent):
            answer = refusal(method, kind(migration_id=each))
            told.append(tuple(str(part).replace(each, "ID") for part in answer))
        assert told[0] == told[1]
        assert told[0][1] == "MIGRATION_NOT_FOUND"
    request = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
    with (
        pytest.raises(errors.NotFound),
        client.stream(stub.WatchMigration, request, timeout_seconds=60) as changes,
    ):
        next(changes)
    assert tokyo.migration(migration_id).state == manager_pb2.MIGRATION_STATE_COPYING
    assert not tokyo.migration(migration_id).cancel_requested


def test_an_id_that_another_used_tells_that_and_no_more(pair):
    tokyo, _ = pair
    migration_id = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    with pytest.raises(errors.AlreadyExists) as caught:
        migrate(tokyo, GLOBEX, "web-1", "osaka", migration_id)
    assert caught.value.reason == "ID_REUSED"
    for secret in ("acme", VM, "COPYING"):
        assert secret not in str(caught.value)
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert vms(tokyo, GLOBEX) == [GLOBEX_VM]


def test_a_tenant_moves_watches_slows_down_and_cancels_its_own(pair):
    tokyo, _ = pair
    tokyo.agent.script.append(HANGS)
    migration_id = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    stub = tokyo.seen_by(ACME)
    tokyo.wait_state(migration_id, "COPYING")
    limit = manager_pb2.SetMigrationLimitRequest(
        migration_id=migration_id, limit_bytes_per_second=1_000_000
    )
    assert client.call(stub.SetMigrationLimit, limit).migration.migration_id == migration_id
    watch = manager_pb2.WatchMigrationRequest(migration_id=migration_id)
    with client.stream(stub.WatchMigration, watch, timeout_seconds=20) as changes:
        next(changes)
        request = manager_pb2.CancelMigrationRequest(migration_id=migration_id)
        client.call(stub.CancelMigration, request)
        *_, last = changes
    assert last.migration.state == manager_pb2.MIGRATION_STATE_CANCELLED
    assert last.migration.requested_by == ACME


def test_lists_and_counts_are_of_what_is_the_callers(pair):
    tokyo, _ = pair
    ours = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    theirs = migrate(tokyo, GLOBEX, "web-1", "osaka").migration_id
    for each in (ours, theirs):
        tokyo.wait_state(each, "SUCCEEDED")
    assert migrations(tokyo, ACME) == [ours]
    assert migrations(tokyo, GLOBEX) == [theirs]
    assert migrations(tokyo, NAMESAKE) == []
    assert migrations(tokyo, OPERATORS[0]) == [theirs, ours]
    assert usage(tokyo, ACME) == [VM]
    assert usage(tokyo, ACME, tenant="globex") == []
    assert usage(tokyo, NAMESAKE) == []
    assert sorted(usage(tokyo, OPERATORS[0])) == [VM, GLOBEX_VM]


def test_the_status_counts_a_tenants_own_migrations(pair):
    tokyo, _ = pair
    tokyo.agent.script.append(HANGS)
    tokyo.wait_state(migrate(tokyo, ACME, "web-1", "osaka").migration_id, "COPYING")
    counts = [
        client.call(
            tokyo.seen_by(caller).GetCloudStatus, manager_pb2.GetCloudStatusRequest()
        ).migrations_active
        for caller in (ACME, GLOBEX, OPERATORS[0])
    ]
    assert counts == [1, 0, 1]


def test_a_tenant_goes_after_its_machine_to_another_provider_and_brings_it_home(pair):
    tokyo, osaka = pair
    migration_id = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    found = vm(osaka, ACME, "web-1")
    assert (found.vm_id, found.tenant_domain, found.tenant) == (VM, TOKYO, "acme")
    assert vms(osaka, NAMESAKE) == []
    assert usage(osaka, ACME) == [VM]
    assert usage(osaka, NAMESAKE) == []

    back = migrate(osaka, ACME, "web-1", "tokyo").migration_id
    osaka.wait_state(back, "SUCCEEDED")
    assert migrations(osaka, ACME) == [back]
    assert migrations(osaka, NAMESAKE) == []
    assert vm(tokyo, ACME, VM).tenant_domain == TOKYO


def test_looking_at_the_host_again_does_not_change_whose_tenant_a_machine_is(pair):
    tokyo, osaka = pair
    migration_id = migrate(tokyo, ACME, "web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    before = vm(osaka, ACME, VM)
    with osaka.agent.lock:
        guest = osaka.agent.guests[VM]
        guest.tenant, guest.name = "mallory", "web-renamed"
    eventually(lambda: vm(osaka, ACME, VM).name == "web-renamed", "it is seen again")
    osaka.stop()
    osaka.start()
    seen = vm(osaka, ACME, VM)
    assert (seen.tenant_domain, seen.tenant) == (TOKYO, "acme")
    assert seen.seen_at.ToNanoseconds() > before.seen_at.ToNanoseconds()
    assert vms(osaka, f"spiffe://{OSAKA}/user/mallory") == []


def test_operators_act_for_their_provider_only(pair):
    tokyo, osaka = pair
    migration_id = migrate(tokyo, OPERATORS[0], VM, "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert migrations(tokyo, ACME) == [migration_id]  # the tenant sees what happened to it
    with pytest.raises(errors.Denied):
        vm(osaka, OPERATORS[0], VM)
    back = migrate(osaka, OPERATORS[1], VM, "tokyo").migration_id
    osaka.wait_state(back, "SUCCEEDED")
    assert vm(tokyo, OPERATORS[0], VM).tenant_domain == TOKYO


def test_hosts_and_reservations_are_the_operators(pair):
    tokyo, _ = pair
    for caller in (ACME, NAMESAKE):
        stub, reservations = tokyo.seen_by(caller), tokyo.reservations(caller)
        with pytest.raises(errors.Denied):
            client.call(stub.ListInventories, manager_pb2.ListInventoriesRequest())
        with pytest.raises(errors.Denied):
            client.call(reservations.ListReservations, manager_pb2.ListReservationsRequest())
        with pytest.raises(errors.Denied):
            client.call(stub.ResolveMigration, manager_pb2.ResolveMigrationRequest())
