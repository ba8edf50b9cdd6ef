"""The figures of an experiment, as SVG: the same record gives the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.experiment import numbers, paper
from bench.experiment.numbers import Point

SIZE_INCHES = (5.2, 3.4)
MB = 1e6

STYLE: Any = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "grid.color": "#cccccc",
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "watari",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}

# Colours that people with any colour vision tell apart (Okabe and Ito).
LOOKS: Mapping[str, tuple[str, str, str, str]] = {
    "paper_ipsec": ("existing: IPsec, all of it", "#000000", "s", "-"),
    "paper_plain": ("existing, if IPsec were free", "#000000", "s", ":"),
    "paper_whole": ("paper: encrypt all of it", "#999999", "D", "-"),
    "paper_part": ("paper: compress, encrypt", "#56b4e9", "o", "-"),
    "nbd_tls": ("qemu-img, NBD, TLS", "#cc79a7", "v", "-"),
    "casync": ("casync", "#0072b2", ">", "-"),
    "rsync": ("rsync -S, zstd", "#e69f00", "^", "-"),
    "zstd_ssh": ("zstd -3 | ssh", "#009e73", "<", "-"),
    "watari": ("Watari, cold", "#d55e00", "o", "-"),
    "watari_sibling": ("Watari, sibling there", "#d55e00", "P", "--"),
    "watari_back": ("Watari, moving back", "#d55e00", "X", ":"),
}
"""Label, colour, marker and line of each method, in the order of the legend."""

FLOOR: Any = {"color": "#666666", "linewidth": 0.8, "linestyle": (0, (1, 1.5))}

STAGE_COLORS = ("#0072b2", "#d55e00", "#cccccc", "#e69f00", "#56b4e9", "#009e73")


def draw(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws whatever the record has results for; returns the files.

    Where there is one round trip only, there is nothing to draw over it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    with mpl.rc_context(STYLE):
        for image, rate in numbers.groups(record):
            group = Group(record, image, rate)
            name = f"{Path(image).stem}-{rate:g}m"
            pages: dict[str, Figure | None] = {
                f"wire-{name}": _wire(group),
                f"downtime-{name}": _downtime(group),
            }
            if len(group.round_trips_ms) > 1:
                pages |= {f"time-{name}": _times(group), f"ratio-{name}": _ratios(group)}
                for method in ("paper_part", "paper_whole"):
                    if method in group.lines:
                        pages[f"stages-{method}-{name}"] = _stages(group, method)
            for page, figure in pages.items():
                found += _save(figure, folder / f"{page}.svg")
        found += _save(_utilisation(record), folder / "utilisation.svg")
    return found


class Group:
    """All that was measured with one image over links of one rate."""

    def __init__(self, record: Mapping[str, Any], image: str, rate_mbit: float) -> None:
        self.rate_mbit = rate_mbit
        self.lines = numbers.lines(record, image, rate_mbit)
        self.methods = [each for each in LOOKS if each in self.lines]
        self.round_trips_ms = numbers.round_trips_ms(self.lines)
        self.compressed_bytes = int(record["images"][image]["compressed_bytes"])
        self._floors = {
            each: numbers.floor_seconds(record, image, rate_mbit, each)
            for each in self.round_trips_ms
        }

    def floor(self, rtt_ms: float) -> float:
        """Seconds."""
        return self._floors[rtt_ms]


def _save(figure: Figure | None, path: Path) -> list[Path]:
    if figure is None:
        return []
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return [path]


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES)
    return figure, figure.add_subplot()


def _times(group: Group) -> Figure:
    """The paper's figure 6."""
    figure, axes = _axes()
    for method in group.methods:
        label, color, marker, style = LOOKS[method]
        _line(axes, group.lines[method], label, color, marker, style)
    trips = group.round_trips_ms
    axes.plot(trips, [group.floor(each) for each in trips], label="floor", **FLOOR)
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.set_xlabel("round-trip time (ms)")
    axes.set_ylabel("time to move (s)")
    _legend_outside(axes)
    return figure


def _line(
    axes: Axes, points: Sequence[Point], label: str, color: str, marker: str, style: str
) -> None:
    axes.errorbar(
        [point.rtt_ms for point in points],
        [point.median for point in points],
        yerr=list(zip(*(point.spread for point in points), strict=True)),
        label=label,
        color=color,
        marker=marker,
        linestyle=style,
        elinewidth=0.8,
        capsize=2,
    )


def _stages(group: Group, method: str) -> Figure:
    """The paper's figures 7 and 8."""
    figure, axes = _axes()
    points = group.lines[method]
    places = range(len(points))
    bottom = [0.0] * len(points)
    for name, color in zip(points[0].stages, STAGE_COLORS, strict=False):
        heights = [point.stages.get(name, 0.0) for point in points]
        axes.bar(places, heights, bottom=bottom, label=name, color=color, width=0.62)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.plot(places, [group.floor(point.rtt_ms) for point in points], label="floor", **FLOOR)
    axes.set_xticks(places, [f"{point.rtt_ms:g}" for point in points])
    axes.set_xlabel("round-trip time (ms)")
    axes.set_ylabel("seconds")
    axes.grid(visible=False, axis="x")
    _legend_outside(axes)
    return figure


def _ratios(group: Group) -> Figure | None:
    """The paper's figure 9, with everybody in it; without IPsec where there is no line with it."""
    bases = ("paper_ipsec", "paper_plain")
    base = next((each for each in bases if len(group.lines.get(each, ())) > 1), None)
    if base is None:
        return None
    figure, axes = _axes()
    existing = group.lines[base]
    for method in group.methods:
        found = numbers.shares(group.lines[method], existing)
        if not found:
            continue
        trips, shares = zip(*found, strict=True)
        label, color, marker, style = LOOKS[method]
        percent = [100 * each for each in shares]
        axes.plot(trips, percent, label=label, color=color, marker=marker, linestyle=style)
    floors = [100 * group.floor(point.rtt_ms) / point.median for point in existing]
    axes.plot([point.rtt_ms for point in existing], floors, label="floor", **FLOOR)
    claim = 100 * paper.CLAIM_SHARE
    axes.axhline(claim, color="#666666", linewidth=0.6, linestyle=(0, (4, 2)))
    axes.annotate(
        f"{claim:.0f} %: the paper's claim from {paper.CLAIM_MS:.0f} ms",
        (0, claim),
        (2, 2),
        fontsize=7,
        textcoords="offset points",
        color="#666666",
    )
    axes.set_yscale("log")
    _plain(axes.yaxis, " %")
    axes.set_xlabel("round-trip time (ms)")
    free = ", if IPsec were free" if base == "paper_plain" else ""
    axes.set_ylabel(f"time, of the existing method's{free}")
    _legend_outside(axes)
    return figure


def _wire(group: Group) -> Figure:
    """Bytes that entered the link, at the longest round trip; the floor has no headers."""
    figure, axes = _axes()
    sizes = [group.lines[each][-1].median_wire_bytes / MB for each in group.methods]
    _bars(axes, group.methods, sizes, [f"{size:,.0f}" for size in sizes])
    axes.axvline(group.compressed_bytes / MB, **FLOOR)
    axes.set_xlabel(f"MB on the link, {group.rate_mbit:g} Mbit/s; dotted: zstd -3 of the image")
    return figure


def _downtime(group: Group) -> Figure:
    """How long the machine stands still: all methods here move a machine that is stopped."""
    figure, axes = _axes()
    seconds = [group.lines[each][-1].median for each in group.methods]
    _bars(axes, group.methods, seconds, [f"{each:,.1f}" for each in seconds])
    trip = group.round_trips_ms[-1]
    axes.axvline(group.floor(trip), **FLOOR)
    axes.set_xlabel(f"seconds that the machine stands still, {trip:g} ms; dotted: floor")
    return figure


def _bars(axes: Axes, methods: Sequence[str], values: Sequence[float], told: list[str]) -> None:
    """The first method at the top."""
    labels = [LOOKS[each][0] for each in methods]
    bars = axes.barh(labels, values, color=[LOOKS[each][1] for each in methods], height=0.62)
    axes.bar_label(bars, told, padding=3, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")


def _utilisation(record: Mapping[str, Any]) -> Figure:
    """How much of the link each method fills, over what the link holds. What the link's queue
    dropped has been given to it too, so that a method can give it more than it carries.
    """
    figure, axes = _axes()
    image = next(iter(record["cases"].values()))["image"]
    groups = [Group(record, name, rate) for name, rate in numbers.groups(record) if name == image]
    floor, labelled = [], set()
    for number, group in enumerate(groups):
        for method in group.methods:
            label, color, marker, _ = LOOKS[method]
            points = group.lines[method]
            axes.plot(
                [_product(group, point.rtt_ms) for point in points],
                [_share_used(group, point.median_wire_bytes, point.median) for point in points],
                label=None if method in labelled else label,
                color=color,
                marker=marker,
                markerfacecolor="none" if number else color,
                linestyle="none",
            )
            labelled.add(method)
        for trip in group.round_trips_ms:
            share = _share_used(group, group.compressed_bytes, group.floor(trip))
            floor.append((_product(group, trip), share))
    axes.plot(*zip(*sorted(floor), strict=True), label="floor", **FLOOR)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(0, 110)
    hollow = ", ".join(f"{group.rate_mbit:g}" for group in groups[1:])
    note = f"; hollow: {hollow} Mbit/s" if hollow else ""
    axes.set_xlabel(f"bandwidth-delay product (MB){note}")
    axes.set_ylabel("given to the link, of what it carries (%)")
    _legend_outside(axes)
    return figure


def _share_used(group: Group, size_bytes: float, seconds: float) -> float:
    return 100 * size_bytes * 8 / seconds / (group.rate_mbit * 1e6)


def _product(group: Group, rtt_ms: float) -> float:
    """MB that are on the way at once."""
    return group.rate_mbit * 1e6 / 8 * rtt_ms / 1000 / MB


def _plain(axis: Axis, unit: str = "") -> None:
    """1, 2, 5, 10 and so on along a logarithmic axis, as people write them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{unit}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_outside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
