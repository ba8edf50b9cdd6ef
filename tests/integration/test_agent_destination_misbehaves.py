"""A source believes of a destination only what it can check, and ends clearly when it cannot."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from agent.hypervisors.shelf import Shelf
from agent.service import TransferService
from agent.settings import Settings, TransferSettings
from agent.transfer import dataplane, dataport, frames, jobs
from agent.transfer.jobs import Jobs
from tests.conftest import HUB, OSAKA, Federation, Serve
from tests.support.agents import ENDED
from tests.support.arriving import RECEIVER, SENDER, SENDING_MANAGER, Destination
from tests.support.running import no_hooks
from tests.support.shelves import MIB, Content, put_machine
from watari import clock, errors, failpoint, identity, rpc
from watari.settings import IdentitySettings
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

WAIT_SECONDS_MAX = 60.0
UNUSED = IdentitySettings(Path("unused"), Path("unused"), Path("unused"))


class Wicked(TransferService):
    """A destination's control port whose answers a test can change."""

    opened: Callable[[agent_pb2.OpenSessionResponse], None] = staticmethod(lambda _: None)
    completed: Callable[[agent_pb2.CompleteSessionResponse], None] = staticmethod(lambda _: None)

    def OpenSession(
        self, request: agent_pb2.OpenSessionRequest, context: grpc.ServicerContext
    ) -> agent_pb2.OpenSessionResponse:
        response = super().OpenSession(request, context)
        self.opened(response)
        return response

    def CompleteSession(
        self, request: agent_pb2.CompleteSessionRequest, context: grpc.ServicerContext
    ) -> agent_pb2.CompleteSessionResponse:
        response = super().CompleteSession(request, context)
        self.completed(response)
        return response


class Both:
    """A source and a wicked destination in this process."""

    def __init__(
        self, federation: Federation, folder: Path, serve: Serve, stall_seconds_max: float
    ) -> None:
        self.federation = federation
        self.folder = folder
        transfer = TransferSettings(credit_bytes=2 * MIB)
        self.destination = Destination(federation, folder / "osaka", transfer)
        self.accept: dataport.Accept = self.destination.sessions.accept
        self.data, port = dataport.serve(
            "127.0.0.1:0",
            self.destination.sessions.admits,
            self._accept,
            window_bytes=1 << 23,
            streams_max=8,
        )
        self.data.start()
        self.destination.sessions.data.address = f"127.0.0.1:{port}"
        self.wicked = Wicked(self.destination.sessions)
        self.target: rpc.Target = serve(
            str(RECEIVER),
            lambda server: agent_pb2_grpc.add_TransferServiceServicer_to_server(
                self.wicked, server
            ),
        )
        self.shelf = Shelf(folder / "tokyo", clock.SystemClock(), 3600)
        settings = Settings(
            identity=UNUSED,
            cloud_id="tokyo",
            host_id="host1",
            manager=SENDING_MANAGER,
            shelf=folder / "tokyo",
            transfer=TransferSettings(stall_seconds_max=stall_seconds_max, sending_max=1),
        )
        own = federation.party(str(SENDER))
        self.jobs = Jobs(self.shelf, no_hooks(), own, settings, clock.SystemClock())

    def request(self, *, rate: int = 0, size: int = MIB) -> agent_pb2.StartTransferRequest:
        """The transfer of a held machine."""
        migration_id = str(uuid.uuid4())
        vm_id = put_machine(
            self.folder / "tokyo", migration_id[:8], {"vda": Content(size, ((0, size),))}
        )
        self.shelf.hold(vm_id, migration_id)
        grant = self.destination.grant(migration_id, vm_id)
        grant.disks[0].size_bytes = size
        grant.bytes_max = 2 * size + MIB
        grant.rate_bytes_per_second_max = rate
        grant.expires_at.FromDatetime(datetime.now(UTC) + timedelta(minutes=5))
        return agent_pb2.StartTransferRequest(
            migration_id=migration_id,
            vm_id=vm_id,
            grant=self.destination.signed(grant),
            destination_control=common_pb2.Endpoint(
                address=self.target.address, spiffe_id=str(RECEIVER)
            ),
        )

    def ended(self, request: agent_pb2.StartTransferRequest) -> agent_pb2.Transfer:
        """The transfer once it has ended."""
        *_, last = self.jobs.watch(request.migration_id, threading.Event())
        assert last.state in ENDED
        return last

    def move(self) -> agent_pb2.Transfer:
        """A whole transfer."""
        request = self.request()
        self.jobs.start(request)
        return self.ended(request)

    def _accept(
        self, stream: dataplane.StreamId, messages: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        return self.accept(stream, messages, cut)

    def close(self) -> None:
        """Ends both sides."""
        self.jobs.close()
        self.destination.sessions.close()
        self.data.stop(0).wait(10)
        self.shelf.close()
        self.destination.close()


@pytest.fixture
def stall_seconds_max() -> float:
    """After how long the source gives up a transfer in which nothing moves."""
    return WAIT_SECONDS_MAX


@pytest.fixture
def both(
    federation: Federation, tmp_path: Path, serve: Serve, stall_seconds_max: float
) -> Iterator[Both]:
    hosts = Both(federation, tmp_path, serve, stall_seconds_max)
    yield hosts
    hosts.close()


def test_an_honest_destination_is_believed(both: Both) -> None:
    """With more content than credit, too."""
    request = both.request(size=5 * MIB)
    both.jobs.start(request)
    assert both.ended(request).state == agent_pb2.TRANSFER_STATE_SUCCEEDED


def resigned(both: Both, change: Callable[[common_pb2.Receipt], object], signer: str) -> None:
    """The destination answers with a changed receipt."""

    def completed(response: agent_pb2.CompleteSessionResponse) -> None:
        receipt = common_pb2.Receipt.FromString(response.receipt.payload)
        change(receipt)
        party = both.federation.party(signer)
        signed = identity.sign(party, receipt.SerializeToString(), "receipt")
        response.receipt.CopyFrom(signed)

    both.wicked.completed = completed


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: setattr(receipt.disks[0], "root", bytes(32)),
        lambda receipt: setattr(receipt, "root", bytes(32)),
        lambda receipt: setattr(receipt, "migration_id", str(uuid.uuid4())),
        lambda receipt: setattr(receipt, "vm_id", str(uuid.uuid4())),
        lambda receipt: setattr(receipt, "destination_epoch", 3),
        lambda receipt: setattr(receipt, "definition_sha256", bytes(32)),
        lambda receipt: receipt.disks.add(disk_id="vdb"),
    ],
)
def test_a_receipt_for_anything_else_is_no_success(
    both: Both, change: Callable[[common_pb2.Receipt], object]
) -> None:
    resigned(both, change, str(RECEIVER))
    transfer = both.move()
    assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
    assert transfer.problem.reason == "RECEIPT_MISMATCH"


def test_a_receipt_that_somebody_else_signed_is_no_success(both: Both) -> None:
    resigned(both, lambda _: None, f"spiffe://{OSAKA}/agent/host2")
    assert both.move().problem.reason == "SIGNATURE_INVALID"


def test_keys_of_another_handshake_are_refused(both: Both) -> None:
    def opened(response: agent_pb2.OpenSessionResponse) -> None:
        transcript = agent_pb2.SessionTranscript.FromString(response.transcript.payload)
        transcript.cipher_key_bits = 256
        own = both.destination.own
        response.transcript.CopyFrom(
            identity.sign(own, transcript.SerializeToString(), "session-receiver")
        )

    both.wicked.opened = opened
    assert both.move().problem.reason == "SIGNATURE_INVALID"


def test_a_destination_cannot_make_a_source_dial_anything_but_a_host(both: Both) -> None:
    def opened(response: agent_pb2.OpenSessionResponse) -> None:
        response.data.address = "unix:/run/some.socket"

    both.wicked.opened = opened
    assert both.move().problem.reason == "INVALID_FIELD"


def answering(*messages: bytes, after: threading.Event | None = None) -> dataport.Accept:
    """A data port that reads nothing and answers this."""

    def accept(
        stream: dataplane.StreamId, sent: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        if after is not None:
            after.wait(WAIT_SECONDS_MAX)
        return iter(messages)

    return accept


def test_a_data_port_that_ends_a_stream_early_is_an_error(both: Both) -> None:
    both.accept = answering()
    transfer = both.move()
    assert transfer.problem.reason == "PEER_ERROR"
    assert transfer.problem.retryable


def test_a_data_port_that_answers_garbage_is_an_error(both: Both) -> None:
    both.accept = answering(b"garbage" * 10)
    assert both.move().problem.reason == "FRAME_INVALID"


@pytest.mark.parametrize("answer", [frames.Ack(1000, 0), frames.Zeros(0, 0, MIB)])
def test_a_destination_that_settles_what_was_never_sent_is_an_error(
    both: Both, answer: frames.Frame
) -> None:
    def accept(
        stream: dataplane.StreamId, sent: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        keys = both.destination.sessions._session(stream.session_id)._keys
        sealer, _ = keys.receiver_stream(stream.number)
        yield sealer.seal(answer)

    both.accept = accept
    assert both.move().problem.reason == "FRAME_INVALID"


@pytest.mark.parametrize("stall_seconds_max", [1.0])
def test_a_data_port_that_takes_everything_and_settles_nothing_is_given_up(both: Both) -> None:
    given_up = threading.Event()
    both.accept = answering(after=given_up)
    transfer = both.move()
    given_up.set()
    assert transfer.problem.reason == "PEER_UNAVAILABLE"
    assert "no data has moved for 1 s" in transfer.problem.message


def test_why_a_session_broke_is_asked_for_on_the_control_port(both: Both) -> None:
    with failpoint.armed("agent.receiving.frame_written", "1*error(DISK_FULL)"):
        assert both.move().problem.reason == "DISK_FULL"


def test_a_transfer_that_is_cancelled_while_it_completes_ends_as_cancelled(both: Both) -> None:
    request = both.request()
    both.wicked.completed = lambda _: both.jobs.cancel(request.migration_id) and None
    both.jobs.start(request)
    transfer = both.ended(request)
    assert transfer.state == agent_pb2.TRANSFER_STATE_CANCELLED
    assert not transfer.HasField("receipt")


def test_a_transfer_is_joined_while_it_runs_and_returned_once_it_succeeded(both: Both) -> None:
    request, go_on = both.request(), threading.Event()
    both.wicked.completed = lambda _: go_on.wait(WAIT_SECONDS_MAX) and None
    started = both.jobs.start(request)
    assert both.jobs.start(request).started_at == started.started_at
    other = both.request()
    with pytest.raises(errors.Exhausted) as caught:
        both.jobs.start(other)
    assert caught.value.reason == "TOO_MANY_TRANSFERS"
    go_on.set()
    succeeded = both.ended(request)
    assert succeeded.state == agent_pb2.TRANSFER_STATE_SUCCEEDED
    assert both.jobs.start(request).receipt == succeeded.receipt


def test_no_limit_lifts_what_the_grant_allows(both: Both) -> None:
    request = both.request(rate=2 * MIB, size=4 * MIB)
    began = time.monotonic()
    both.jobs.start(request)
    both.jobs.set_limit(request.migration_id, 0, ())
    assert both.ended(request).state == agent_pb2.TRANSFER_STATE_SUCCEEDED
    assert time.monotonic() - began > 1


def test_a_machine_that_the_migration_does_not_hold_is_not_sent(both: Both) -> None:
    request = both.request()
    both.shelf.unhold(request.vm_id, request.migration_id)
    with pytest.raises(errors.FailedPrecondition) as caught:
        both.jobs.start(request)
    assert caught.value.reason == "VM_BUSY"


def test_a_grant_for_another_machine_sends_none(both: Both) -> None:
    request, other = both.request(), both.request()
    both.shelf.unhold(other.vm_id, other.migration_id)
    both.shelf.hold(other.vm_id, request.migration_id)
    request.vm_id = other.vm_id
    with pytest.raises(errors.Denied) as caught:
        both.jobs.start(request)
    assert caught.value.reason == "GRANT_INVALID"


def test_a_manager_vouches_for_no_other_providers_agent(both: Both) -> None:
    request = both.request()
    grant = common_pb2.Grant.FromString(request.grant.granted.payload)
    grant.destination_agent = f"spiffe://{HUB}/agent/host1"
    request.grant.CopyFrom(both.destination.signed(grant))
    request.destination_control.spiffe_id = grant.destination_agent
    with pytest.raises(errors.Denied) as caught:
        both.jobs.start(request)
    assert "different providers" in caught.value.message


def test_a_machine_with_a_problem_is_not_sent(both: Both) -> None:
    request = both.request()
    folder = both.folder / "tokyo" / "vms" / request.migration_id[:8]
    (folder / "vda.raw").unlink()
    with pytest.raises(errors.FailedPrecondition) as caught:
        both.jobs.start(request)
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_of_ended_transfers_only_so_many_are_remembered_and_without_their_content(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FINISHED_KEPT_MAX", 1)
    both.accept = answering()
    ids = [both.move().migration_id for _ in range(3)]
    error = both.jobs.get(ids[1]).failure.error
    assert error is not None
    assert error.__traceback__ is None
    with pytest.raises(errors.NotFound) as caught:
        both.jobs.get(ids[0])
    assert caught.value.reason == "TRANSFER_NOT_FOUND"
