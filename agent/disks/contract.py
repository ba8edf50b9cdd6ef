"""What every disk format offers to a transfer, and what it owes in return."""

from collections.abc import Iterator
from types import TracebackType
from typing import Literal, Protocol, Self

from agent.disks.extents import Extent

DiskFormat = Literal["raw", "qcow2"]
"""Container formats that content can be read from and written to."""

FORMATS: tuple[DiskFormat, ...] = ("raw", "qcow2")


class DiskReader(Protocol):
    """The content of one disk as the guest sees it. Never writes, and holds no content.

    Safe for several threads at once: workers read in parallel while one of them walks `extents`.
    Opening raises FailedPrecondition IMAGE_UNREADABLE when there is nothing to be read, and
    CONFIG_INVALID when the host lacks a tool for the format.
    """

    @property
    def size(self) -> int:
        """Guest-visible bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DataLoss DISK_IO, or SOURCE_CHANGED when it has shrunk."""

    def extents(self, granularity: int, *, full_read: bool) -> Iterator[Extent]:
        """The whole disk in order without gap or overlap, cut on multiples of `granularity` bytes.

        A hole reads as zeros throughout; everything else may hold data. What other processes left
        dirty is written back first, so that holes are reported as they are. `full_read` asks
        nobody: all is data. Neighbours may be of one kind. Raises DataLoss DISK_IO.
        """

    def check_unchanged(self) -> None:
        """Raises DataLoss SOURCE_CHANGED when anyone wrote to it since it was opened."""

    def close(self) -> None:
        """Gives everything back; closing twice is harmless. No other call may be under way."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""


class DiskWriter(Protocol):
    """A disk under construction. Safe for several threads at once on ranges that do not overlap.

    Ranges lie within the disk. Every method but `close` raises Exhausted DISK_FULL and DataLoss
    DISK_IO, and so does opening.
    """

    @property
    def size(self) -> int:
        """Bytes that are written to; the container may round the guest-visible size up to 512."""

    @property
    def kept(self) -> bool:
        """Whether it holds what an interrupted try left. False: it began empty, all zeros."""

    def write(self, offset: int, content: bytes) -> None:
        """Writes `content`; blocks of zeros are left out.

        The caller guarantees that the range reads as zeros beforehand, as in a new disk or after
        `zero`. Otherwise old content stays where zeros were meant.
        """

    def zero(self, offset: int, length: int) -> None:
        """Makes a range read as zeros, whatever it held, and gives its blocks back if it can."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of what was written, flushed or not."""

    def clone(self, source: DiskReader, source_offset: int, offset: int, length: int) -> bool:
        """Makes a range share the blocks of a range of `source`, whatever it held, without copying.

        False, and nothing has changed, where that cannot be done: another file system, another
        format, offsets that are no multiples of its blocks. Asking again is cheap.
        """

    def extents(self, granularity: int) -> Iterator[Extent]:
        """What it holds, as `DiskReader.extents` tells it: finds an interrupted try's leftovers."""

    def flush(self) -> None:
        """Returns when all that was written before is on stable storage, and can be found there
        after a crash of the agent or the host.
        """

    def close(self) -> None:
        """Gives everything back, flushing nothing; closing twice is harmless. No other call may be
        under way.
        """
