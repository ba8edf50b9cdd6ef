"""The figures of machines that run, as SVG: the same record gives the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.experiment.figures import STYLE
from bench.running import report, timeline

WIDTH_INCHES = 6.8
LEGEND_COLUMNS = 5
LABELS: Mapping[str, str] = {
    "cold": "Watari, cold",
    "suspend": "Watari, suspend",
    "warm": "Watari, warm",
    "live-sync": "virsh, live, synchronous",
    "live": "virsh, live",
}
# Colours that people with any colour vision tell apart (Okabe and Ito).
PHASES: Mapping[str, tuple[str, str]] = {
    "copying": ("runs, is copied", "#56b4e9"),
    "standing still": ("stands still", "#d55e00"),
    "booting": ("boots", "#e69f00"),
    "afterwards": ("runs there", "#009e73"),
}
BOOT = "#e69f00"
SHOWN_SECONDS_MIN = 0.03
REST = "the rest"
"""Stages that nobody would see, together and out of their order."""

STAGE_COLORS = (
    "#d55e00", "#0072b2", "#f0e442", "#999999", "#56b4e9", "#009e73", "#cc79a7", "#666666",
)  # fmt: skip


def draw(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws both; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with mpl.rc_context(STYLE):
        for name, figure in (("timeline", _timelines(record)), ("gap", _gaps(record))):
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            found.append(path)
    return found


def _timelines(record: Mapping[str, Any]) -> Figure:
    """For each method and format: from the order to the end, by what the guest was doing."""
    groups = report.groups(record)
    figure, axes = _axes(len(groups))
    labels = [f"{LABELS[method]}, {disk}" for disk, method, _ in groups]
    phases = [timeline.summed([row["phases"] for row in rows]) for _, _, rows in groups]
    _stack(figure, axes, labels, phases, PHASES)
    for place, (_, _, rows) in enumerate(groups):
        whole = sum(phases[place].values())
        if "gap_seconds" in rows[0]:
            gap = report.median_of(rows, lambda row: row["gap_seconds"])
            told = f"away {gap:.1f} s"
        else:
            told = "comes to no end"
        axes.annotate(
            told, (whole, place), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.set_xlabel("seconds since the order to move")
    return figure


def _gaps(record: Mapping[str, Any]) -> Figure:
    """What the gap of warm is made of. In the other modes it is the copy and little else."""
    columns = [each for each in report.standstills(record) if each[0].startswith("warm")]
    figure, axes = _axes(len(columns) + 3)  # room for the legend
    names = [mark.stage for mark in timeline.MARKS]
    shown = [
        name
        for name in names
        if any(each.get(name, 0.0) >= SHOWN_SECONDS_MIN for _, each in columns)
    ]
    looks = {
        name: (name, STAGE_COLORS[number % len(STAGE_COLORS)]) for number, name in enumerate(shown)
    }
    looks[REST] = (REST, "#000000")
    looks[timeline.LAST_STAGE] = (timeline.LAST_STAGE, BOOT)
    short = [name for name in names if name not in shown]
    values = [{**each, REST: sum(each.get(name, 0.0) for name in short)} for _, each in columns]
    _stack(figure, axes, [name for name, _ in columns], values, looks)
    axes.set_xlabel("seconds since the last acknowledgement at the source")
    return figure


def _axes(bars: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, 1.1 + 0.27 * bars))
    return figure, figure.add_subplot()


def _stack(
    figure: Figure,
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[Mapping[str, float]],
    looks: Mapping[str, tuple[str, str]],
) -> None:
    """A bar for each label, the first at the top, of the parts in `looks`."""
    left = [0.0] * len(labels)
    for key, (name, color) in looks.items():
        widths = [each.get(key, 0.0) for each in values]
        axes.barh(labels, widths, left=left, label=name, color=color, height=0.62)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS)
