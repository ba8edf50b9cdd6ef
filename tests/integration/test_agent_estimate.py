"""An estimate says what the transfer then takes, and leaves nothing behind."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.transfer import handshake
from tests.conftest import Federation
from tests.support import agents, processes
from tests.support.shelves import KIB, MIB, Content, definition, put_machine
from watari import errors
from watari.identity import SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc

GIB = 1024 * MIB
SIZE = 12 * GIB
"""Of disks that are mostly holes: room in the grant for whatever a sample is repeated."""
DATA = 10 * MIB


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path)


def check_nothing_left(host: agents.AgentHost) -> None:
    """No disk, no journal, no record, no session, no machine; not even an entry in a folder."""
    listed = client.call(host.stub.ListIncoming, agent_pb2.ListIncomingRequest())
    assert not listed.incoming
    incoming = host.shelf / "incoming"
    assert {each.name for each in incoming.iterdir()} <= {".journals", ".discarded", ".spent.json"}
    assert [each for folder in incoming.glob("*/") for each in folder.iterdir()] == []


def test_without_anything_to_compare_with_all_content_is_lacking(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(SIZE, ((MIB, DATA),))})
    estimate = pair.estimate(vm_id)
    assert estimate.total_bytes == SIZE
    assert estimate.unique_bytes == DATA
    assert estimate.zero_bytes == SIZE - DATA
    assert estimate.deduplicated_bytes == 0
    assert estimate.rate_bytes_per_second > MIB
    assert 0 < estimate.round_trip_seconds < 1
    assert 0 < estimate.duration_seconds == estimate.downtime_seconds < 30
    check_nothing_left(pair.destination)
    transfer = pair.migrate(vm_id)
    assert transfer.progress.sent_bytes == estimate.unique_bytes
    assert transfer.progress.wire_bytes == pytest.approx(estimate.wire_bytes, rel=0.2)


def test_text_is_estimated_as_small_as_it_will_be(pair: agents.Pair) -> None:
    disk = Content(SIZE, ((0, 20 * MIB),), text=True)
    vm_id = put_machine(pair.source.shelf, "web", {"vda": disk})
    estimate = pair.estimate(vm_id, compression_level=3)
    assert estimate.unique_bytes == 20 * MIB
    assert estimate.wire_bytes < 15 * MIB
    transfer = pair.migrate(vm_id, compression_level=3)
    assert transfer.progress.wire_bytes == pytest.approx(estimate.wire_bytes, rel=0.2)


def test_a_sample_stands_for_a_disk_that_is_larger(pair: agents.Pair) -> None:
    """Text and random bytes in turns, 48 MiB in all, of which 16 MiB are looked at."""
    ranges = tuple((number * 4 * MIB, 2 * MIB) for number in range(12))
    later = tuple((at + 2 * MIB, length) for at, length in ranges)
    disks = {
        "vda": Content(SIZE, ranges),
        "vdb": Content(SIZE, later, text=True),
    }
    vm_id = put_machine(pair.source.shelf, "web", disks)
    estimate = pair.estimate(vm_id, compression_level=1)
    assert estimate.unique_bytes == 48 * MIB
    assert estimate.zero_bytes == 2 * SIZE - 48 * MIB
    transfer = pair.migrate(vm_id, compression_level=1)
    assert transfer.progress.wire_bytes == pytest.approx(estimate.wire_bytes, rel=0.2)


def test_what_the_destination_has_is_told_and_not_counted(pair: agents.Pair) -> None:
    pair.migrate(put_machine(pair.source.shelf, "first", {"vda": Content(SIZE, ((0, DATA),))}))
    before = sorted(each for each in pair.destination.shelf.glob("vms/**/*") if each.is_file())
    shifted = Content(SIZE, ((8 * KIB, DATA),))
    vm_id = put_machine(pair.source.shelf, "second", {"vda": shifted})
    fresh = 16 * MIB, 3 * MIB
    with (pair.source.shelf / "vms" / "second" / "vda.raw").open("r+b") as disk:
        disk.seek(fresh[0])
        disk.write(b"".join(number.to_bytes(8, "big") for number in range(fresh[1] // 8)))
    estimate = pair.estimate(vm_id)
    found = DATA + 64 * KIB  # leaves that hold any of it
    assert estimate.deduplicated_bytes == found
    assert estimate.unique_bytes == fresh[1]
    assert estimate.zero_bytes == SIZE - found - fresh[1]
    check_nothing_left(pair.destination)
    after = sorted(each for each in pair.destination.shelf.glob("vms/**/*") if each.is_file())
    assert after == before
    progress = pair.migrate(vm_id).progress
    assert progress.sent_bytes == estimate.unique_bytes
    assert progress.deduplicated_bytes == estimate.deduplicated_bytes
    assert progress.zero_bytes == estimate.zero_bytes
    assert progress.wire_bytes == pytest.approx(estimate.wire_bytes, rel=0.2)


def test_what_comes_back_hardly_changed_is_estimated_as_that(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(SIZE, ((0, DATA),))})
    pair.migrate(vm_id)
    with pair.destination.disk(vm_id, "vda").open("r+b") as disk:
        disk.seek(5 * MIB)
        disk.write(b"changed")
    estimate = pair.back().estimate(vm_id)
    assert estimate.unique_bytes == 64 * KIB
    assert estimate.deduplicated_bytes == DATA - 64 * KIB
    check_nothing_left(pair.source)


def test_an_empty_disk_costs_next_to_nothing(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(64 * MIB), "vdb": Content(0)})
    estimate = pair.estimate(vm_id)
    assert estimate.unique_bytes == 0
    assert estimate.zero_bytes == estimate.total_bytes == 64 * MIB
    assert estimate.wire_bytes == 0
    assert estimate.duration_seconds < 2


def test_a_rate_is_no_higher_than_the_cap(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(SIZE, ((0, DATA),))})
    estimate = pair.estimate(vm_id, limit_bytes_per_second=16 * MIB)
    assert 8 * MIB < estimate.rate_bytes_per_second <= 16 * MIB


def test_a_cap_makes_it_longer_as_it_makes_the_transfer(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(SIZE, ((0, DATA),))})
    estimate = pair.estimate(vm_id, limit_bytes_per_second=16 * MIB)
    assert estimate.duration_seconds == pytest.approx(DATA / (16 * MIB), rel=0.5)


def test_a_small_disk_on_a_fast_network_has_an_estimate(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    assert pair.estimate(vm_id).unique_bytes == MIB


def test_an_estimate_takes_no_hold_and_leaves_a_transfer_alone(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(SIZE, ((0, DATA),))})
    pair.estimate(vm_id)
    assert not pair.source.guest(vm_id).held_by
    migration_id = pair.start(vm_id, limit_bytes_per_second=64 * KIB)
    assert pair.estimate(vm_id).unique_bytes == DATA
    assert pair.source.transfer(migration_id).state == agent_pb2.TRANSFER_STATE_COPYING
    limit = agent_pb2.SetTransferLimitRequest(migration_id=migration_id)
    client.call(pair.source.stub.SetTransferLimit, limit)
    ended = pair.source.wait_ended(migration_id)
    assert ended.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, ended.problem


def test_an_estimates_grant_moves_nothing(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    migration_id = str(uuid.uuid4())
    hold = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id)
    guest = client.call(pair.source.stub.HoldGuest, hold).guest
    grant = pair.grant(guest, migration_id, estimate_only=True)
    with pytest.raises(errors.Denied) as caught:
        pair.start_again(migration_id, grant)
    assert caught.value.reason == "GRANT_INVALID"
    assert "estimate" in caught.value.message
    check_nothing_left(pair.destination)


def test_a_grant_for_a_move_makes_no_estimate(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    grant = pair.grant(pair.source.guest(vm_id), str(uuid.uuid4()))
    with pytest.raises(errors.Denied) as caught:
        pair.estimate(vm_id, grant)
    assert caught.value.reason == "GRANT_INVALID"
    assert "move" in caught.value.message


def opened(
    pair: agents.Pair, federation: Federation, *, dry_run: bool, estimate_only: bool, **told: str
) -> agent_pb2.OpenSessionResponse:
    """The destination's answer to a sender that asks for a session by itself."""
    vm_id = put_machine(pair.source.shelf, "web", {"vda": Content(MIB, ((0, MIB),))})
    migration_id = str(uuid.uuid4())
    own = federation.party(pair.source.spiffe_id)
    guest = pair.source.guest(vm_id)
    request = agent_pb2.OpenSessionRequest(
        session_id=str(uuid.uuid4()),
        migration_id=migration_id,
        grant=pair.grant(guest, migration_id, estimate_only=estimate_only),
        definition_xml=definition(vm_id, "web", {"vda": "vda.raw"}),
        cipher_key_bits=128,
        streams=1,
        dry_run=dry_run,
        **told,
    )
    handshake.ask(request, own, SpiffeId.parse(pair.destination.spiffe_id))
    target = processes.target(pair.destination.port, pair.destination.spiffe_id)
    with client.connect(own, target) as channel:
        return client.call(agent_pb2_grpc.TransferServiceStub(channel).OpenSession, request)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_destination_does_not_take_its_senders_word_for_it(
    pair: agents.Pair, federation: Federation, dry_run: bool
) -> None:
    with pytest.raises(errors.Denied) as caught:
        opened(pair, federation, dry_run=dry_run, estimate_only=not dry_run)
    assert caught.value.reason == "GRANT_INVALID"
    check_nothing_left(pair.destination)


def test_a_destination_whose_agent_is_older_says_so(
    pair: agents.Pair, federation: Federation
) -> None:
    answer = opened(pair, federation, dry_run=True, estimate_only=True, agent_version="999.0")
    (finding,) = answer.findings
    assert finding.severity == agent_pb2.SEVERITY_WARNING
    assert finding.problem.metadata["requirement"] == "agent version"
    assert pair.estimate(put_machine(pair.source.shelf, "db", {"vda": Content(MIB, ())})).compared
