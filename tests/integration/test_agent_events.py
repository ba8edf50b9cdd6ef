"""The event log of real agents, as their managers read it."""

from pathlib import Path

import pytest

from tests.conftest import TOKYO, Federation
from tests.support import processes
from tests.support.agents import AgentHost, Pair, running
from tests.support.clouds import eventually
from tests.support.shelves import MIB, Content, put_machine
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc

DISK = {"vda": Content(24 * MIB, ((0, 4 * MIB), (20 * MIB, MIB)))}
CONTENT_BYTES = 5 * MIB
HOLES_BYTES = 19 * MIB
"""Settled at once: only what is settled beyond them has crossed."""
FAST = "[agent.events]\nlook_seconds = 0.1\n"


@pytest.fixture
def hosts(federation: Federation, tmp_path: Path):
    """Two agents that look often."""
    with running(federation, tmp_path, source=FAST, destination=FAST) as pair:
        yield pair


def read(host: AgentHost, **asked: object) -> agent_pb2.ListEventsResponse:
    """A page of the log, by default all of it."""
    request = agent_pb2.ListEventsRequest(**({"page_size": 1000} | asked))  # type: ignore[arg-type]
    return client.call(host.stub.ListEvents, request, timeout_seconds=30)


def kinds(host: AgentHost) -> list[str]:
    """What is in the log, by name."""
    return [
        agent_pb2.HostEventKind.Name(each.kind).removeprefix("HOST_EVENT_KIND_")
        for each in read(host).events
    ]


def by_kind(host: AgentHost, *names: str) -> list[agent_pb2.HostEvent]:
    """The one entry of each kind."""
    found = {each.kind: each for each in read(host).events}
    return [found[agent_pb2.HostEventKind.Value(f"HOST_EVENT_KIND_{name}")] for name in names]


def put(host: AgentHost) -> str:
    """A machine, once it was noticed."""
    vm_id = put_machine(host.shelf, "web", DISK)
    eventually(lambda: "APPEARED" in kinds(host), "it is noticed")
    return vm_id


def test_a_migration_is_in_both_logs_with_the_same_bytes(hosts: Pair) -> None:
    vm_id = put(hosts.source)
    transfer = hosts.migrate(vm_id)
    eventually(lambda: len(kinds(hosts.source)) == 3, "the source has recorded all")
    # What was sent is written down when the machine need not wait for it any more.
    assert sorted(kinds(hosts.source)) == ["APPEARED", "DEPARTED", "SENT"]
    assert kinds(hosts.destination) == ["RECEIVED", "ARRIVED"]
    sent, departed = by_kind(hosts.source, "SENT", "DEPARTED")
    received, arrived = by_kind(hosts.destination, "RECEIVED", "ARRIVED")
    assert {each.migration_id for each in (sent, departed, received, arrived)} == {
        transfer.migration_id
    }
    assert {each.vm_id for each in (sent, departed, received, arrived)} == {vm_id}
    assert {each.vm_name for each in (sent, departed, received, arrived)} == {"web"}
    assert sent.raw_bytes == received.raw_bytes == CONTENT_BYTES
    assert sent.wire_bytes == received.wire_bytes == transfer.progress.wire_bytes
    assert (sent.reason, received.reason, sent.attempt) == ("succeeded", "succeeded", 1)


def test_a_machine_that_leaves_before_it_was_looked_at_has_been_there(
    federation: Federation, tmp_path: Path
) -> None:
    seldom = "[agent.events]\nlook_seconds = 3600\n"
    with running(federation, tmp_path, source=seldom) as hosts:
        hosts.migrate(put_machine(hosts.source.shelf, "web", DISK))
        eventually(lambda: len(kinds(hosts.source)) == 3, "the source has recorded all")
        assert sorted(kinds(hosts.source)) == ["APPEARED", "DEPARTED", "SENT"]
        assert not any(each.inferred for each in read(hosts.source).events)


def test_a_failed_attempt_and_the_next_one_are_recorded_each(hosts: Pair) -> None:
    vm_id = put(hosts.source)
    migration_id = hosts.start(vm_id, limit_bytes_per_second=MIB)
    hosts.source.wait_done(migration_id, HOLES_BYTES + MIB)
    request = agent_pb2.CancelTransferRequest(migration_id=migration_id)
    client.call(hosts.source.stub.CancelTransfer, request)
    hosts.source.wait_ended(migration_id)
    (guest,) = hosts.source.guests()
    hosts.start_again(migration_id, hosts.grant(guest, migration_id))
    hosts.source.wait_ended(migration_id)
    eventually(lambda: kinds(hosts.source).count("SENT") == 2, "both are recorded")
    first, second = (each for each in read(hosts.source).events if each.reason)
    assert (first.reason, first.attempt, second.reason, second.attempt) == (
        "CANCELLED",
        1,
        "succeeded",
        2,
    )
    assert MIB <= first.raw_bytes < CONTENT_BYTES
    received = [each for each in read(hosts.destination).events if each.raw_bytes]
    # Whether the session's end or that of its streams is noticed first, nobody knows.
    assert [each.reason == "succeeded" for each in received] == [False, True]
    assert sum(each.raw_bytes for each in received) >= CONTENT_BYTES
    assert 0 < second.raw_bytes <= CONTENT_BYTES - received[0].raw_bytes + MIB


def test_an_estimate_is_not_recorded(hosts: Pair) -> None:
    vm_id = put(hosts.source)
    hosts.estimate(vm_id)
    assert kinds(hosts.source) == ["APPEARED"]
    assert kinds(hosts.destination) == []


def test_what_arrived_and_was_discarded_is_removed(hosts: Pair) -> None:
    vm_id = put(hosts.source)
    migration_id = hosts.start(vm_id)
    hosts.source.wait_ended(migration_id)
    (guest,) = hosts.source.guests()
    stub = hosts.destination.stub
    activate = agent_pb2.ActivateIncomingRequest(migration_id=migration_id, epoch=2, prepare=True)
    with pytest.raises(errors.FailedPrecondition):  # a shelf runs nothing
        client.call(stub.ActivateIncoming, activate)
    discard = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
    client.call(stub.DiscardIncoming, discard)
    client.call(stub.DiscardIncoming, discard)
    assert guest.vm_id == vm_id
    assert kinds(hosts.destination) == ["RECEIVED", "ARRIVED", "REMOVED"]


def test_a_killed_agent_goes_on_with_its_log_and_finds_what_it_missed(hosts: Pair) -> None:
    host = hosts.source
    put(host)
    before = read(host)
    host.process.kill()
    put_machine(host.shelf, "db", DISK)
    host.process.start()
    after = read(host)
    assert after.log_id == before.log_id
    assert list(after.events[:1]) == list(before.events)
    assert [each.vm_name for each in after.events] == ["web", "db"]
    assert after.events[1].inferred


def test_a_lost_log_is_another_log_which_tells_what_is_there(hosts: Pair) -> None:
    host = hosts.source
    put(host)
    before = read(host)
    host.process.kill()
    for each in (host.shelf / "events").iterdir():
        each.unlink()
    host.process.start()
    after = read(host, log_id=before.log_id, after_sequence=1)
    assert after.log_id != before.log_id
    assert [(each.sequence, each.vm_name) for each in after.events] == [(1, "web")]


def test_pages_begin_where_the_reader_says_and_a_reader_may_wait(hosts: Pair) -> None:
    host = hosts.source
    put(host)
    log_id = read(host).log_id
    assert not read(host, log_id=log_id, after_sequence=1).events
    assert not read(host, log_id=log_id, after_sequence=1, wait_seconds=1).events
    request = agent_pb2.ListEventsRequest(log_id=log_id, after_sequence=1, wait_seconds=20)
    waiting = host.stub.ListEvents.future(request, timeout=30)
    put_machine(host.shelf, "db", DISK)
    assert [each.vm_name for each in waiting.result().events] == ["db"]
    assert len(read(host, page_size=1).events) == 1


def test_a_wait_ends_before_the_callers_deadline(hosts: Pair) -> None:
    host = hosts.source
    log_id = read(host).log_id
    request = agent_pb2.ListEventsRequest(log_id=log_id, wait_seconds=20)
    assert not client.call(host.stub.ListEvents, request, timeout_seconds=3).events


@pytest.mark.parametrize(
    ("field", "value"),
    [("wait_seconds", 21), ("page_size", 1001), ("log_id", "x"), ("after_sequence", 2**63)],
)
def test_what_is_out_of_bounds_is_refused(hosts: Pair, field: str, value: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        read(hosts.source, **{field: value})


@pytest.mark.parametrize("caller", ["operator/main", "manager/other"])
def test_nobody_but_the_manager_that_the_host_obeys_reads_its_log(
    federation: Federation, hosts: Pair, caller: str
) -> None:
    party = federation.party(f"spiffe://{TOKYO}/{caller}")
    target = processes.target(hosts.source.port, hosts.source.spiffe_id)
    with client.connect(party, target) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        with pytest.raises(errors.Denied) as caught:
            client.call(stub.ListEvents, agent_pb2.ListEventsRequest())
    assert caught.value.reason == "NOT_ALLOWED"
