"""The results of an experiment as Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.experiment import numbers, paper
from bench.experiment.numbers import Lines, Point

MB = 1e6

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
    """A section for each image and rate: seconds, megabytes, the paper's figures beside ours."""
    parts = []
    for image, rate in numbers.groups(record):
        lines = numbers.lines(record, image, rate)
        parts += [f"### {Path(image).stem}, {rate:g} Mbit/s", ""]
        parts += [_times(record, image, rate, lines), ""]
        parts += [_wire(record, image, lines), ""]
        parts += _paper(lines)
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


def _wire(record: Mapping[str, Any], image: str, lines: Lines) -> str:
    """Bytes that entered the link, over the round trips: the least and the most of the medians."""
    rows = ["| MB on the link | least | most |", "|---|---|---|"]
    floor = int(record["images"][image]["compressed_bytes"]) / MB
    rows.append(f"| floor: `zstd -3` of the image | {floor:,.1f} | |")
    for method in NAMES:
        if method in lines:
            sizes = [point.median_wire_bytes / MB for point in lines[method]]
            rows.append(f"| {NAMES[method]} | {min(sizes):,.1f} | {max(sizes):,.1f} |")
    return "\n".join(rows)


def _paper(lines: Lines) -> list[str]:
    found = paper.rows(lines)
    if not found:
        return []
    rows = ["| the paper's figures | the paper | here |", "|---|---|---|"]
    rows += [f"| {row.what} | {row.paper} | {row.ours} |" for row in found]
    return ["\n".join(rows), ""]
