"""What lost its trust is cut while it runs, at both agents, and nothing becomes a machine."""

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.transfer import standing
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import agents
from tests.support.shelves import MIB, Content, put_machine
from watari import errors
from watari.identity import Denial, SpiffeId, denials
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

DISK = Content(24 * MIB, ((0, 24 * MIB),))
SLOW = {"limit_bytes_per_second": 2 * MIB}
CUT_SECONDS_MAX = 30.0

SENDER = SpiffeId.parse(f"spiffe://{TOKYO}/agent/host1")
RECEIVER = SpiffeId.parse(f"spiffe://{OSAKA}/agent/host1")


@pytest.fixture
def pair(own_federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    """Two agents, each with a trust folder of its own."""
    for party in (SENDER, RECEIVER):
        shutil.copytree(own_federation.trust_folder, trust_of(own_federation, party))
    yield from agents.pair(own_federation, tmp_path)


def trust_of(federation: Federation, party: SpiffeId) -> Path:
    return federation.folder / str(party).removeprefix("spiffe://").replace("/", "_") / "trust"


def remove(folder: Path, peer: SpiffeId) -> Callable[[], object]:
    """Drops a peer's provider; returns how to accept it again."""
    path, aside = folder / f"{peer.domain}.pem", folder / "aside"
    path.rename(aside)
    return lambda: aside.rename(path)


def deny(folder: Path, peer: SpiffeId) -> Callable[[], object]:
    """Denies a peer by its own provider's word; returns how to take that back."""
    moment = datetime.now(UTC) + timedelta(seconds=1)
    denials.save(folder, peer.domain, [Denial(peer, moment, "its key was lost")])
    return denials.path_of(folder, peer.domain).unlink


def wait_closed(pair: agents.Pair, migration_id: str, until: float) -> None:
    """Until the destination has no session of a migration."""
    while True:
        try:
            pair.destination.transfer(migration_id)
        except errors.NotFound:
            return
        assert time.monotonic() < until, "the session is still open"
        time.sleep(0.05)


def tried_again(pair: agents.Pair, migration_id: str, grant: common_pb2.SignedGrant) -> str:
    """Why another attempt fails, at once or soon."""
    try:
        pair.start_again(migration_id, grant)
    except errors.Unauthenticated as error:
        return error.reason
    return pair.source.wait_ended(migration_id).problem.reason


@pytest.mark.parametrize(
    ("lose", "reason"), [(remove, "PROVIDER_UNKNOWN"), (deny, "CERTIFICATE_DENIED")]
)
@pytest.mark.parametrize(
    ("by", "whom"), [(RECEIVER, SENDER), (SENDER, RECEIVER)], ids=["receiver", "sender"]
)
def test_a_peer_that_lost_its_trust_is_cut_at_both_ends_and_nothing_becomes_a_machine(
    pair: agents.Pair,
    own_federation: Federation,
    lose: Callable[[Path, SpiffeId], Callable[[], object]],
    reason: str,
    by: SpiffeId,
    whom: SpiffeId,
) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    pair.source.wait_done(migration_id, MIB)
    regain = lose(trust_of(own_federation, by), whom)
    until = time.monotonic() + CUT_SECONDS_MAX
    transfer = pair.source.wait_ended(migration_id, CUT_SECONDS_MAX)
    assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
    assert transfer.problem.reason == reason
    assert not transfer.problem.retryable
    assert transfer.progress.done_bytes < DISK.size, "it was cut while it ran"
    wait_closed(pair, migration_id, until)

    activate = agent_pb2.ActivateIncomingRequest(migration_id=migration_id, epoch=2)
    with pytest.raises(errors.FailedPrecondition) as caught:
        client.call(pair.destination.stub.ActivateIncoming, activate)
    assert caught.value.reason == "MIGRATION_STATE"
    assert pair.destination.guests() == []
    grant = pair.grant(pair.source.guest(vm_id), migration_id)
    assert tried_again(pair, migration_id, grant) == reason

    regain()
    pair.start_again(migration_id, grant)
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    pair.activate(migration_id)
    assert [guest.vm_id for guest in pair.destination.guests()] == [vm_id]


def test_others_are_not_cut(pair: agents.Pair, own_federation: Federation) -> None:
    vm_id = put_machine(pair.source.shelf, "web", {"vda": DISK})
    migration_id = pair.start(vm_id, **SLOW)
    pair.source.wait_done(migration_id, MIB)
    other = SpiffeId.parse(f"spiffe://{TOKYO}/agent/host2")
    deny(trust_of(own_federation, RECEIVER), other)
    deny(trust_of(own_federation, SENDER), SpiffeId.parse(f"spiffe://{OSAKA}/agent/host2"))
    remove(trust_of(own_federation, RECEIVER), SpiffeId.parse("spiffe://hub.example/agent/a"))
    time.sleep(2 * standing.CHECK_SECONDS)
    assert pair.source.transfer(migration_id).state == agent_pb2.TRANSFER_STATE_COPYING
    lift = agent_pb2.SetTransferLimitRequest(migration_id=migration_id)
    client.call(pair.source.stub.SetTransferLimit, lift)
    assert pair.source.wait_ended(migration_id).state == agent_pb2.TRANSFER_STATE_SUCCEEDED
