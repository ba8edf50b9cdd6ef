"""Two hosts and the link between them.

    test's own network                       control addresses, no delay
        |              |
      tokyo == link == osaka                 delayed, rate-limited, can be cut
    10.77.0.1        10.77.0.2

A test reaches what listens in a host at `lab.tokyo_control`; the hosts reach each other only over
the link, under their addresses there or by their names.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from bench.link import Link, Shape
from tests.lab.hosts import Host

NAMES = ("tokyo", "osaka")
DEFAULT_SHAPE = Shape(rate_bits=1e9, round_trip_seconds=0.01)
"""Quick enough that no test waits for it."""


class Lab:
    """Two running hosts; use it as a context manager. `folder` keeps what is theirs."""

    def __init__(self, folder: Path, shape: Shape = DEFAULT_SHAPE) -> None:
        self.shape = shape
        self.link = Link(shape)
        sides = (self.link.source, self.link.destination)
        addresses = {name: side.address for name, side in zip(NAMES, sides, strict=True)}
        self.tokyo, self.osaka = (
            Host(
                name,
                folder / name,
                network=side.prefix,
                address=side.address,
                neighbours={other: each for other, each in addresses.items() if other != name},
            )
            for name, side in zip(NAMES, sides, strict=True)
        )
        self.tokyo_control, self.osaka_control = (side.control for side in sides)
        """Addresses at which the test reaches the hosts beside the link."""

    def __enter__(self) -> Self:
        try:
            for host in self.hosts:
                host.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def hosts(self) -> tuple[Host, Host]:
        """Both."""
        return self.tokyo, self.osaka

    def cut(self, *directions: str) -> None:
        """Nothing passes between the hosts any more, and nobody is told. "there" (from tokyo to
        osaka) or "back" cuts one direction only.
        """
        self.link.cut(*directions)

    def heal(self) -> None:
        """The link is as it was made: whole, and of its first shape."""
        self.link.heal()
        if self.link.shape != self.shape:
            self.link.reshape(self.shape)

    def recover(self) -> None:
        """Brings back what a test may have taken away: link, hosts, libvirtds."""
        self.heal()
        for host in self.hosts:
            host.start()

    def close(self) -> None:
        """Both hosts and the link end."""
        for host in self.hosts:
            host.close()
        self.link.close()
