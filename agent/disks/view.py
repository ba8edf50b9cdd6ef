"""The disks of one machine at one moment, to be read together."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from agent.disks.contract import DiskReader
from agent.disks.extents import Extent


@dataclass(frozen=True)
class ViewedDisk:
    """One disk of a view."""

    reader: DiskReader
    changed: Iterable[Extent] | None = None
    """What may differ from the view before, as extents that are no holes; in order, without
    overlap. None where that is not known. To be gone through once.
    """
    live: bool = False
    """Whether it may change while it is read: reading twice may give two answers."""


class DiskView(Protocol):
    """Disks that are open until it is closed."""

    @property
    def disks(self) -> Mapping[str, ViewedDisk]:
        """By disk id."""

    def close(self) -> None:
        """Gives everything back; closing twice is harmless."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""


class OpenDisks:
    """A view of readers that are open already; closes them, and then what is on the stack."""

    def __init__(self, disks: Mapping[str, ViewedDisk], stack: ExitStack) -> None:
        self.disks = disks
        self._stack = stack

    def close(self) -> None:
        """Closes the readers."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
