"""Starting and stopping machines, and what hosts keep of those that went away."""

import uuid

import pytest

from tests.support.clouds import VM, eventually
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint
from watari.rpc import client
from watari.v1 import manager_pb2

TENANT = "spiffe://tokyo.example/user/acme"
OTHERS = [
    "spiffe://tokyo.example/user/other",
    "spiffe://osaka.example/user/acme",
]


def start(cloud, caller="", vm="web-1"):
    """Start a machine."""
    stub = cloud.seen_by(caller) if caller else cloud.operator
    return client.call(stub.StartVm, manager_pb2.StartVmRequest(vm=vm)).vm


def stop(cloud, caller="", vm="web-1", timeout_seconds=5):
    """Stop a machine."""
    stub = cloud.seen_by(caller) if caller else cloud.operator
    request = manager_pb2.StopVmRequest(vm=vm, timeout_seconds=timeout_seconds)
    return client.call(stub.StopVm, request).vm


def retained(cloud, vm_id=""):
    """What is kept."""
    request = manager_pb2.ListRetainedVmsRequest(vm_id=vm_id)
    return list(client.call(cloud.operator.ListRetainedVms, request).retained)


def purge(cloud, vm_id=VM, migration_id=""):
    """Delete what is kept."""
    request = manager_pb2.PurgeVmRequest(vm_id=vm_id, migration_id=migration_id)
    return list(client.call(cloud.operator.PurgeVm, request).purged)


@pytest.mark.parametrize("caller", ["", TENANT])
def test_a_machine_is_started_and_stopped_for_its_tenant_and_the_operator(clouds, caller):
    tokyo, _ = clouds
    assert start(tokyo, caller).state == "running"
    assert tokyo.vms()[VM].state == "running"
    assert start(tokyo, caller).state == "running"
    assert stop(tokyo, caller, vm=VM).state == "shut off"
    assert tokyo.vms()[VM].state == "shut off"
    actions = [each.action for each in tokyo.audit() if each.subject == VM]
    assert actions == ["vm.started", "vm.started", "vm.stopped"]


@pytest.mark.parametrize("caller", OTHERS)
def test_another_tenants_machine_is_not_there(clouds, caller):
    tokyo, _ = clouds
    for order in (start, stop):
        with pytest.raises(errors.NotFound) as caught:
            order(tokyo, caller)
        assert caught.value.reason == "VM_NOT_FOUND"
    assert tokyo.agent.ran == []


def test_a_machine_is_neither_started_nor_stopped_while_a_migration_moves_it(clouds):
    tokyo, _ = clouds
    tokyo.agent.script.append(HANGS)
    tokyo.migrate("web-1", "osaka")
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    for order in (start, stop):
        with pytest.raises(errors.FailedPrecondition) as caught:
            order(tokyo)
        assert caught.value.reason == "VM_BUSY"


def test_only_the_cloud_that_owns_a_machine_starts_it(clouds):
    tokyo, osaka = clouds
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    with pytest.raises(errors.NotFound) as caught:
        start(tokyo)
    assert caught.value.reason == "VM_NOT_FOUND"
    assert start(osaka).state == "running"


def test_what_the_host_answers_is_passed_on(clouds):
    tokyo, _ = clouds
    unfit = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no such CPU")
    tokyo.agent.refuse("StartGuest", unfit)
    with pytest.raises(errors.FailedPrecondition) as caught:
        start(tokyo)
    assert caught.value.reason == "VM_LIFECYCLE_FAILED"
    tokyo.agent.runs = False
    with pytest.raises(errors.Unimplemented):
        start(tokyo)
    assert not [each for each in tokyo.audit() if each.action == "vm.started"]


@pytest.mark.parametrize("request_", [{"vm": ""}, {"vm": "web-1", "timeout_seconds": 3601}])
def test_a_stop_is_bounded(clouds, request_):
    tokyo, _ = clouds
    with pytest.raises(errors.InvalidArgument):
        client.call(tokyo.operator.StopVm, manager_pb2.StopVmRequest(**request_))


def test_what_is_kept_of_a_machine_is_listed_and_deleted_once(clouds):
    tokyo, _ = clouds
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    (kept,) = retained(tokyo)
    assert (kept.host_id, kept.retained.migration_id) == ("host1", migration_id)
    assert retained(tokyo, str(uuid.uuid4())) == []
    assert purge(tokyo, migration_id=str(uuid.uuid4())) == []
    assert purge(tokyo) == [kept]
    assert purge(tokyo) == []
    assert not tokyo.agent.retained
    (entry,) = [each for each in tokyo.audit() if each.action == "vm.purged"]
    assert (entry.subject, entry.details["migrations"]) == (VM, migration_id)


@pytest.mark.parametrize("named", [True, False])
def test_nothing_is_deleted_before_its_migration_has_ended(clouds, named):
    tokyo, _ = clouds
    with failpoint.armed("manager.saga.after_retire", "error(SERVER_UNAVAILABLE)"):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        eventually(lambda: VM in tokyo.agent.retained, "its copy is retired")
        with pytest.raises(errors.FailedPrecondition) as caught:
            purge(tokyo, migration_id=migration_id if named else "")
        assert caught.value.reason == "MIGRATION_STATE"
        assert VM in tokyo.agent.retained
    tokyo.wait_state(migration_id, "SUCCEEDED")


def test_a_machine_that_is_here_is_never_deleted(clouds):
    tokyo, _ = clouds
    assert purge(tokyo) == []
    assert VM in tokyo.agent.guests


def test_what_a_silent_host_keeps_is_not_known(clouds):
    tokyo, _ = clouds
    tokyo.agent.stop()
    for order in (retained, purge):
        with pytest.raises(errors.Unavailable):
            order(tokyo)


def test_retained_copies_are_the_operators(clouds):
    tokyo, _ = clouds
    for caller in (TENANT, "spiffe://osaka.example/operator/main"):
        stub = tokyo.seen_by(caller)
        with pytest.raises(errors.Denied):
            client.call(stub.ListRetainedVms, manager_pb2.ListRetainedVmsRequest())
        with pytest.raises(errors.Denied):
            client.call(stub.PurgeVm, manager_pb2.PurgeVmRequest(vm_id=VM))
