"""Which parts of an export hold data, and which of them a dirty bitmap marks."""

from collections.abc import Iterator

from agent.disks.extents import Extent
from agent.disks.nbd import wire
from agent.disks.nbd.pool import Pool


def allocation(pool: Pool) -> Iterator[Extent]:
    """The disk as QEMU knows it. Only what it knows to read as zeros is a hole: the protocol lets
    an unallocated range hold anything.
    """
    if wire.BASE_ALLOCATION not in pool.contexts:
        yield Extent(0, pool.size, hole=False)
        return
    at = 0
    while at < pool.size:
        for run in pool.block_status(at, pool.size - at, wire.BASE_ALLOCATION):
            yield Extent(at, at + run.length, hole=bool(run.flags & wire.STATE_ZERO))
            at += run.length


def dirty(pool: Pool, bitmap: str) -> Iterator[Extent]:
    """What the bitmap marks, in order; neighbours are joined. Raises DataLoss DISK_IO also when the
    server does not offer it.
    """
    context = wire.dirty_bitmap(bitmap)
    at = 0
    start: int | None = None
    while at < pool.size:
        for run in pool.block_status(at, pool.size - at, context):
            if run.flags & wire.BITMAP_DIRTY:
                start = at if start is None else start
            elif start is not None:
                yield Extent(start, at, hole=False)
                start = None
            at += run.length
    if start is not None:
        yield Extent(start, pool.size, hole=False)
