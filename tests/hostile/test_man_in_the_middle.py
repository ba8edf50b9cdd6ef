"""Somebody in the middle of the data path: never a wrong byte, always a clear end.

Whatever is done to the frames, a transfer succeeds with identical disks or fails with a reason, and
soon; nothing half-made becomes a machine; an attempt that is left alone succeeds.
"""

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import agents, middle, processes
from tests.support.middle import TO_RECEIVER, TO_SENDER, Change, Way
from tests.support.shelves import MIB, Content, identical, put_machine
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2

HURRY = "[agent.transfer]\nstall_seconds_max = 3"
SHARED = 3 * MIB
DISK = Content(6 * MIB, ((0, 6 * MIB),))
END_SECONDS_MAX = 60.0
REASONS = {"FRAME_INVALID", "PEER_ERROR", "PEER_UNAVAILABLE", "DIGEST_MISMATCH"}
COUNTER = slice(8, 16)


@dataclass
class World:
    """Two agents with somebody in between."""

    pair: agents.Pair
    shared: bytes
    """What the destination has already."""
    numbers: Iterator[int]

    def attempt(self) -> tuple[str, str, agent_pb2.Transfer]:
        """Moves a machine of which the destination knows one half; how that ended."""
        name = f"web-{next(self.numbers)}"
        vm_id = put_machine(self.pair.source.shelf, name, {"vda": DISK})
        with (self.pair.source.shelf / "vms" / name / "vda.raw").open("r+b") as disk:
            disk.write(self.shared + os.urandom(DISK.size - len(self.shared)))
        migration_id = self.pair.start(vm_id, streams=2)
        return vm_id, name, self.pair.source.wait_ended(migration_id, END_SECONDS_MAX)

    def check(self, vm_id: str, name: str, transfer: agent_pb2.Transfer) -> None:
        """It succeeded, or failed clearly and left no machine; another attempt succeeds."""
        migration_id = transfer.migration_id
        original = self.pair.source.shelf / "vms" / name / "vda.raw"
        if transfer.state != agent_pb2.TRANSFER_STATE_SUCCEEDED:
            assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
            assert transfer.problem.reason in REASONS, transfer.problem
            self.check_nothing_half_made(vm_id, original, migration_id)
            grant = self.pair.grant(self.pair.source.guest(vm_id), migration_id)
            self.pair.start_again(migration_id, grant)
            transfer = self.pair.source.wait_ended(migration_id, END_SECONDS_MAX)
            assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
        self.pair.activate(migration_id)
        assert identical(original, self.pair.destination.disk(vm_id, "vda"))

    def check_nothing_half_made(self, vm_id: str, original: Path, migration_id: str) -> None:
        """What is incomplete cannot be activated. When the source heard no more of it the arrival
        may be complete all the same: then every byte is there, and it waits for its manager's word.
        """
        stub = self.pair.destination.stub
        listing = client.call(stub.ListIncoming, agent_pb2.ListIncomingRequest())
        (arrived,) = [each for each in listing.incoming if each.migration_id == migration_id]
        if arrived.complete:
            folder = self.pair.destination.shelf / "incoming" / migration_id
            assert identical(original, folder / "vda.raw")
        else:
            activate = agent_pb2.ActivateIncomingRequest(migration_id=migration_id, epoch=2)
            with pytest.raises(errors.FailedPrecondition):
                client.call(stub.ActivateIncoming, activate)
        assert vm_id not in {guest.vm_id for guest in self.pair.destination.guests()}


@dataclass
class Framed(World):
    """Somebody who sees frames."""

    frames: middle.Frames

    def came(self, number: int) -> int:
        """How many frames came on a stream of the latest session, the last one included."""
        ways = [way for way in self.frames.history if way[1:] == (number, TO_RECEIVER)]
        return len(self.frames.history[ways[-1]])


@dataclass
class Wired(World):
    """Somebody who sees bytes."""

    wire: middle.Wire


@pytest.fixture(scope="module")
def world(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Framed]:
    port = processes.free_port()
    there = f'advertised_data_address = "127.0.0.1:{port}"\n{HURRY}'
    folder = tmp_path_factory.mktemp("middle")
    with agents.running(federation, folder, source=HURRY, destination=there) as pair:
        frames = middle.Frames(pair.destination.data_port, port)
        first = put_machine(pair.source.shelf, "first", {"vda": Content(SHARED, ((0, SHARED),))})
        shared = (pair.source.shelf / "vms" / "first" / "vda.raw").read_bytes()
        pair.migrate(first)
        yield Framed(pair, shared, itertools.count(), frames)
        frames.close()


def dropped(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    next(rest, None)
    yield from rest


def repeated(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    message = next(rest, b"")
    yield message
    yield message
    yield from rest


def swapped(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    first = next(rest, b"")
    yield from itertools.islice(rest, 1)
    yield first
    yield from rest


def cut_off(_way: Way, _at: int, _rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from ()


def altered(at: int) -> Change:
    """One bit of a message, counted from its end where `at` is negative."""

    def change(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
        message = bytearray(next(rest, bytes(64)))
        message[at] ^= 1
        yield bytes(message)
        yield from rest

    return change


def shortened(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield next(rest, b"x")[:-1]
    yield from rest


def joined(_way: Way, _at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield next(rest, b"") + next(rest, b"")
    yield from rest


Splice = Callable[[dict[Way, list[bytes]], Way], list[list[bytes]]]


def of_another_stream(history: dict[Way, list[bytes]], way: Way) -> list[list[bytes]]:
    return [
        seen
        for other, seen in history.items()
        if other.session_id == way.session_id
        and other.direction == way.direction
        and other.number != way.number
    ]


def of_another_session(history: dict[Way, list[bytes]], way: Way) -> list[list[bytes]]:
    return [
        seen
        for other, seen in history.items()
        if other.session_id != way.session_id and other[1:] == way[1:]
    ]


def of_the_other_direction(history: dict[Way, list[bytes]], way: Way) -> list[list[bytes]]:
    return [
        seen
        for other, seen in history.items()
        if other.number == way.number and other.direction != way.direction
    ]


SPLICES: list[Splice] = [of_another_stream, of_another_session, of_the_other_direction]


def spliced(world: Framed, splice: Splice) -> Change:
    """A message of elsewhere in place of the next, with the counter that is due."""

    def change(way: Way, at: int, rest: Iterator[bytes]) -> Iterator[bytes]:
        next(rest, None)
        found = [seen for seen in splice(world.frames.history, way) if seen]
        assert found, "nothing to splice in was recorded"
        message = bytearray(found[-1][min(at, len(found[-1]) - 1)])
        message[COUNTER] = struct.pack("<Q", at)
        yield bytes(message)
        yield from rest

    return change


CHANGES: dict[str, Change] = {
    "dropped": dropped,
    "repeated": repeated,
    "swapped": swapped,
    "cut off": cut_off,
    "shortened": shortened,
    "joined": joined,
    "another type": altered(3),
    "another flag": altered(4),
    "another disk": altered(6),
    "another counter": altered(8),
    "another offset": altered(18),
    "another length": altered(24),
    "another size": altered(28),
    "the first sealed byte": altered(32),
    "the last of the tag": altered(-1),
}
UNNOTICED = {"repeated", "joined", "swapped"}
"""Changes of a last frame that nobody hears of, or that are none. It is the second one if another
stream was quicker, and a stream on which nothing but the last one comes is over before anything is
done to it.
"""

WAYS = [
    pytest.param(1, TO_RECEIVER, 1, id="content"),
    pytest.param(0, TO_RECEIVER, 1, id="offers"),
    pytest.param(1, TO_SENDER, 0, id="acknowledgements"),
    pytest.param(0, TO_SENDER, 0, id="answers"),
]


@pytest.mark.parametrize(("number", "direction", "after"), WAYS[:2])
@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_done_to_a_frame_the_transfer_ends_clearly(
    world: Framed, name: str, number: int, direction: str, after: int
) -> None:
    world.frames.applied.clear()
    world.frames.plan = (number, direction, after, CHANGES[name])
    vm_id, machine, transfer = world.attempt()
    assert world.frames.applied.is_set()
    if world.came(number) > (2 if name in UNNOTICED else 1):
        assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
    world.check(vm_id, machine, transfer)


@pytest.mark.parametrize(("number", "direction", "after"), WAYS[2:])
@pytest.mark.parametrize(
    "name", ["dropped", "repeated", "swapped", "cut off", "the last of the tag"]
)
def test_whatever_is_done_to_what_the_receiver_says_the_transfer_ends_clearly(
    world: Framed, name: str, number: int, direction: str, after: int
) -> None:
    """It may have succeeded when that is found."""
    world.frames.applied.clear()
    world.frames.plan = (number, direction, after, CHANGES[name])
    vm_id, machine, transfer = world.attempt()
    assert world.frames.applied.is_set()
    world.check(vm_id, machine, transfer)


@pytest.mark.parametrize(("number", "direction", "after"), WAYS)
@pytest.mark.parametrize("splice", SPLICES)
def test_a_frame_of_elsewhere_is_not_taken(
    world: Framed, splice: Splice, number: int, direction: str, after: int
) -> None:
    """Though its counter is the one that is due."""
    world.frames.applied.clear()
    world.frames.plan = (number, direction, after, spliced(world, splice))
    vm_id, machine, transfer = world.attempt()
    assert world.frames.applied.is_set()
    if direction == TO_RECEIVER and world.came(number) > 1:
        assert transfer.state == agent_pb2.TRANSFER_STATE_FAILED
    world.check(vm_id, machine, transfer)


@pytest.mark.parametrize("name", ["dropped", "repeated", "cut off", "the last of the tag"])
def test_the_first_frame_of_a_stream_is_as_safe_as_the_others(world: Framed, name: str) -> None:
    world.frames.plan = (1, TO_RECEIVER, 0, CHANGES[name])
    world.check(*world.attempt())


def test_nothing_happens_to_who_is_left_alone(world: Framed) -> None:
    vm_id, name, transfer = world.attempt()
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED
    assert transfer.progress.deduplicated_bytes == SHARED
    world.check(vm_id, name, transfer)


def flipped(data: bytes) -> bytes:
    middle_of = len(data) // 2
    return data[:middle_of] + bytes([data[middle_of] ^ 0x10]) + data[middle_of + 1 :]


EDITS: dict[str, middle.Edit] = {
    "a bit is flipped": flipped,
    "a byte is lost": lambda data: data[:-1],
    "a byte is added": lambda data: data + b"x",
    "a part comes twice": lambda data: data + data,
    "it is cut": lambda _: None,
}


@pytest.fixture(scope="module")
def wired(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """The same with a proxy that knows TCP only."""
    port = processes.free_port()
    there = f'advertised_data_address = "127.0.0.1:{port}"\n{HURRY}'
    folder: Path = tmp_path_factory.mktemp("wire")
    with agents.running(federation, folder, source=HURRY, destination=there) as pair:
        wire = middle.Wire(pair.destination.data_port, port)
        yield Wired(pair, b"", itertools.count(), wire)
        wire.close()


@pytest.mark.parametrize(
    ("direction", "position"),
    [(TO_RECEIVER, 300), (TO_RECEIVER, 2 * MIB), (TO_SENDER, 100)],
)
@pytest.mark.parametrize("name", EDITS)
def test_whatever_is_done_to_bytes_of_the_connection_the_transfer_ends_clearly(
    wired: Wired, name: str, direction: str, position: int
) -> None:
    wired.wire.applied.clear()
    wired.wire.plan = (direction, position, EDITS[name])
    vm_id, machine, transfer = wired.attempt()
    assert wired.wire.applied.is_set()
    wired.check(vm_id, machine, transfer)
