"""What the destination has already is not sent, is nobody else's, and never makes a wrong disk."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.seeds.images import Identity
from tests.conftest import Federation
from tests.support import agents
from tests.support.clouds import eventually
from tests.support.shelves import KIB, MIB, Content, identical, put_machine, write_disk
from watari.v1 import agent_pb2, common_pb2

DATA = 8 * MIB
SHIFT = 12 * KIB
IMAGE = Content(10 * MIB, ((0, DATA),))
SHIFTED = Content(10 * MIB, ((SHIFT, DATA),))
"""The same 4 KiB blocks as IMAGE in a disk of the same name, none of them in the same place."""


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path)


def arrive(pair: agents.Pair, name: str, content: Content, tenant: str) -> common_pb2.Progress:
    """Moves a new machine, and tells how once its disk is known to be right."""
    vm_id = put_machine(pair.source.shelf, name, {"vda": content}, tenant)
    return arrived(pair, vm_id, pair.migrate(vm_id))


def arrived(pair: agents.Pair, vm_id: str, transfer: agent_pb2.Transfer) -> common_pb2.Progress:
    kept = pair.source.shelf / "retained" / transfer.migration_id / "vda.raw"
    assert identical(kept, pair.destination.disk(vm_id, "vda"))
    return transfer.progress


def seeded(pair: agents.Pair) -> Path:
    """A machine of tenant acme that has arrived; its disk."""
    vm_id = put_machine(pair.source.shelf, "first", {"vda": IMAGE}, "acme")
    pair.migrate(vm_id)
    return pair.destination.disk(vm_id, "vda")


def wait_indexed(pair: agents.Pair) -> Path:
    """The one index of the destination, once it is there."""
    deadline = time.monotonic() + 60
    while len(found := list(pair.destination.shelf.glob("seeds/indexes/*.sqlite"))) != 1:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found[0]


def test_blocks_of_the_same_tenant_are_found_at_any_offset(pair: agents.Pair) -> None:
    seeded(pair)
    progress = arrive(pair, "second", SHIFTED, "acme")
    assert progress.sent_bytes == 0
    assert progress.deduplicated_bytes == DATA + 64 * KIB  # leaves that are not zero
    assert progress.wire_bytes < DATA // 20


def test_what_is_lacking_among_found_blocks_is_all_that_is_sent(pair: agents.Pair) -> None:
    seeded(pair)
    vm_id = put_machine(pair.source.shelf, "second", {"vda": SHIFTED}, "acme")
    with (pair.source.shelf / "vms" / "second" / "vda.raw").open("r+b") as disk:
        for number in range(32):
            disk.seek(number * 256 * KIB + SHIFT)
            disk.write((number + 1).to_bytes(2, "big") * 2 * KIB)
    progress = arrived(pair, vm_id, pair.migrate(vm_id))
    assert progress.sent_bytes == progress.needed_bytes == 32 * 4 * KIB
    assert progress.deduplicated_bytes >= DATA - 32 * 4 * KIB


def test_another_tenant_gets_nothing_from_it(pair: agents.Pair) -> None:
    seeded(pair)
    progress = arrive(pair, "second", IMAGE, "rival")
    assert progress.deduplicated_bytes == 0
    assert progress.sent_bytes == DATA
    assert progress.wire_bytes > DATA


def test_a_tenant_of_the_same_name_at_another_provider_gets_nothing(pair: agents.Pair) -> None:
    put_machine(pair.destination.shelf, "native", {"vda": IMAGE}, "acme")
    progress = arrive(pair, "second", IMAGE, "acme")
    assert progress.deduplicated_bytes == 0
    assert progress.sent_bytes == DATA


def test_a_machine_that_comes_back_sends_what_has_changed(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "first", {"vda": IMAGE}, "acme")
    pair.migrate(vm_id)
    with pair.destination.disk(vm_id, "vda").open("r+b") as disk:
        for leaf in (0, 17, 150):  # the last one was a hole
            disk.seek(leaf * 64 * KIB + 100)
            disk.write(b"changed while it was away")
        disk.seek(40 * 64 * KIB)
        disk.write(bytes(64 * KIB))
    back = pair.back()
    progress = arrived(back, vm_id, back.migrate(vm_id))
    assert progress.sent_bytes == 3 * 64 * KIB
    assert progress.deduplicated_bytes == DATA - 3 * 64 * KIB
    assert progress.wire_bytes < 4 * 64 * KIB


@pytest.mark.parametrize("tenant", ["acme", "rival"])
def test_public_images_serve_every_tenant(
    federation: Federation, tmp_path: Path, tenant: str
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    write_disk(public / "vda.raw", IMAGE)
    options = f'public_images = "{public}"'
    with agents.running(federation, tmp_path, destination=options) as pair:
        progress = arrive(pair, "web", SHIFTED, tenant)
        assert progress.sent_bytes == 0
        assert progress.deduplicated_bytes >= DATA
        assert progress.wire_bytes < DATA // 20


def test_a_seed_that_was_overwritten_gives_what_it_still_has(pair: agents.Pair) -> None:
    disk = seeded(pair)
    wait_indexed(pair)
    with disk.open("r+b") as file:
        file.write(b"x" * (DATA // 2))
    progress = arrive(pair, "second", SHIFTED, "acme")
    assert progress.sent_bytes == DATA // 2
    assert progress.deduplicated_bytes >= DATA // 2


def test_an_index_that_lies_costs_time_and_never_correctness(pair: agents.Pair) -> None:
    """Two blocks of each leaf are not what the index says, though the image looks unchanged."""
    disk = seeded(pair)
    index = wait_indexed(pair)
    with disk.open("r+b") as file:
        for at in range(0, DATA, 64 * KIB):
            file.seek(at)
            file.write(at.to_bytes(4, "big") * 2 * KIB)
    with sqlite3.connect(index) as connection:
        identity = Identity.of(disk)
        assert identity is not None
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(str(value), name) for name, value in asdict(identity).items()],
        )
    connection.close()
    # Some leaves are found whole and wrong, others in part, which only shows when the rest is here.
    vm_id = put_machine(pair.source.shelf, "second", {"vda": SHIFTED}, "acme")
    with (pair.source.shelf / "vms" / "second" / "vda.raw").open("r+b") as file:
        for at in range(0, DATA, 128 * KIB):
            file.seek(at + 32 * KIB)
            file.write(b"new" + at.to_bytes(5, "big") * 819)
    progress = arrived(pair, vm_id, pair.migrate(vm_id))
    assert progress.needed_bytes >= DATA
    assert progress.sent_bytes > DATA  # parts first, and then the whole


def test_a_seed_that_is_overwritten_in_the_middle_is_not_used_any_more(pair: agents.Pair) -> None:
    disk = seeded(pair)
    pair.destination.process.stop()
    pair.destination.process.start(
        {"WATARI_FAILPOINTS": "agent.receiving.offer_answered=3*off->1*stop"}
    )
    # In each parent of 4 MiB one half is known and the other is new.
    vm_id = put_machine(pair.source.shelf, "second", {"vda": Content(32 * MIB)}, "acme")
    original = pair.source.shelf / "vms" / "second" / "vda.raw"
    known = disk.read_bytes()[:DATA]
    with original.open("r+b") as file:
        for number in range(8):
            file.seek(number * 4 * MIB)
            file.write(known[: 2 * MIB] + known[::-1][number : number + 2 * MIB])
    migration_id = pair.start(vm_id)
    eventually(pair.destination.process.stopped, "it stands still in the middle")
    with disk.open("r+b") as file:
        file.write(b"x" * DATA)
    pair.destination.process.go_on()
    transfer = pair.source.wait_ended(migration_id)
    assert transfer.state == agent_pb2.TRANSFER_STATE_SUCCEEDED, transfer.problem
    pair.activate(migration_id)
    assert identical(original, pair.destination.disk(vm_id, "vda"))
    log = (pair.destination.folder / "agent.log").read_text()
    assert "image no longer used as a seed" in log
    assert 2 * MIB <= transfer.progress.deduplicated_bytes < 16 * MIB
