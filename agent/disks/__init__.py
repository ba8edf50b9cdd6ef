"""Disks: where content is, reading it, writing it sparsely. Raw files, block devices and qcow2.

Promises: a reader never writes and holds no content; a writer allocates no block for zeros; what
`flush` returned from survives a crash. Content is always what the guest sees, whatever the
container. Never: knows what a transfer, a digest or a virtual machine is.

`open_reader` and `open_writer` are the way in, `contract` says what both ends owe.
"""

from agent.disks.contract import FORMATS, DiskFormat, DiskReader, DiskWriter
from agent.disks.extents import Extent
from agent.disks.opening import (
    Measured,
    measure,
    open_reader,
    open_seed,
    open_writer,
    require_tools,
)

__all__ = [
    "FORMATS",
    "DiskFormat",
    "DiskReader",
    "DiskWriter",
    "Extent",
    "Measured",
    "measure",
    "open_reader",
    "open_seed",
    "open_writer",
    "require_tools",
]
