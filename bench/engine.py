"""Runs rows, peers taking turns, and prints the table."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import record
from bench.methods.result import Result
from bench.rows import cold, differences, local
from bench.rows.context import Context, Line, Row

PIPED_COLUMNS = 160
"""Width where stdout is no terminal."""


def rows() -> list[Row]:
    """Every row, in the order in which they run."""
    return [*cold.rows(), *differences.rows(), *local.rows()]


def run(
    chosen: Sequence[Row], context: Context, repeat: int, kept: dict[str, Any], file: Path
) -> None:
    """Runs the rows `repeat` times each; the file is whole after every row."""
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    table = _table()
    for row in chosen:
        measured = _measure(row, context, repeat, console)
        lines = row.lines(context, measured)
        kept["tcp"] = context.tcp_settings
        kept["rows"][row.name] = {
            "title": row.title,
            "lines": [asdict(line) for line in lines],
            "repetitions": {
                name: [each.as_dict() for each in results] for name, results in measured.items()
            },
        }
        record.save(file, kept)
        _add(table, row, lines)
    console.print(table)
    console.print(f"every repetition: {file}", highlight=False)


def _measure(row: Row, context: Context, repeat: int, console: Console) -> dict[str, list[Result]]:
    measured: dict[str, list[Result]] = {name: [] for name in row.runs}
    for number in range(repeat):
        for name, once in row.runs.items():
            result = once(context)
            measured[name].append(result)
            note = "" if result.identical else "  NOT IDENTICAL"
            text = f"{row.name}  {number + 1}/{repeat}  {name}  {result.seconds:.2f} s{note}"
            console.print(text, highlight=False, markup=False)
    return measured


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("row", "what", "median", "x floor", "target"):
        table.add_column(title, overflow="fold", justify="right" if title == "x floor" else "left")
    return table


def _add(table: Table, row: Row, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        ratio = "" if line.floor_ratio is None else f"{line.floor_ratio:.2f}"
        value = line.value if line.identical else f"{line.value}  NOT IDENTICAL"
        name = row.title if number == 0 else ""
        table.add_row(name, line.what, value, ratio, line.target)
    table.add_section()
