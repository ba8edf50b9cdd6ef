"""Who has no session's keys learns nothing from the data port, and ends nothing by connecting."""

import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from agent.settings import TransferSettings
from agent.transfer import dataplane, dataport, frames
from agent.transfer.dataplane import StreamId
from tests.conftest import Federation
from tests.support.arriving import Destination, Session
from tests.support.directory_server import eventually

END = frames.End()
UNKNOWN = (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
"""What gRPC says to a method that there is not."""
CUT = (grpc.StatusCode.CANCELLED, "CANCELLED")
"""What it says to a stream that is cut."""

Metadata = tuple[tuple[str, str], ...]


class Port:
    """A destination's data port, and the bytes that a stranger or its sender sends there."""

    def __init__(self, host: Destination, port: int) -> None:
        self.host = host
        self.channel = dataplane.connect(f"127.0.0.1:{port}")

    def call(
        self, metadata: Metadata, messages: list[bytes], method: str = dataplane.METHOD
    ) -> tuple[grpc.StatusCode, str]:
        call = self.channel.stream_stream(method)(
            iter(messages), metadata=metadata, timeout=30, wait_for_ready=True
        )
        with contextlib.suppress(grpc.RpcError):
            list(call)
        return call.code(), call.details()

    def send(self, session: Session, *sent: frames.Frame, number: int = 1) -> list[frames.Frame]:
        """A whole stream as its sender sends it."""
        proof = session.keys.stream_proof(number)
        stream = StreamId(session.session_id, number, proof)
        call = dataplane.open_stream(self.channel, stream, session.sealed(sent, number), 10)
        return list(session.opened(call, number))


@pytest.fixture
def port(federation: Federation, tmp_path: Path) -> Iterator[Port]:
    host = Destination(federation, tmp_path, TransferSettings(stall_seconds_max=60))
    server, number = dataport.serve(
        "127.0.0.1:0",
        host.sessions.admits,
        host.sessions.accept,
        window_bytes=1 << 20,
        streams_max=4,
    )
    server.start()
    yield Port(host, number)
    host.close()
    server.stop(0).wait(10)


def metadata(session: Session, number: int = 1, **changed: str) -> Metadata:
    values = {
        "watari-session": session.session_id,
        "watari-stream": str(number),
        "watari-proof": session.keys.stream_proof(number).hex(),
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return tuple(values.items())


def test_all_that_is_refused_is_answered_in_the_same_words(port: Port) -> None:
    session, other = port.host.open(port.host.grant()), port.host.open(port.host.grant())
    good, first = metadata(session), list(session.sealed([session.data()]))
    closed = port.host.open(port.host.grant())
    port.host.sessions.abort(closed.session_id, closed_sender(closed))
    port.send(other, other.data(), END)
    refused: dict[str, Metadata] = {
        "no metadata": (),
        "no proof": good[:2],
        "no stream": good[::2],
        "no session": good[1:],
        "no number": metadata(session, watari_stream="x"),
        "a negative number": metadata(session, watari_stream="-1"),
        "a long number": metadata(session, watari_stream="1" * 10),
        "another number": metadata(session, watari_stream="7"),
        "not a session": metadata(session, watari_session="x"),
        "an unknown session": metadata(session, watari_session=str(uuid.uuid4())),
        "another session": metadata(session, watari_session=other.session_id),
        "a closed session": metadata(closed),
        "a taken stream": metadata(other),
        "no hexadecimal proof": metadata(session, watari_proof="x" * 64),
        "a short proof": metadata(session, watari_proof="00" * 31),
        "a long proof": metadata(session, watari_proof="00" * 33),
        "a wrong proof": metadata(session, watari_proof="00" * 32),
        "the proof of another stream": metadata(session, watari_proof=proof(session, 2)),
        "the proof of another session": metadata(session, watari_proof=proof(other, 1)),
    }
    for messages in ([], [b"x"], [bytes(1 << 20)] * 3, first):
        answers = {name: port.call(value, messages) for name, value in refused.items()}
        assert set(answers.values()) == {UNKNOWN}, answers
    ping = port.call(good, [], "/watari.v1.TransferData/Ping")
    assert ping == port.call(good, [], "/nothing/AtAll") == UNKNOWN
    port.send(session, session.data(), END)
    port.host.complete(session)
    port.host.complete(other)


def closed_sender(session: Session) -> dataplane.SpiffeId:
    return dataplane.SpiffeId.parse(session.grant.source_agent)


def proof(session: Session, number: int) -> str:
    return session.keys.stream_proof(number).hex()


def test_two_at_once_with_the_same_proof_are_one_and_a_refusal(port: Port) -> None:
    session = port.host.open(port.host.grant())
    messages = list(session.sealed([session.data(), END]))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(port.call, metadata(session), messages) for _ in range(2)]
        answers = {call.result() for call in calls}
    assert answers == {UNKNOWN, (grpc.StatusCode.OK, "")}
    port.host.complete(session)


@pytest.mark.parametrize("messages", [[], [b"x"], [b"x" * 4096] * 3, [bytes(1 << 20)]])
def test_who_overheard_the_metadata_ends_nothing_and_keeps_nobody_out(
    port: Port, messages: list[bytes]
) -> None:
    session = port.host.open(port.host.grant())
    stream = StreamId(session.session_id, 1, session.keys.stream_proof(1))
    for _ in range(3):
        assert port.call(metadata(session), messages) in {UNKNOWN, CUT}
    # Who is cut off knows it before the receiver's thread has ended.
    eventually(lambda: port.host.sessions.admits(stream), "the sender may begin its stream")
    port.send(session, session.data(), END)
    assert port.call(metadata(session), messages) == UNKNOWN
    port.host.complete(session)


def test_a_recorded_stream_is_refused_while_and_after_it_runs(port: Port) -> None:
    session = port.host.open(port.host.grant())
    messages = list(session.sealed([session.data(), END]))
    answers: list[tuple[grpc.StatusCode, str]] = []

    def sent() -> Iterator[bytes]:
        yield messages[0]
        answers.append(port.call(metadata(session), messages))
        yield messages[1]

    stream = StreamId(session.session_id, 1, session.keys.stream_proof(1))
    list(dataplane.open_stream(port.channel, stream, sent(), 10))
    answers.append(port.call(metadata(session), messages))
    assert answers == [UNKNOWN] * 2
    port.host.complete(session)


def test_why_a_stream_ended_is_not_said_on_the_data_port(port: Port) -> None:
    answers = set()
    for bad in (frames.Zeros(7, 0, 65_536), frames.Zeros(0, 1 << 40, 65_536), frames.Ack(0, 0)):
        session = port.host.open(port.host.grant())
        answers.add(port.call(metadata(session), list(session.sealed([bad]))))
        problem = port.host.sessions.abort(session.session_id, closed_sender(session))
        assert problem is not None
        assert problem.reason == "FRAME_INVALID"
    assert answers == {CUT}
