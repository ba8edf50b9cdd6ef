"""What hosts tell is recorded once, whatever happens on the way, and shown to whom it concerns."""

import uuid

import pytest

from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint
from watari.v1 import agent_pb2, common_pb2, manager_pb2

ACME = f"spiffe://{TOKYO}/user/acme"
GLOBEX = f"spiffe://{TOKYO}/user/globex"
NAMESAKE = f"spiffe://{OSAKA}/user/acme"
GLOBEX_VM = "6f1f2d2e-0000-4000-8000-000000000002"
ONCE = "1*error(SERVER_UNAVAILABLE)"
POINTS = [
    "manager.metering.after_read",
    "manager.metering.in_record",
    "manager.metering.after_record",
]

Clouds = tuple[Cloud, Cloud]


@pytest.fixture
def tokyo(clouds: Clouds) -> Cloud:
    """With acme's web-1."""
    return clouds[0]


def told(cloud: Cloud, caller: str = "", **asked: str) -> list[int]:
    """The numbers of what is recorded."""
    return [each.event.sequence for each in cloud.usage_events(caller, **asked)]


def wait_told(cloud: Cloud, count: int) -> list[manager_pb2.UsageEvent]:
    """Until so much is recorded."""
    eventually(lambda: len(cloud.usage_events()) >= count, f"{count} events are recorded")
    return cloud.usage_events()


def audited(cloud: Cloud, action: str) -> list[dict[str, str]]:
    """The details of such entries."""
    return [dict(each.details) for each in cloud.audit() if each.action == action]


def test_an_event_is_recorded_as_the_host_told_it(tokyo: Cloud) -> None:
    before = common_pb2.Resources(vcpus=1)
    now = common_pb2.Resources(vcpus=4, memory_bytes=1 << 30, disk_bytes=4 << 30)
    tokyo.agent.tell(
        "RESIZED", VM, vm_name="web-1", tenant="acme", resources_before=before, resources=now
    )
    (recorded,) = wait_told(tokyo, 1)
    assert recorded.event == tokyo.agent.events[0]
    assert (recorded.cloud_id, recorded.host_id, recorded.log_id) == (
        "tokyo",
        "host1",
        tokyo.agent.log_id,
    )
    assert (recorded.tenant_domain, recorded.tenant) == (TOKYO, "acme")
    assert uuid.UUID(recorded.event_id)


def test_many_events_are_recorded_in_their_order_and_acknowledged(tokyo: Cloud) -> None:
    for _ in range(450):
        tokyo.agent.tell("STARTED", VM)
    wait_told(tokyo, 450)
    assert told(tokyo) == list(range(1, 451))
    eventually(
        lambda: tokyo.agent.readings[-1].acknowledged_sequence == 450, "the last is acknowledged"
    )
    assert all(each.acknowledged_sequence <= 450 for each in tokyo.agent.readings)


def test_nothing_is_acknowledged_before_it_is_recorded(tokyo: Cloud) -> None:
    with failpoint.armed("manager.metering.in_record", "error(SERVER_UNAVAILABLE)"):
        tokyo.agent.tell("STARTED", VM)
        count = len(tokyo.agent.readings)
        eventually(lambda: len(tokyo.agent.readings) > count + 3, "it is read again and again")
        assert not any(each.acknowledged_sequence for each in tokyo.agent.readings)
        assert told(tokyo) == []
    wait_told(tokyo, 1)


@pytest.mark.parametrize("point", POINTS)
def test_an_error_at_a_point_delays_recording_and_doubles_nothing(tokyo: Cloud, point: str) -> None:
    with failpoint.armed(point, ONCE):
        for _ in range(5):
            tokyo.agent.tell("STARTED", VM)
        wait_told(tokyo, 5)
    tokyo.agent.tell("STOPPED", VM)
    wait_told(tokyo, 6)
    assert told(tokyo) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("point", POINTS)
def test_a_manager_that_restarts_at_a_point_goes_on_where_it_was(tokyo: Cloud, point: str) -> None:
    with failpoint.armed(point, "error(SERVER_UNAVAILABLE)"):
        for _ in range(3):
            tokyo.agent.tell("STARTED", VM)
        count = len(tokyo.agent.readings)
        eventually(lambda: len(tokyo.agent.readings) > count + 1, "it came to the point")
        tokyo.stop()
    tokyo.start()
    tokyo.agent.tell("STOPPED", VM)
    wait_told(tokyo, 4)
    assert told(tokyo) == [1, 2, 3, 4]
    assert len({each.event_id for each in tokyo.usage_events()}) == 4


def test_events_that_were_dropped_unread_are_told_in_the_audit_log(tokyo: Cloud) -> None:
    tokyo.agent.tell("STARTED", VM)
    wait_told(tokyo, 1)
    tokyo.stop()
    for _ in range(4):
        tokyo.agent.tell("STOPPED", VM)
    tokyo.agent.drop(4)
    tokyo.start()
    wait_told(tokyo, 2)
    assert told(tokyo) == [1, 5]
    assert audited(tokyo, "metering.events_lost") == [
        {"log": tokyo.agent.log_id, "after": "1", "events": "3"}
    ]


def test_a_log_that_has_only_lost_is_not_waited_for(tokyo: Cloud) -> None:
    tokyo.stop()
    for _ in range(4):
        tokyo.agent.tell("STOPPED", VM)
    tokyo.agent.drop(4)
    tokyo.start()
    eventually(lambda: bool(audited(tokyo, "metering.events_lost")), "it is told")
    tokyo.agent.tell("STARTED", VM)
    wait_told(tokyo, 1)
    assert told(tokyo) == [5]
    assert len(audited(tokyo, "metering.events_lost")) == 1


def test_a_log_that_was_begun_anew_is_noticed_and_read_from_its_beginning(tokyo: Cloud) -> None:
    agent = tokyo.agent
    for _ in range(3):
        agent.tell("STARTED", VM)
    wait_told(tokyo, 3)
    old, kept = agent.log_id, list(agent.events)
    with agent.lock:
        agent.log_id, agent.events = str(uuid.uuid4()), []
        agent.tell("APPEARED", VM)
    wait_told(tokyo, 4)
    assert told(tokyo) == [1, 2, 3, 1]
    with agent.lock:  # the old one is found again
        agent.log_id, agent.events = old, kept
        agent.tell("STOPPED", VM)
    wait_told(tokyo, 5)
    assert told(tokyo) == [1, 2, 3, 1, 4]
    replaced = audited(tokyo, "metering.log_replaced")
    assert [each["read_before"] for each in replaced] == ["3", "1"]
    assert replaced[0]["log_before"] == replaced[1]["log"] == old
    assert not audited(tokyo, "metering.events_lost")


def test_a_page_with_a_hole_is_not_recorded(tokyo: Cloud) -> None:
    tokyo.agent.tell("STARTED", VM)
    wait_told(tokyo, 1)
    with tokyo.agent.lock:
        tokyo.agent.tell("STOPPED", VM)
        tokyo.agent.tell("STARTED", VM)
        hidden = tokyo.agent.events.pop(1)
    count = len(tokyo.agent.readings)
    eventually(lambda: len(tokyo.agent.readings) > count + 2, "it is read again")
    assert told(tokyo) == [1]
    with tokyo.agent.lock:
        tokyo.agent.events.insert(1, hidden)
    wait_told(tokyo, 3)
    assert told(tokyo) == [1, 2, 3]


def test_a_host_that_does_not_answer_keeps_nothing_of_it(tokyo: Cloud) -> None:
    tokyo.agent.refuse("ListEvents", *[errors.DataLoss("DISK_IO", "a bad disk")] * 3)
    tokyo.agent.tell("STARTED", VM)
    wait_told(tokyo, 1)
    assert told(tokyo) == [1]


def test_a_tenant_sees_its_own_events_only(tokyo: Cloud) -> None:
    tokyo.agent.add(GLOBEX_VM, "web-1", tenant="globex")
    eventually(lambda: len(tokyo.vms()) == 2, "both are seen")
    tokyo.agent.tell("STARTED", VM, tenant="acme")
    tokyo.agent.tell("STARTED", GLOBEX_VM, tenant="globex")
    tokyo.agent.tell("STOPPED", VM, tenant="acme")
    wait_told(tokyo, 3)
    assert told(tokyo, ACME) == [1, 3]
    assert told(tokyo, GLOBEX) == [2]
    assert told(tokyo, NAMESAKE) == []
    assert told(tokyo, ACME, tenant="globex") == []
    assert told(tokyo, tenant="globex") == told(tokyo, vm_id=GLOBEX_VM) == [2]


def test_events_of_a_machine_that_arrives_are_its_tenants_at_home_from_the_first_one(
    clouds: Clouds,
) -> None:
    tokyo, osaka = clouds
    with failpoint.armed("manager.handover.before_record", "error(SERVER_UNAVAILABLE)"):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "HANDED_OVER")
        osaka.agent.tell("RECEIVED", VM, tenant="acme", migration_id=migration_id)
        wait_told(osaka, 1)
        assert VM not in osaka.vms()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    osaka.agent.tell("ARRIVED", VM, tenant="acme", migration_id=migration_id)
    wait_told(osaka, 2)
    assert told(osaka, f"spiffe://{OSAKA}/user/acme") == []
    assert told(osaka, ACME) == [1, 2]
    assert {each.tenant_domain for each in osaka.usage_events()} == {TOKYO}


def test_a_reservation_that_came_to_nothing_takes_no_machine_from_its_tenant(
    clouds: Clouds,
) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "COPYING")
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    (reservation,) = osaka.list_reservations()
    eventually(lambda: osaka.reservation_state(reservation) == "RELEASED", "room is given back")
    osaka.agent.tell("RECEIVED", VM, tenant="acme", migration_id=migration_id)
    osaka.agent.tell("APPEARED", VM, tenant="acme")  # another one, of that UUID
    wait_told(osaka, 2)
    assert told(osaka, ACME) == [1]
    assert told(osaka, f"spiffe://{OSAKA}/user/acme") == [2]


def test_recording_events_changes_nothing_of_what_is_shown(tokyo: Cloud) -> None:
    tokyo.agent.tell("STOPPED", VM, state=agent_pb2.GUEST_STATE_SHUT_OFF)
    tokyo.agent.tell("REMOVED", VM)
    before = tokyo.vms()[VM].state
    wait_told(tokyo, 2)
    assert tokyo.vms()[VM].state == before
    assert not tokyo.usage()
