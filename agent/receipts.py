"""Receipts: what the destination signs, and how the source compares it with what it read."""

import hashlib
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from agent.transfer.merkle import DigestKeys, DiskTree, receipt_root
from watari import errors
from watari.v1 import common_pb2

PURPOSE = "receipt"


def build(
    grant: common_pb2.Grant,
    keys: DigestKeys,
    trees: Sequence[tuple[common_pb2.DiskSpec, DiskTree]],
    definition_xml: str,
    wire_bytes: int,
) -> common_pb2.Receipt:
    """A receipt over complete trees, ordered by disk id. Raises DataLoss when one is not complete.

    `completed_at` is left to who signs.
    """
    disks = [
        common_pb2.DiskReceipt(disk_id=disk.disk_id, size_bytes=disk.size_bytes, root=tree.root())
        for disk, tree in trees
    ]
    definition = hashlib.sha256(definition_xml.encode()).digest()
    parts = [(disk.disk_id, disk.size_bytes, disk.root) for disk in disks]
    return common_pb2.Receipt(
        migration_id=grant.migration_id,
        vm_id=grant.vm_id,
        destination_epoch=grant.source_epoch + 1,
        disks=disks,
        definition_sha256=definition,
        root=receipt_root(keys, parts, definition),
        raw_bytes=sum(disk.size_bytes for disk in disks),
        wire_bytes=wire_bytes,
    )


def read(payload: bytes) -> common_pb2.Receipt:
    """A receipt from a signed document's payload. Raises DataLoss RECEIPT_MISMATCH."""
    try:
        return common_pb2.Receipt.FromString(payload)
    except DecodeError:
        raise _mismatch("it cannot be read") from None


def compare(received: common_pb2.Receipt, own: common_pb2.Receipt) -> None:
    """Raises DataLoss RECEIPT_MISMATCH unless the destination received what the source read."""
    for name in ("migration_id", "vm_id", "destination_epoch", "definition_sha256", "raw_bytes"):
        if getattr(received, name) != getattr(own, name):
            raise _mismatch(f"{name} differs")
    if list(received.disks) != list(own.disks) or received.root != own.root:
        raise _mismatch("the content of a disk differs")


def _mismatch(why: str) -> errors.DataLoss:
    return errors.DataLoss(
        "RECEIPT_MISMATCH",
        f"the destination's receipt does not match the source: {why}",
        hint="the machine stays here; check the destination's storage before another try",
    )
