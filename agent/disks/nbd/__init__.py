"""A client of the Network Block Device protocol, for what QEMU knows about disks.

Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, its fixed newstyle
handshake and structured replies, over UNIX sockets on this host. A server is believed nothing: each
length is checked before memory is taken, each answer has a deadline, and an answer that is not as
specified ends the connection with DataLoss DISK_IO.

`connection` is one conversation, `pool` several to one export, `server` a `qemu-nbd` process.
"""

from agent.disks.nbd.connection import Connection
from agent.disks.nbd.pool import Pool
from agent.disks.nbd.replies import Status
from agent.disks.nbd.wire import (
    BASE_ALLOCATION,
    BITMAP_DIRTY,
    STATE_HOLE,
    STATE_ZERO,
    dirty_bitmap,
)

__all__ = [
    "BASE_ALLOCATION",
    "BITMAP_DIRTY",
    "STATE_HOLE",
    "STATE_ZERO",
    "Connection",
    "Pool",
    "Status",
    "dirty_bitmap",
]
