"""Which events lie between what the log knows and what is found."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.events.comparing import OFF, Machine, compare
from watari.v1 import agent_pb2

RUNNING, PAUSED = agent_pb2.GUEST_STATE_RUNNING, agent_pb2.GUEST_STATE_PAUSED
VM = "6f1f2d2e-0000-4000-8000-000000000001"
WEB = Machine(VM, "web", "acme", OFF, 2, 1 << 30, 4 << 30)
MIGRATION = "6f1f2d2e-0000-4000-8000-00000000000a"

found = st.none() | st.builds(
    Machine,
    vm_id=st.just(VM),
    name=st.just("web"),
    tenant=st.just("acme"),
    state=st.sampled_from([OFF, RUNNING, PAUSED]),
    vcpus=st.integers(1, 3),
    memory_bytes=st.just(1 << 30),
    disk_bytes=st.integers(1, 2),
    epoch=st.integers(0, 3),
    arrived_in=st.sampled_from(["", "a", "b"]),
    held_by=st.sampled_from(["", "c"]),
    whole=st.booleans(),
)


def kinds(known: Machine | None, seen: Machine | None, **how: object) -> list[str]:
    """What would be recorded, by name."""
    events, _ = compare(known, seen, **how)  # type: ignore[arg-type]
    return [
        agent_pb2.HostEventKind.Name(each.kind).removeprefix("HOST_EVENT_KIND_") for each in events
    ]


def test_a_machine_that_is_found_running_appears_and_starts() -> None:
    assert kinds(None, WEB) == ["APPEARED"]
    assert kinds(None, replace(WEB, state=RUNNING)) == ["APPEARED", "STARTED"]


def test_a_machine_that_a_migration_brought_arrives_but_not_anew_with_a_new_log() -> None:
    arrived = replace(WEB, arrived_in=MIGRATION)
    (event,), _ = compare(None, arrived)
    assert (event.kind, event.migration_id) == (agent_pb2.HOST_EVENT_KIND_ARRIVED, MIGRATION)
    assert kinds(None, arrived, new_log=True) == ["APPEARED"]


def test_a_machine_that_is_gone_while_it_ran_stopped_first() -> None:
    assert kinds(WEB, None) == ["REMOVED"]
    assert kinds(replace(WEB, state=PAUSED), None) == ["STOPPED", "REMOVED"]
    (event,), _ = compare(WEB, None, departed_in=MIGRATION)
    assert (event.kind, event.migration_id) == (agent_pb2.HOST_EVENT_KIND_DEPARTED, MIGRATION)


def test_a_machine_that_left_and_came_back_unseen_did_both() -> None:
    back = replace(WEB, arrived_in="again")
    assert kinds(replace(WEB, arrived_in="once"), back) == ["REMOVED", "ARRIVED"]


def test_a_pause_is_neither_a_stop_nor_a_start() -> None:
    assert kinds(replace(WEB, state=RUNNING), replace(WEB, state=PAUSED)) == []


def test_what_a_migration_stopped_names_it() -> None:
    (event,), _ = compare(replace(WEB, state=RUNNING), replace(WEB, held_by=MIGRATION))
    assert (event.kind, event.migration_id) == (agent_pb2.HOST_EVENT_KIND_STOPPED, MIGRATION)


def test_a_resize_tells_both_amounts() -> None:
    (event,), _ = compare(WEB, replace(WEB, vcpus=4, disk_bytes=8 << 30))
    assert event.kind == agent_pb2.HOST_EVENT_KIND_RESIZED
    assert (event.resources_before.vcpus, event.resources.vcpus) == (2, 4)
    assert (event.resources_before.disk_bytes, event.resources.disk_bytes) == (4 << 30, 8 << 30)


def test_what_cannot_be_read_now_has_not_changed() -> None:
    broken = replace(WEB, name="?", tenant="default", vcpus=0, disk_bytes=0, whole=False)
    assert kinds(WEB, broken) == []
    _, known = compare(WEB, replace(broken, state=RUNNING))
    assert known == replace(WEB, state=RUNNING)


@given(st.lists(found, max_size=8))
def test_whatever_is_found_in_turn_events_alternate_and_are_recorded_once(
    sights: list[Machine | None],
) -> None:
    known, here, runs = None, False, False
    for sight in sights:
        events, known = compare(known, sight)
        for event in events:
            match event.kind:
                case agent_pb2.HOST_EVENT_KIND_APPEARED | agent_pb2.HOST_EVENT_KIND_ARRIVED:
                    assert not here
                    here = True
                case agent_pb2.HOST_EVENT_KIND_REMOVED | agent_pb2.HOST_EVENT_KIND_DEPARTED:
                    assert here
                    assert not runs
                    here = False
                case agent_pb2.HOST_EVENT_KIND_STARTED:
                    assert here
                    assert not runs
                    runs = True
                case agent_pb2.HOST_EVENT_KIND_STOPPED:
                    assert runs
                    runs = False
        assert here == (sight is not None)
        assert runs == (sight is not None and sight.runs)
        again, same = compare(known, sight)
        assert not again
        assert same == known
