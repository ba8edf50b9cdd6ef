"""The results of an experiment as Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.experiment import numbers
from bench.experiment.numbers import Lines, Point

NAMES: Mapping[str, str] = {
    "paper_ipsec": "existing: whole image through IPsec",
    "paper_plain": "existing, if IPsec were free",
    "paper_whole": "paper: whole VM encrypted",
    "paper_part": "paper: meaningful part",
    "nbd_tls": "`qemu-img`, NBD over TLS",
    "casync": "`casync`, zstd",
    "rsync": "`rsync -S`, zstd",
    "zstd_ssh": "`zstd -3 \\| ssh`",
    "watari": "**Watari**, cold",
    "watari_sibling": "**Watari**, sibling there",
    "watari_back": "**Watari**, moving back",
}


def text(record: Mapping[str, Any]) -> str:
    """A section for each image and rate, and the crossing of the paper's own lines."""
    parts = []
    for image, rate in numbers.groups(record):
        lines = numbers.lines(record, image, rate)
        parts += [
            f"### {Path(image).stem}, {rate:g} Mbit/s",
            "",
            _times(record, image, rate, lines),
        ]
        parts += ["", _crossing(lines), ""]
    return "\n".join(parts)


def _times(record: Mapping[str, Any], image: str, rate: float, lines: Lines) -> str:
    trips = numbers.round_trips_ms(lines)
    rows = ["| seconds | " + " | ".join(f"{each:g} ms" for each in trips) + " |"]
    rows.append("|---" * (len(trips) + 1) + "|")
    floor = [f"{numbers.floor_seconds(record, image, rate, each):.2f}" for each in trips]
    rows.append("| floor | " + " | ".join(floor) + " |")
    for method in NAMES:
        if method in lines:
            points = {point.rtt_ms: point for point in lines[method]}
            cells = [_cell(points[each]) if each in points else "" for each in trips]
            rows.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(point: Point) -> str:
    """Median, and least and most where there was more than one repetition."""
    told = f"{point.median:.2f}" if point.median < 100 else f"{point.median:.0f}"
    if len(point.seconds) > 1:
        told += f" ({min(point.seconds):.2f}-{max(point.seconds):.2f})"
    return told if point.identical else f"{told} NOT IDENTICAL"


def _crossing(lines: Lines) -> str:
    if "paper_part" not in lines or "paper_ipsec" not in lines:
        return ""
    part, existing = lines["paper_part"], lines["paper_ipsec"]
    crossing = numbers.crossing_ms(part, existing)
    if crossing is not None:
        return f"The paper's proposal becomes faster than the existing method at {crossing:.0f} ms."
    first = next(point for point in existing if point.rtt_ms == part[0].rtt_ms)
    always = part[0].median <= first.median
    how = "faster" if always else "slower"
    return f"The paper's proposal is {how} than the existing method at every round trip here."
