"""The figure of a comparison, as SVG: the same record gives the same bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.experiment.figures import STYLE
from bench.policies.comparing import LABELS

SIZE_INCHES = (7.6, 6.2)

# Colours that people with any colour vision tell apart (Okabe and Ito).
COLORS: Mapping[str, str] = {
    "stay": "#000000",
    "cheapest": "#cc79a7",
    "cheapest_evacuating": "#e69f00",
    "evacuate": "#0072b2",
    "automatic": "#d55e00",
    "bound": "#666666",
}
MARKERS: Mapping[str, str] = {
    "cheapest": "v",
    "cheapest_evacuating": "^",
    "evacuate": "s",
    "automatic": "o",
    "bound": "_",
}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Above, one setting day by day; below, all of them at the end; both against staying."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES)
        above, below = figure.subplots(2, 1)
        first = next(iter(found))
        _days(above, first, found[first])
        _settings(below, found)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _days(axes: Axes, setting: str, row: Mapping[str, Any]) -> None:
    """What was paid until then, of what staying had cost until then: mean, least and most."""
    runs = list(row["seeds"].values())
    staying = np.array([run["strategies"]["stay"]["daily"] for run in runs])
    for name in MARKERS:
        if name == "bound":
            continue
        paid = np.array([run["strategies"][name]["daily"] for run in runs])
        shares = 100 * (paid / staying - 1)
        days = np.arange(1, shares.shape[1] + 1)
        axes.plot(days, shares.mean(axis=0), color=COLORS[name], label=LABELS[name])
        # The other of the two that are always cheapest has the same band, nearly.
        if name != "cheapest_evacuating":
            least, most = shares.min(axis=0), shares.max(axis=0)
            axes.fill_between(days, least, most, color=COLORS[name], alpha=0.12, linewidth=0)
    axes.axhline(0, color=COLORS["stay"], linewidth=0.8, label=LABELS["stay"])
    _percent(axes)
    axes.set_xlabel(f"day ({setting}; mean of {len(runs)} seeds, least and most)")
    axes.set_ylabel("paid until then, against stay (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _settings(axes: Axes, found: Mapping[str, Any]) -> None:
    places = np.arange(len(found))
    for number, (name, marker) in enumerate(MARKERS.items()):
        means, spreads = [], []
        for row in found.values():
            runs = row["seeds"].values()
            totals = [
                run["bound"] if name == "bound" else run["strategies"][name]["total"]
                for run in runs
            ]
            stay = [run["strategies"]["stay"]["total"] for run in runs]
            shares = 100 * (np.array(totals) / np.array(stay) - 1)
            means.append(shares.mean())
            spreads.append((shares.mean() - shares.min(), shares.max() - shares.mean()))
        axes.errorbar(
            places + 0.13 * (number - 2),
            means,
            yerr=list(zip(*spreads, strict=True)),
            linestyle="none",
            marker=marker,
            color=COLORS[name],
            label=LABELS[name],
            elinewidth=0.8,
            capsize=2,
        )
    axes.axhline(0, color=COLORS["stay"], linewidth=0.8)
    _percent(axes)
    axes.set_xticks(places, list(found))
    axes.set_ylabel("total against stay (%)")
    axes.set_xlabel("setting (mean over the seeds, least and most)")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _percent(axes: Axes) -> None:
    """Even up to 10 on either side, where most is, and by its logarithm beyond."""
    axes.set_yscale("symlog", linthresh=10)
    ticks = (-50, -20, -10, -5, 0, 5, 10, 20, 50, 100, 200)
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
