"""What all rows share: images, a place to work in, and the methods by name."""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.images import Cache, build
from bench.link import Link, Shape
from bench.methods import (
    casync,
    goodput,
    nbd_tls,
    paper_ipsec,
    paper_part,
    paper_plain,
    paper_whole,
    rsync,
    watari,
    zstd_ssh,
)
from bench.methods.result import Method, Result

PEERS: Mapping[str, Method] = {"watari": watari, "zstd_ssh": zstd_ssh, "rsync": rsync}
"""What the engine's table compares."""

METHODS: Mapping[str, Method] = {
    **PEERS,
    "nbd_tls": nbd_tls,
    "casync": casync,
    "paper_plain": paper_plain,
    "paper_ipsec": paper_ipsec,
    "paper_whole": paper_whole,
    "paper_part": paper_part,
}
"""All that move a whole image over a link. `virsh migrate` and Watari's warm mode belong here too,
as soon as there are hosts with libvirt.
"""

MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - tmpfs is what is meant


@dataclass
class Context:
    """Of one run of the bench."""

    cache: Cache
    congestion: str = ""
    goodput_seconds: float = goodput.SECONDS
    tcp_settings: dict[str, str] = field(default_factory=dict)
    """As the last link had them."""

    @contextlib.contextmanager
    def link(self, shape: Shape) -> Iterator[Link]:
        """A fresh link: nothing is remembered from the one before, counters begin at 0."""
        with Link(shape) as link:
            self.tcp_settings = link.settings
            yield link

    @contextlib.contextmanager
    def folder(self, parent: Path | None = None) -> Iterator[Path]:
        """An empty folder to work in, on the disk of the cache unless `parent` says otherwise."""
        where = parent or self.cache.folder
        with tempfile.TemporaryDirectory(prefix=".work-", dir=where) as folder:
            yield Path(folder)

    def shape(self, rate_mbit: float, rtt_ms: float, loss: float = 0.0) -> Shape:
        """A link of a rate in Mbit/s and a round trip in ms."""
        return Shape(rate_mbit * 1e6, rtt_ms / 1000, loss, congestion=self.congestion)

    def over(self, shape: Shape, method: Method, image: Path) -> Result:
        """One method, one image, one fresh link; the image is in the page cache for all alike."""
        build.read(image)
        with self.link(shape) as link, self.folder() as folder:
            return method.run(link, image, folder)

    def goodput(self, shape: Shape) -> Result:
        """The link's goodput, as a result among the others."""
        with self.link(shape) as link:
            rate = goodput.bytes_per_second(link, self.goodput_seconds)
        return Result(
            "goodput", self.goodput_seconds, identical=True, further={"bytes_per_second": rate}
        )


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    value: str
    floor_ratio: float | None = None
    """The figure as a multiple of the least that is possible, where that is known."""
    target: str = ""
    identical: bool = True


Run = Callable[[Context], Result]
Measured = Mapping[str, Sequence[Result]]


@dataclass(frozen=True)
class Row:
    """Runs that take turns, and the lines that follow from them."""

    name: str
    title: str
    runs: Mapping[str, Run]
    lines: Callable[[Context, Measured], Sequence[Line]]
    quick: bool = False
    """Whether it belongs to the quick run."""


def median_seconds(results: Sequence[Result]) -> float:
    """Of all repetitions."""
    return statistics.median(each.seconds for each in results)


def median_rate(results: Sequence[Result]) -> float:
    """Of `Context.goodput` results, bytes per second."""
    return statistics.median(float(each.further["bytes_per_second"]) for each in results)


def median_wire(results: Sequence[Result]) -> float:
    """Bytes that the link was given."""
    return statistics.median(each.wire_bytes for each in results)


def median_sealed(results: Sequence[Result]) -> float:
    """Bytes of frames that the sending agent sealed, digests included."""
    return statistics.median(float(each.further["told_wire_bytes"]) for each in results)


def all_identical(results: Sequence[Result]) -> bool:
    """Whether every repetition arrived whole."""
    return all(each.identical for each in results)
