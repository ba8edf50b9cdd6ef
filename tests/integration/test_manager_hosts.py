"""What a manager makes of what its hosts tell."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager.settings.hosts import ClassSettings
from tests.conftest import Federation
from tests.support.clouds import Cloud, eventually, two_clouds
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2, manager_pb2

VM = "6f1f2d2e-0000-4000-8000-000000000001"


@pytest.fixture
def tokyo(federation: Federation, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud with the machine web-1; its manager runs."""
    with two_clouds(federation, tmp_path) as (cloud, _):
        cloud.agent.add(VM, "web-1")
        cloud.start()
        yield cloud


def get(cloud: Cloud, key: str) -> manager_pb2.Vm:
    """One machine."""
    return client.call(cloud.operator.GetVm, manager_pb2.GetVmRequest(vm=key)).vm


def test_the_pool_stands_before_the_hosts_and_a_restart_moves_a_class_into_it(
    tokyo: Cloud,
) -> None:
    agent = tokyo.settings.agents["host1"]
    ssd = {"disk:ssd": ClassSettings(total=50, min_unit=5)}
    tokyo.stop()
    tokyo.change(agents={"host1": replace(agent, inventory=ssd, traits=("rack:a",))})
    tokyo.start()
    host = tokyo.inventory()
    assert host.total.other == {"disk:ssd": 50}
    assert host.units["disk:ssd"].least == 5
    assert "rack:a" in host.traits
    tokyo.stop()
    tokyo.change(pool=ssd)
    tokyo.start()
    request = manager_pb2.ListInventoriesRequest()
    found = client.call(tokyo.operator.ListInventories, request).inventories
    assert [(each.host_id, dict(each.total.other)) for each in found] == [
        ("*", {"disk:ssd": 50}),
        ("host1", {}),
    ]
    assert found[1].allocated.vcpus == 2


def test_a_machine_is_known_as_soon_as_the_manager_serves(tokyo: Cloud) -> None:
    vm = get(tokyo, "web-1")
    assert (vm.vm_id, vm.cloud_id, vm.host_id, vm.tenant) == (VM, "tokyo", "host1", "acme")
    assert (vm.epoch, vm.state, vm.resources.vcpus) == (1, "shut off", 2)
    same = get(tokyo, VM)
    for each in (vm, same):
        each.ClearField("seen_at")
    assert vm == same
    assert tokyo.inventory().allocated.vcpus == 2
    assert tokyo.inventory().free.vcpus == 6


def test_a_machine_that_appears_is_adopted_and_one_that_changes_is_counted_anew(
    tokyo: Cloud,
) -> None:
    added = str(uuid.uuid4())
    tokyo.agent.add(added, "db-1", vcpus=1)
    eventually(lambda: added in tokyo.vms(), "it is adopted")
    before = tokyo.inventory().generation
    tokyo.agent.guests[added].resources.vcpus = 4
    eventually(lambda: tokyo.inventory().allocated.vcpus == 6, "it is counted anew")
    assert tokyo.inventory().generation > before


def test_nothing_changes_while_nothing_changes(tokyo: Cloud) -> None:
    before, seen = tokyo.inventory().generation, tokyo.vms()[VM].seen_at.ToNanoseconds()
    eventually(lambda: tokyo.vms()[VM].seen_at.ToNanoseconds() > seen, "it is looked at again")
    assert tokyo.inventory().generation == before


def test_a_host_that_does_not_answer_keeps_its_machines(tokyo: Cloud) -> None:
    tokyo.agent.stop()
    eventually(lambda: not tokyo.inventory().reachable, "it is noted")
    assert VM in tokyo.vms()
    assert tokyo.inventory().allocated.vcpus == 2
    tokyo.agent.start()
    eventually(lambda: tokyo.inventory().reachable, "it answers again")


def test_a_machine_that_its_host_forgot_stays_owned_with_a_problem(tokyo: Cloud) -> None:
    forgotten = tokyo.agent.guests.pop(VM)
    eventually(lambda: tokyo.vms()[VM].HasField("problem"), "it is noted")
    assert tokyo.vms()[VM].problem.reason == "VM_NOT_FOUND"
    assert tokyo.inventory().allocated.vcpus == 2
    tokyo.agent.guests[VM] = forgotten
    eventually(lambda: not tokyo.vms()[VM].HasField("problem"), "it is back")


def test_a_guest_that_cannot_be_read_is_shown_with_its_problem_and_hides_no_other(
    tokyo: Cloud,
) -> None:
    broken = str(uuid.uuid4())
    tokyo.agent.guests[broken] = agent_pb2.Guest(vm_id=broken, name="a-broken")
    tokyo.agent.guests[broken].problem.reason = "VM_DEFINITION_INVALID"
    tokyo.agent.guests["nameless"] = agent_pb2.Guest(name="a-nameless")
    eventually(lambda: broken in tokyo.vms(), "it is shown")
    assert tokyo.vms()[broken].problem.reason == "VM_DEFINITION_INVALID"
    assert set(tokyo.vms()) == {VM, broken}


def test_two_machines_of_one_name_need_the_uuid(tokyo: Cloud) -> None:
    twin = str(uuid.uuid4())
    tokyo.agent.add(twin, "web-1", vcpus=1)
    eventually(lambda: twin in tokyo.vms(), "it is adopted")
    with pytest.raises(errors.FailedPrecondition) as caught:
        get(tokyo, "web-1")
    assert caught.value.reason == "VM_NAME_AMBIGUOUS"
    assert get(tokyo, twin).vm_id == twin


def test_machines_are_listed_by_name_in_pages(tokyo: Cloud) -> None:
    for number in range(4):
        tokyo.agent.add(str(uuid.uuid4()), f"app-{number}", vcpus=1, memory_bytes=1)
    eventually(lambda: len(tokyo.vms()) == 5, "they are adopted")
    names, token = [], ""
    while True:
        request = manager_pb2.ListVmsRequest(page_size=2, page_token=token)
        page = client.call(tokyo.operator.ListVms, request)
        names += [vm.name for vm in page.vms]
        token = page.next_page_token
        if not token:
            break
    assert names == ["app-0", "app-1", "app-2", "app-3", "web-1"]


def test_an_agent_of_another_host_behind_the_address_is_not_believed(tokyo: Cloud) -> None:
    tokyo.agent.host_id = "host9"
    eventually(lambda: not tokyo.inventory().reachable, "it is noted")
    assert tokyo.inventory().host_id == "host1"


def test_a_machine_that_is_arriving_is_not_adopted_by_looking(tokyo: Cloud) -> None:
    arriving = str(uuid.uuid4())
    stub = tokyo.reservations("spiffe://osaka.example/manager/main")
    request = manager_pb2.ReserveRequest(
        reservation_id=str(uuid.uuid4()),
        migration_id=str(uuid.uuid4()),
        from_cloud="osaka",
        vm_id=arriving,
        vm_name="db-1",
        tenant="acme",
        source_epoch=1,
        source_agent="spiffe://osaka.example/agent/host1",
        ttl_seconds=60,
    )
    request.resources.vcpus = 1
    client.call(stub.Reserve, request)
    tokyo.agent.add(arriving, "db-1", vcpus=1)
    seen = tokyo.vms()[VM].seen_at.ToNanoseconds()
    eventually(lambda: tokyo.vms()[VM].seen_at.ToNanoseconds() > seen, "it is looked at")
    assert arriving not in tokyo.vms()
    assert tokyo.inventory().allocated.vcpus == 2
    assert tokyo.inventory().held.vcpus == 1
