"""Two agents on one machine without a link: what the processors and memory allow."""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.images import build
from bench.link import Shape
from bench.methods import watari
from bench.methods.result import Result
from bench.migration import Migration, new_machine
from bench.rows.context import (
    MEMORY_FOLDER,
    Context,
    Line,
    Measured,
    Row,
    all_identical,
    median_seconds,
)

RANDOM_BYTES = 512 << 20
SMALL_BYTES = 1 << 30
LARGE_BYTES = 256 << 30
TLS_OPTIONS = "[agent.transfer]\ndata_tls = true\n"
_MIB = 1024 * 1024

STOPPED_AFTER_SECONDS, STOPPED_FOR_SECONDS = 1.0, 20.0

LOOPBACK_TARGET = "at least 250 MB/s"
SPARSE_TARGET = "at least 3 GB/s"
MEMORY_TARGET = "at most 256 MiB each"


def rows() -> list[Row]:
    """Throughput of both agents on this machine, of holes, and the memory that they take."""
    return [
        Row(
            "loopback",
            "512 MiB incompressible between two agents on this machine",
            {
                "tmpfs": partial(_random, MEMORY_FOLDER, ""),
                "disk": partial(_random, None, ""),
                "tmpfs, TLS on the data port too": partial(_random, MEMORY_FOLDER, TLS_OPTIONS),
            },
            _throughput,
        ),
        Row(
            "sparse",
            "256 GiB apparent, nearly empty, between two agents on this machine",
            {"watari": _large},
            _apparent,
        ),
        Row(
            "memory",
            "peak resident memory of the agents",
            {
                "1 GiB incompressible": _small,
                "256 GiB apparent": _large,
                "1 GiB incompressible, destination stopped for 20 s": partial(_stalled, 1),
                "1 GiB incompressible, source stopped for 20 s": partial(_stalled, 0),
            },
            _peaks,
        ),
    ]


def _random(parent: Path | None, options: str, context: Context) -> Result:
    return _local(context, context.cache.random(RANDOM_BYTES), parent, options)


def _small(context: Context) -> Result:
    return _local(context, context.cache.random(SMALL_BYTES), None)


def _large(context: Context) -> Result:
    return _local(context, context.cache.sparse(LARGE_BYTES), None)


def _stalled(stopped: int, context: Context) -> Result:
    """One of the two agents does not run for a while: the other must not gather what it cannot
    pass on.
    """
    with (
        context.link(Shape()) as link,
        context.folder() as folder,
        watari.neighbours(link, folder) as pair,
    ):
        vm_id, disk = new_machine(pair[0], "first")
        build.copy(context.cache.random(SMALL_BYTES), disk)
        with pair[stopped].stopped(STOPPED_AFTER_SECONDS, STOPPED_FOR_SECONDS):
            return watari.measure(link, pair, Migration(*pair, vm_id), disk)


def _local(context: Context, image: Path, parent: Path | None, options: str = "") -> Result:
    with (
        context.link(Shape()) as link,
        context.folder(parent) as folder,
        watari.neighbours(link, folder, options) as pair,
    ):
        vm_id, disk = new_machine(pair[0], "first")
        build.copy(image, disk)
        return watari.measure(link, pair, Migration(*pair, vm_id), disk)


def _throughput(_context: Context, measured: Measured) -> Sequence[Line]:
    return [
        Line(
            f"shelves on {name}",
            f"{RANDOM_BYTES / median_seconds(results) / 1e6:.0f} MB/s",
            target="" if "TLS" in name else LOOPBACK_TARGET,
            identical=all_identical(results),
        )
        for name, results in measured.items()
    ]


def _apparent(_context: Context, measured: Measured) -> Sequence[Line]:
    results = measured["watari"]
    seconds = median_seconds(results)
    text = f"{LARGE_BYTES / seconds / 1e9:.0f} GB/s apparent ({seconds:.2f} s)"
    return [Line("watari", text, target=SPARSE_TARGET, identical=all_identical(results))]


def _peaks(_context: Context, measured: Measured) -> Sequence[Line]:
    def peak(results: Sequence[Result], side: str) -> float:
        peaks = (int(each.further[side]["peak_rss_bytes"]) for each in results)
        return statistics.median(peaks) / _MIB

    return [
        Line(
            name,
            f"{peak(results, 'source'):.0f} MiB source, "
            f"{peak(results, 'destination'):.0f} MiB destination",
            target=MEMORY_TARGET,
            identical=all_identical(results),
        )
        for name, results in measured.items()
    ]
