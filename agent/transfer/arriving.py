"""The disks of a session, opened: what is written, what an earlier try left, what to compare with.

Order matters where a journal and a disk are made together. A journal may say less than the disk
holds and never more: it goes before the disk, and comes after it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.disks import DiskReader, DiskWriter, open_reader, open_writer
from agent.hypervisors import Disk
from agent.seeds.fingerprints import Fingerprints
from agent.seeds.sources import SeedSources
from agent.transfer.comparing import Comparing
from agent.transfer.geometry import leaf_count
from agent.transfer.journal import Journal
from agent.transfer.lookup import Lookup
from agent.transfer.merkle import DigestKeys
from agent.transfer.target import Target
from watari import errors, logs
from watari.v1 import common_pb2

_log = logs.get(__name__)


@dataclass(frozen=True)
class Place:
    """Where a session's disks go."""

    disk: Callable[[str], Path]
    """The file of a disk, by its id."""
    journal: Callable[[str], Path]
    """The file of its journal."""
    formats: Mapping[str, str]
    """By disk id. Saved state is raw, whatever the host's disks are."""
    keep: bool
    """Whether what an earlier try left there may be continued."""


@dataclass(frozen=True)
class Known:
    """What this host may compare with."""

    earlier: Mapping[str, Disk]
    """An earlier copy of the machine, by disk id."""
    sources: Callable[[], SeedSources] | None
    """Opens the images of the scope; None when it has none."""


def open_disks(
    specs: list[common_pb2.DiskSpec],
    digest_key: bytes,
    place: Place | None,
    known: Known,
) -> list[Comparing]:
    """The disks in the order of their numbers; without a place it is a dry run. Raises Exhausted
    DISK_FULL, DataLoss DISK_IO; then nothing stays open.
    """
    keys = DigestKeys(digest_key)
    lookup = None
    if known.sources is not None:
        lookup = Lookup(known.sources, Fingerprints(digest_key))
    with ExitStack() as opened:
        if lookup is not None:
            opened.callback(lookup.close)
        disks = []
        for number, spec in enumerate(specs):
            storage = _storage(spec, place) if place is not None else None
            if storage is not None:
                opened.callback(storage[0].close)
                opened.callback(storage[1].close)
            resumed = storage is not None and storage[0].kept
            target = Target(number, spec.size_bytes, keys, storage, resumed=resumed)
            disks.append(Comparing(target, keys, _earlier(spec, known), lookup))
        opened.pop_all()
    return disks


def _storage(spec: common_pb2.DiskSpec, place: Place) -> tuple[DiskWriter, Journal]:
    path, record = place.disk(spec.disk_id), place.journal(spec.disk_id)
    keep = place.keep and path.exists() and record.exists()
    leaves = leaf_count(spec.size_bytes)
    if not keep:
        Journal(record, leaves, keep=False).close()
    writer = open_writer(path, place.formats[spec.disk_id], spec.size_bytes, keep=keep)
    try:
        return writer, Journal(record, leaves, keep=writer.kept)
    except errors.WatariError:
        writer.close()
        raise


def _earlier(spec: common_pb2.DiskSpec, known: Known) -> DiskReader | None:
    disk = known.earlier.get(spec.disk_id)
    if disk is None:
        return None
    try:
        return open_reader(disk.path, disk.format)
    except errors.WatariError as error:
        _log.warning("an earlier copy cannot be read", disk=spec.disk_id, problem=error.message)
        return None
