"""Moves to a host that has something of the image already: a sibling's disk, or an earlier copy."""

from collections.abc import Sequence

from bench.images import build
from bench.images.cache import CHANGED_SHARE
from bench.link import Shape
from bench.methods import watari
from bench.methods.result import Result
from bench.migration import Migration, new_machine
from bench.rows.context import (
    Context,
    Line,
    Measured,
    Row,
    all_identical,
    median_sealed,
    median_seconds,
    median_wire,
)

RATE_MBIT, RTT_MS = 100.0, 20.0
_MB = 1e6


def rows() -> list[Row]:
    """A sibling, and a move back."""
    link = f"{RATE_MBIT:g} Mbit/s, RTT {RTT_MS:g} ms"
    return [
        Row(
            "sibling",
            f"second machine that shares 90 % of its files, {link}",
            {"watari": _sibling},
            _sibling_lines,
        ),
        Row(
            "back",
            f"move back after {CHANGED_SHARE:.0%} of the leaves changed, {link}",
            {"watari": _back},
            _back_lines,
        ),
    ]


def sibling(context: Context, shape: Shape) -> Result:
    """The first machine is moved and activated, then the second one is moved and measured."""
    with (
        context.link(shape) as link,
        context.folder() as folder,
        watari.hosts(link, folder) as pair,
    ):
        first, first_disk = new_machine(pair[0], "first")
        build.copy(context.cache.root(), first_disk)
        second, second_disk = new_machine(pair[0], "second")
        build.copy(context.cache.sibling(), second_disk)
        migration = Migration(*pair, first)
        earlier = watari.measure(link, pair, migration, first_disk)
        result = watari.measure(link, pair, Migration(*pair, second), second_disk)
    result.further["first_seconds"] = earlier.seconds
    result.identical = result.identical and earlier.identical
    return result


def back(context: Context, shape: Shape) -> Result:
    """Moved there, activated, retired at home, changed there, moved back and measured."""
    with (
        context.link(shape) as link,
        context.folder() as folder,
        watari.hosts(link, folder) as (home, away),
    ):
        vm_id, disk = new_machine(home, "first")
        build.copy(context.cache.root(), disk)
        there = Migration(home, away, vm_id)
        earlier = watari.measure(link, (home, away), there, disk)
        there.retire()
        changed = away.disk(vm_id)
        allocated_bytes = changed.stat().st_blocks * 512
        changed_bytes = build.change(changed, CHANGED_SHARE, seed=7)
        home_again = Migration(away, home, vm_id, epoch=2)
        result = watari.measure(link, (away, home), home_again, changed)
    result.further |= {"first_seconds": earlier.seconds, "changed_bytes": changed_bytes}
    result.further["allocated_bytes"] = allocated_bytes
    result.identical = result.identical and earlier.identical
    return result


def _sibling(context: Context) -> Result:
    return sibling(context, context.shape(RATE_MBIT, RTT_MS))


def _back(context: Context) -> Result:
    return back(context, context.shape(RATE_MBIT, RTT_MS))


def _sibling_lines(context: Context, measured: Measured) -> Sequence[Line]:
    cache = context.cache
    unique, compressed = cache.unique_bytes(cache.sibling(), cache.root())
    floor = f"{compressed / _MB:.1f} MB ({unique / _MB:.1f} MB before zstd)"
    what = "compressed unique 4 KiB blocks"
    return _lines(what, floor, compressed, measured, "at most 1.2 x that")


def _back_lines(_context: Context, measured: Measured) -> Sequence[Line]:
    further = measured["watari"][0].further
    changed, allocated = further["changed_bytes"], further["allocated_bytes"]
    text = f"{changed / _MB:.1f} MB of {allocated / _MB:.1f} MB allocated"
    sealed = median_sealed(measured["watari"]) / allocated
    on_link = median_wire(measured["watari"]) / allocated
    shares = f"sealed {sealed:.1%}, on the link {on_link:.1%}"
    target = f"at most 6 % of what is allocated; {shares}"
    return _lines("changed leaves, random", text, changed, measured, target)


def _lines(
    what: str, floor: str, floor_bytes: int, measured: Measured, target: str
) -> Sequence[Line]:
    results = measured["watari"]
    sealed, wire = median_sealed(results), median_wire(results)
    text = f"{sealed / _MB:.1f} MB sealed, {median_seconds(results):.2f} s"
    on_link = f"{wire / _MB:.1f} MB with headers and what TCP sent again"
    whole = all_identical(results)
    return [
        Line(what, floor, 1.0),
        Line("watari", text, sealed / floor_bytes, target, whole),
        Line("on the link", on_link, wire / floor_bytes, "", whole),
    ]
