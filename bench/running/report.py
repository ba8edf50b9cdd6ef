"""The results of `python -m bench running`: a table, and where the standstill goes."""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.running import timeline

MB = 1e6
NAMES: Mapping[str, str] = {
    "cold": "**Watari**, cold",
    "suspend": "**Watari**, suspend",
    "warm": "**Watari**, warm",
    "live-sync": "`virsh migrate --live`, TLS, synchronous writes",
    "live": "`virsh migrate --live`, TLS",
}
COLUMNS = (
    "disk", "method", "in all, s", "told downtime, s", "service gap, s", "boot alone, s",
    "MB on the link", "rounds", "pace while copied", "lost", "boot kept",
)  # fmt: skip
HEAD = """# Results

Medians; the least and the most where a case was repeated. Written by `python -m bench running`,
like the figures beside it.

"""

Row = dict[str, Any]
Group = tuple[str, str, Sequence[Row]]


def write(record: Mapping[str, Any], folder: Path) -> None:
    """Results.md into a folder, and the table to stdout."""
    table = text(record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(HEAD + table)
    sys.stdout.write(f"{table}\nresults.md and figures in {folder}\n")


def groups(record: Mapping[str, Any]) -> list[Group]:
    """(disk, method, its repetitions), disks and methods in the order of the table."""
    found = []
    for disk in ("qcow2", "raw"):
        for method in NAMES:
            rows = record["rows"].get(f"{method} {disk}")
            if rows:
                found.append((disk, method, rows))
    return found


def text(record: Mapping[str, Any]) -> str:
    """The table, and the standstill by stages."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [_line(*group) for group in groups(record)]
    return "\n".join([*lines, "", *_stages(record), ""])


def median_of(rows: Sequence[Row], read: Callable[[Row], float]) -> float:
    """Of the repetitions."""
    return statistics.median(read(row) for row in rows)


def _line(disk: str, method: str, rows: Sequence[Row]) -> str:
    lost = sum(len(row["problems"]) for row in rows)
    wire = f"{median_of(rows, lambda row: row['wire_bytes']) / MB:,.0f}"
    pace = f"{100 * median_of(rows, _pace):.0f} %"
    cells = [disk, NAMES[method]]
    if "seconds" not in rows[0]:
        cells += [f"no end in {rows[0]['gave_up_seconds']:.0f}", "", "", _boot(rows)]
        return "| " + " | ".join([*cells, wire, "", pace, str(lost), ""]) + " |"
    kept = all(row["boot_kept"] for row in rows)
    cells += [_spread(rows, name) for name in ("seconds", "told_downtime_seconds", "gap_seconds")]
    cells += [_boot(rows), wire, _rounds(rows), pace, str(lost), "yes" if kept else "no"]
    return "| " + " | ".join(cells) + " |"


def _spread(rows: Sequence[Row], name: str) -> str:
    values = [float(row[name]) for row in rows]
    told = f"{statistics.median(values):.2f}"
    return told if len(values) == 1 else f"{told} ({min(values):.2f}-{max(values):.2f})"


def _boot(rows: Sequence[Row]) -> str:
    return f"{median_of(rows, lambda row: row['boot_seconds']):.2f}"


def _pace(row: Row) -> float:
    """Acknowledgements while it was copied, of those before."""
    return float(row["pace"]["copying"] / max(1e-9, row["pace"]["before"]))


def _rounds(rows: Sequence[Row]) -> str:
    """With the machine running, and the last one."""
    counts = [_count(row["told"]) for row in rows]
    least, most = min(counts), max(counts)
    if not most:
        return ""
    return f"{least}" if least == most else f"{least}-{most}"


def _count(told: Mapping[str, Any]) -> int:
    if "rounds" in told:
        return len(told["rounds"]) + 1 if told["rounds"] else 0
    return int(json.loads(told.get("Iteration", "0")))


def standstills(record: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """(method and disk, median seconds of each stage), of those who told their stages."""
    return [
        (f"{method}, {disk}", timeline.summed([row["stages"] for row in rows]))
        for disk, method, rows in groups(record)
        if any(row["stages"] for row in rows)
    ]


def _stages(record: Mapping[str, Any]) -> list[str]:
    columns = standstills(record)
    order = [mark.stage for mark in timeline.MARKS] + [timeline.LAST_STAGE]
    lines = ["| seconds of the gap | " + " | ".join(name for name, _ in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for stage in order:
        cells = [f"{each[stage]:.2f}" if stage in each else "" for _, each in columns]
        if any(cells):
            lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return lines
