"""Machines cross between two real agents: every shape of disk arrives as it was."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.support import agents
from tests.support.shelves import KIB, MIB, Content, allocated, identical, put_machine
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

GIB = 1024 * MIB


@pytest.fixture(scope="module")
def pair(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[agents.Pair]:
    yield from agents.pair(federation, tmp_path_factory.mktemp("agents"))


def kept(pair: agents.Pair, transfer_migration_id: str, disk: str) -> Path:
    return pair.source.shelf / "retained" / transfer_migration_id / f"{disk}.raw"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sparse", Content(64 * MIB, ((0, 700 * KIB), (9 * MIB + 5, 3 * MIB), (63 * MIB, MIB)))),
        ("text", Content(24 * MIB, ((0, 24 * MIB),), text=True)),
        ("random-full", Content(20 * MIB, ((0, 20 * MIB),))),
        ("one-byte", Content(1, ((0, 1),))),
        ("no-multiple-of-anything", Content(5 * MIB + 12_345, ((0, 5 * MIB + 12_345),))),
        ("odd-tail-in-a-hole", Content(3 * MIB + 777, ((0, 10),))),
        ("scattered-blocks", Content(16 * MIB, tuple((i * 256 * KIB, 4096) for i in range(64)))),
    ],
)
def test_a_disk_arrives_byte_for_byte_and_as_sparse(
    pair: agents.Pair, name: str, content: Content
) -> None:
    vm_id = put_machine(pair.source.shelf, name, {"vda": content})
    transfer = pair.migrate(vm_id)
    original = kept(pair, transfer.migration_id, "vda")
    arrived = pair.destination.disk(vm_id, "vda")
    assert subprocess.run(["cmp", original, arrived], check=False).returncode == 0
    assert abs(allocated(arrived) - allocated(original)) <= max(0.02 * allocated(original), 8 * KIB)


def test_a_machine_with_several_disks_and_an_empty_one_arrives_whole(pair: agents.Pair) -> None:
    disks = {
        "vda": Content(8 * MIB, ((MIB, 2 * MIB),)),
        "vdb": Content(0),
        "vdc": Content(100_000, ((0, 100_000),)),
        "sda": Content(4 * MIB),
    }
    vm_id = put_machine(pair.source.shelf, "several", disks)
    transfer = pair.migrate(vm_id)
    receipt = common_pb2.Receipt.FromString(transfer.receipt.payload)
    assert [disk.disk_id for disk in receipt.disks] == ["sda", "vda", "vdb", "vdc"]
    for disk in disks:
        assert identical(
            kept(pair, transfer.migration_id, disk), pair.destination.disk(vm_id, disk)
        )


def test_an_all_zero_disk_of_64_gib_crosses_without_its_zeros(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "zero", {"vda": Content(64 * GIB)})
    transfer = pair.migrate(vm_id)
    arrived = pair.destination.disk(vm_id, "vda")
    assert arrived.stat().st_size == 64 * GIB
    assert allocated(arrived) == 0
    assert transfer.progress.wire_bytes < 64 * KIB
    assert transfer.progress.zero_bytes == 64 * GIB


def test_zeros_that_are_allocated_are_not_sent_and_not_allocated_again(
    pair: agents.Pair, tmp_path: Path
) -> None:
    vm_id = put_machine(pair.source.shelf, "written-zeros", {"vda": Content(8 * MIB)})
    disk = pair.source.shelf / "vms" / "written-zeros" / "vda.raw"
    with disk.open("r+b") as file:
        file.write(bytes(8 * MIB))
    assert allocated(disk) >= 8 * MIB
    transfer = pair.migrate(vm_id)
    assert transfer.progress.wire_bytes < 64 * KIB
    assert allocated(pair.destination.disk(vm_id, "vda")) == 0


@pytest.mark.parametrize("options", [{"cipher_key_bits": 256}, {"streams": 1}, {"full_read": 1}])
def test_a_transfer_takes_other_options(pair: agents.Pair, options: dict[str, int]) -> None:
    name = "options-" + "-".join(options)
    vm_id = put_machine(
        pair.source.shelf, name, {"vda": Content(6 * MIB, ((MIB + 128 * KIB, 3 * MIB),))}
    )
    transfer = pair.migrate(vm_id, **options)
    original = kept(pair, transfer.migration_id, "vda")
    assert identical(original, pair.destination.disk(vm_id, "vda"))


def test_an_order_for_an_earlier_stay_of_a_machine_is_refused(pair: agents.Pair) -> None:
    vm_id = put_machine(pair.source.shelf, "stays", {"vda": Content(MIB)})
    pair.migrate(vm_id)
    stub = pair.destination.stub
    for epoch in (1, 3):
        with pytest.raises(errors.FailedPrecondition, match="EPOCH_MISMATCH"):
            client.call(stub.StopGuest, agent_pb2.StopGuestRequest(vm_id=vm_id, epoch=epoch))
    client.call(stub.StopGuest, agent_pb2.StopGuestRequest(vm_id=vm_id, epoch=2))
