"""Runs cases one after another, and keeps each result at once: a run can be cut off and resumed."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import record
from bench.experiment.cases import Case
from bench.images import Cache
from bench.methods.result import Result
from bench.rows import differences
from bench.rows.context import METHODS, Context

Moves = Callable[[Context, Case, Path], Result]


class Kept:
    """The JSON file of a run: `cases` by key, each with its result and the revision it ran on."""

    def __init__(self, file: Path, parameters: dict[str, Any]) -> None:
        self._file = file
        self._record = record.new(parameters)
        self._record["cases"] = {}
        if file.exists():
            earlier = json.loads(file.read_text())
            if earlier.get("schema") != record.SCHEMA or "cases" not in earlier:
                sys.exit(f"{file} is no file of this command; name another one with --json")
            self._record["cases"] = earlier["cases"]
            self._record["images"] = earlier.get("images", {})

    def __contains__(self, case: Case) -> bool:
        return case.key in self._record["cases"]

    def add(self, case: Case, result: Result) -> None:
        """Writes the file."""
        entry = asdict(case) | {"result": result.as_dict()}
        self._record["cases"][case.key] = entry | {"revision": self._record["revision"]}
        record.save(self._file, self._record)

    def add_image(self, name: str, size_bytes: int, compressed_bytes: int) -> None:
        """What the floor is computed from."""
        images = self._record.setdefault("images", {})
        images[name] = {"bytes": size_bytes, "compressed_bytes": compressed_bytes}


def run(context: Context, cases: Iterable[Case], kept: Kept) -> None:
    """Runs the cases that are not kept yet."""
    todo = [case for case in cases if case not in kept]
    for number, case in enumerate(todo, start=1):
        image = image_of(context, case.image)
        compressed = context.cache.compressed_bytes(image)
        kept.add_image(case.image, image.stat().st_size, compressed)
        result = SPECIAL.get(case.method, _plain)(context, case, image)
        kept.add(case, result)
        note = "" if result.identical else "  NOT IDENTICAL"
        sys.stdout.write(f"{number}/{len(todo)}  {case.key}  {result.seconds:.2f} s{note}\n")
        sys.stdout.flush()


def image_of(context: Context, name: str) -> Path:
    """By a name of IMAGES, or a path."""
    return IMAGES[name](context.cache) if name in IMAGES else Path(name)


def _plain(context: Context, case: Case, image: Path) -> Result:
    return context.over(context.shape(case.rate_mbit, case.rtt_ms), METHODS[case.method], image)


def _sibling(context: Context, case: Case, image: Path) -> Result:
    del image  # it is what the destination has already
    return differences.sibling(context, context.shape(case.rate_mbit, case.rtt_ms))


def _back(context: Context, case: Case, image: Path) -> Result:
    del image
    return differences.back(context, context.shape(case.rate_mbit, case.rtt_ms))


RANDOM_BYTES = 512 << 20
IMAGES: Mapping[str, Callable[[Cache], Path]] = {
    "root": Cache.root,
    "small": Cache.small,
    "tiny": Cache.tiny,
    "full": Cache.full,
    "qcow2": Cache.qcow2,
    "random": lambda cache: cache.random(RANDOM_BYTES),
}
"""What cases name; a path is one's own image."""

SPECIAL: dict[str, Moves] = {"watari_sibling": _sibling, "watari_back": _back}
"""Methods that need more than a link and an image."""
