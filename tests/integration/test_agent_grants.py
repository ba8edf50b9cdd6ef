"""Without a valid grant nothing is sent and nothing is taken, whatever else is right."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from agent.transfer import handshake
from tests.conftest import HUB, OSAKA, TOKYO, Federation
from tests.support import agents, processes
from tests.support.shelves import MIB, Content, definition, put_machine
from watari import errors, identity
from watari.identity import SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2


@pytest.fixture(scope="module")
def pair(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path_factory.mktemp("grants"))


@pytest.fixture
def held(pair: agents.Pair) -> tuple[agent_pb2.Guest, str]:
    """A machine, and the migration that holds it."""
    migration_id = str(uuid.uuid4())
    vm_id = put_machine(pair.source.shelf, migration_id[:8], {"vda": Content(MIB, ((0, MIB),))})
    request = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id)
    return client.call(pair.source.stub.HoldGuest, request).guest, migration_id


Change = Callable[[common_pb2.Grant], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda grant: grant.expires_at.FromSeconds(1),
        lambda grant: setattr(grant, "source_epoch", 0),
        lambda grant: setattr(grant, "source_epoch", 2),
        lambda grant: setattr(grant, "vm_id", str(uuid.uuid4())),
        lambda grant: setattr(grant, "migration_id", str(uuid.uuid4())),
        lambda grant: setattr(grant, "source_agent", f"spiffe://{TOKYO}/agent/host2"),
        lambda grant: setattr(grant, "destination_agent", f"spiffe://{OSAKA}/agent/host2"),
        lambda grant: setattr(grant, "source_manager", f"spiffe://{TOKYO}/manager/other"),
        lambda grant: setattr(grant, "destination_manager", f"spiffe://{HUB}/manager/main"),
        lambda grant: setattr(grant.disks[0], "size_bytes", 2 * MIB),
        lambda grant: grant.disks.add(disk_id="vdz", size_bytes=1),
    ],
)
def test_a_source_refuses_a_grant_that_says_anything_else(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], change: Change
) -> None:
    guest, migration_id = held
    granted = pair.grant(guest, migration_id).granted.payload
    grant = common_pb2.Grant.FromString(granted)
    change(grant)
    with pytest.raises((errors.Denied, errors.NotFound)) as caught:
        pair.start_again(migration_id, pair.sign(grant))
    assert caught.value.reason in {"GRANT_INVALID", "VM_NOT_FOUND"}


def test_signatures_count_and_not_words(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], federation: Federation
) -> None:
    guest, migration_id = held
    good = pair.grant(guest, migration_id)
    altered, swapped, alone, by_agent = (common_pb2.SignedGrant() for _ in range(4))
    for each in (altered, swapped, alone, by_agent):
        each.CopyFrom(good)
    altered.granted.payload += b"\x08\x01"
    swapped.granted.CopyFrom(pair.grant(guest, migration_id).granted)
    alone.ClearField("countersigned")
    agent = federation.party(pair.destination.spiffe_id)
    by_agent.granted.CopyFrom(identity.sign(agent, good.granted.payload, "grant"))
    for bad in (altered, swapped, alone, by_agent):
        with pytest.raises((errors.Denied, errors.Unauthenticated)):
            pair.start_again(migration_id, bad)


def open_request(
    pair: agents.Pair, guest: agent_pb2.Guest, migration_id: str
) -> agent_pb2.OpenSessionRequest:
    """What the source agent would ask of the destination."""
    request = agent_pb2.OpenSessionRequest(
        session_id=str(uuid.uuid4()),
        migration_id=migration_id,
        grant=pair.grant(guest, migration_id),
        definition_xml=definition(guest.vm_id, "web", {"vda": "vda.raw"}),
        cipher_key_bits=128,
        streams=1,
    )
    receiver = SpiffeId.parse(pair.destination.spiffe_id)
    handshake.ask(request, pair.source.federation.party(pair.source.spiffe_id), receiver)
    return request


def sign(pair: agents.Pair, request: agent_pb2.OpenSessionRequest) -> None:
    """Signs a request as it has become."""
    own = pair.source.federation.party(pair.source.spiffe_id)
    handshake.sign(request, own, SpiffeId.parse(pair.destination.spiffe_id))


def destination(
    pair: agents.Pair, caller: str, federation: Federation
) -> agent_pb2_grpc.TransferServiceStub:
    target = processes.target(pair.destination.port, pair.destination.spiffe_id)
    return agent_pb2_grpc.TransferServiceStub(client.connect(federation.party(caller), target))


def test_a_grant_is_good_for_the_agent_that_it_names_only(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], federation: Federation
) -> None:
    request = open_request(pair, *held)
    thief = destination(pair, f"spiffe://{TOKYO}/agent/host2", federation)
    with pytest.raises(errors.Unauthenticated) as stolen:
        client.call(thief.OpenSession, request)
    assert stolen.value.reason == "SIGNATURE_INVALID"
    own = federation.party(f"spiffe://{TOKYO}/agent/host2")
    handshake.ask(request, own, SpiffeId.parse(pair.destination.spiffe_id))
    with pytest.raises(errors.Denied) as caught:
        client.call(thief.OpenSession, request)
    assert caught.value.reason == "GRANT_INVALID"
    manager = destination(pair, pair.source.manager_id, federation)
    with pytest.raises(errors.Denied) as caught:
        client.call(manager.OpenSession, request)
    assert caught.value.reason == "NOT_ALLOWED"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("session_id", "x", "INVALID_ID"),
        pytest.param("migration_id", str(uuid.uuid4()), "GRANT_INVALID", id="migration_id"),
        ("definition_xml", "<domain/>", "VM_DEFINITION_INVALID"),
        (
            "definition_xml",
            definition(str(uuid.uuid4()), "w", {"vda": "x"}),
            "VM_DEFINITION_INVALID",
        ),
        ("cipher_key_bits", 64, "INVALID_FIELD"),
        ("streams", 99, "INVALID_FIELD"),
    ],
)
def test_a_destination_refuses_what_does_not_fit_the_grant(
    pair: agents.Pair,
    held: tuple[agent_pb2.Guest, str],
    federation: Federation,
    field: str,
    value: object,
    reason: str,
) -> None:
    request = open_request(pair, *held)
    setattr(request, field, value)
    sign(pair, request)
    stub = destination(pair, pair.source.spiffe_id, federation)
    with pytest.raises(errors.WatariError) as caught:
        client.call(stub.OpenSession, request)
    assert caught.value.reason == reason
    listed = client.call(pair.destination.stub.ListIncoming, agent_pb2.ListIncomingRequest())
    assert request.migration_id not in [each.migration_id for each in listed.incoming]


@pytest.mark.parametrize("share", [b"", b"k" * 31, bytes(32)])
def test_a_bad_key_share_is_refused(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], federation: Federation, share: bytes
) -> None:
    request = open_request(pair, *held)
    del request.key_shares[0]  # what is left is X25519
    request.key_shares[0].public_key = share
    sign(pair, request)
    stub = destination(pair, pair.source.spiffe_id, federation)
    with pytest.raises(errors.InvalidArgument) as caught:
        client.call(stub.OpenSession, request)
    assert caught.value.metadata["field"] == "key_shares"


def test_an_expired_grant_opens_no_session(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], federation: Federation
) -> None:
    request = open_request(pair, *held)
    grant = common_pb2.Grant.FromString(request.grant.granted.payload)
    grant.expires_at.FromDatetime(federation.clock.now() - timedelta(seconds=1))
    request.grant.CopyFrom(pair.sign(grant))
    sign(pair, request)
    stub = destination(pair, pair.source.spiffe_id, federation)
    with pytest.raises(errors.Denied) as caught:
        client.call(stub.OpenSession, request)
    assert "expired" in caught.value.message


def test_more_key_shares_than_there_are_agreements_are_refused(
    pair: agents.Pair, held: tuple[agent_pb2.Guest, str], federation: Federation
) -> None:
    request = open_request(pair, *held)
    request.key_shares.extend([request.key_shares[0]] * 3)
    stub = destination(pair, pair.source.spiffe_id, federation)
    with pytest.raises(errors.InvalidArgument) as caught:
        client.call(stub.OpenSession, request)
    assert caught.value.metadata["field"] == "key_shares"


def test_a_used_grant_is_refused_by_both_agents_after_the_machine_has_moved_on(
    pair: agents.Pair, federation: Federation
) -> None:
    vm_id = put_machine(pair.source.shelf, "there-and-back", {"vda": Content(MIB, ((0, MIB),))})
    transfer = pair.migrate(vm_id)
    back = pair.back()
    back.migrate(vm_id)
    guest = pair.source.guest(vm_id)
    assert guest.epoch == 3
    purge = agent_pb2.PurgeRetainedRequest(vm_id=vm_id, migration_id=transfer.migration_id)
    client.call(pair.source.stub.PurgeRetained, purge)

    used = common_pb2.Grant.FromString(pair.grant(guest, transfer.migration_id).granted.payload)
    used.source_epoch = 1
    hold = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=str(uuid.uuid4()))
    client.call(pair.source.stub.HoldGuest, hold)
    used.migration_id = hold.migration_id
    with pytest.raises(errors.Denied) as caught:
        pair.start_again(hold.migration_id, pair.sign(used))
    assert "epoch" in caught.value.message

    stub = destination(pair, pair.source.spiffe_id, federation)
    request = open_request(pair, guest, hold.migration_id)
    request.grant.CopyFrom(pair.sign(used))
    sign(pair, request)
    with pytest.raises(errors.Denied) as stale:
        client.call(stub.OpenSession, request)
    assert "epoch" in stale.value.message
    request = open_request(pair, guest, transfer.migration_id)
    with pytest.raises(errors.FailedPrecondition) as replayed:
        client.call(stub.OpenSession, request)
    assert replayed.value.reason == "MIGRATION_STATE"
