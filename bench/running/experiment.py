"""All methods, formats and repetitions of a run, one after another; what is on record is not run
again.
"""

import watari.tls  # noqa: F401, I001 - before grpc

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import record
from bench.link import Shape
from bench.running import guests, moves
from bench.running.guests import Load
from bench.running.moves import METHODS, Setting
from tests.conftest import Federation
from tests.lab import image

__all__ = ["METHODS", "Chosen", "Load", "run"]

ONCE = ("live",)
"""Methods that are not repeated: one that comes to no end tells no more the second time."""


@dataclass(frozen=True)
class Chosen:
    """What is run."""

    methods: Sequence[str]
    disks: Sequence[str]
    repeat: int
    shape: Shape
    load: Load

    def cases(self) -> Iterator[tuple[str, str, int]]:
        """(method, disk, repetition): every method once before any comes again."""
        for number in range(self.repeat):
            for disk in self.disks:
                for method in self.methods:
                    if number == 0 or method not in ONCE:
                        yield method, disk, number


def run(chosen: Chosen, file: Path) -> dict[str, Any]:
    """Runs what is not in the file yet, which is whole after every move; returns all of it."""
    kept = _begun(chosen, file)
    with tempfile.TemporaryDirectory(prefix="wb") as name:
        folder = Path(name)  # short: there are sockets below it
        templates = {disk: guests.template(chosen.load, disk, folder) for disk in chosen.disks}
        federation = Federation(folder / "f")
        setting = Setting(chosen.shape, chosen.load, image.prepare(), federation)
        for method, disk, repetition in chosen.cases():
            rows = kept["rows"].setdefault(f"{method} {disk}", [])
            if len(rows) > repetition:
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(dir=folder, prefix="m") as place:
                row = moves.one(setting, method, disk, templates[disk], Path(place))
            rows.append(row)
            record.save(file, kept)
            _say(row, repetition, time.monotonic() - began)
    return kept


def _begun(chosen: Chosen, file: Path) -> dict[str, Any]:
    parameters = {"link": asdict(chosen.shape), "load": asdict(chosen.load)}
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        if kept["parameters"] != parameters:
            sys.exit(f"{file} is of another link or guest: move it away, or name another file")
        return kept
    return record.new(parameters)


def _say(row: dict[str, Any], repetition: int, seconds: float) -> None:
    if "seconds" in row:
        told = f"{row['seconds']:.1f} s, away for {row['gap_seconds']:.2f} s"
    else:
        told = f"no end in {row['gave_up_seconds']:.0f} s"
    lost = f"  {row['problems']}" if row["problems"] else ""
    sys.stdout.write(
        f"{row['method']} {row['disk']} {repetition + 1}: {told}{lost} ({seconds:.0f} s)\n"
    )
    sys.stdout.flush()
