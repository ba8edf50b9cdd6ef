"""What a command prints: one JSON value or tables on stdout; errors and progress on stderr.

With `-o json` stdout carries exactly one object or array (one object a line when watching) and
stderr nothing but, at most, one `{"error": ...}` object. Tables are views of the same values.

Never: lets text that came from a peer reach the terminal with control characters in it.
"""

import enum
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from watari import errors

PIPED_COLUMNS = 400
"""Width where stdout is no terminal: wide enough that no id is cut in a pipe."""

_STYLES = {
    "succeeded": "green",
    "serving": "green",
    "ok": "green",
    "yes": "green",
    "failed": "red",
    "no": "red",
    "down": "red",
    "not serving": "yellow",
    "stale": "yellow",
    "rolling back": "yellow",
    "cancelled": "yellow",
}


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    """For people."""
    JSON = "json"
    """For programs."""


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table: its title and how its cell follows from a row."""

    title: str
    cell: Callable[[Any], str]
    """From the row to text."""
    right: bool = False
    """Numbers stand to the right."""
    optional: bool = False
    """Left out where the terminal is too narrow for all columns."""


class Output:
    """Prints in one format. The consoles may be given, for tests and recordings."""

    def __init__(
        self, chosen: Format, out: Console | None = None, err: Console | None = None
    ) -> None:
        self.format = chosen
        self.out = out or _console(sys.stdout)
        self.err = err or _console(sys.stderr)

    @property
    def is_json(self) -> bool:
        """Whether a program reads."""
        return self.format is Format.JSON

    def rows(self, rows: Sequence[Row], columns: Sequence[Column], empty: str) -> None:
        """Prints a list: an array, or a table, or the sentence `empty` when there is nothing."""
        if self.is_json:
            self._json(rows)
        elif rows:
            self.out.print(self.table(rows, columns))
        else:
            self.say(empty)

    def table(self, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
        """A table that suits the terminal's width."""
        whole = table(rows, columns)
        unbounded = self.out.options.update(width=PIPED_COLUMNS)
        if self.out.measure(whole, options=unbounded).maximum <= self.out.width:
            return whole
        return table(rows, [column for column in columns if not column.optional])

    def record(self, record: Row, *views: RenderableType) -> None:
        """Prints one thing: an object, or the views of it."""
        if self.is_json:
            self._json(record)
        self.show(*views)

    def show(self, *views: RenderableType) -> None:
        """Prints views for people; programs do not see them."""
        for view in () if self.is_json else views:
            self.out.print(view)

    def event(self, event: Row) -> None:
        """Prints one object on a line of its own; JSON only."""
        if self.is_json:
            self._json(event, indent=None)

    def say(self, text: str, style: str = "") -> None:
        """Prints a line to stdout for people; programs do not see it."""
        if not self.is_json:
            self.out.print(Text(clean(text), style))

    def note(self, text: str, style: str = "dim") -> None:
        """Prints a line to stderr for people; programs do not see it."""
        if not self.is_json:
            self.err.print(Text(clean(text), style))

    def error(self, error: errors.WatariError, title: str = "Error") -> None:
        """Prints what happened and what to do next."""
        if self.is_json:
            self._json_error(error)
            return
        self.err.print(Text.assemble((f"{title}: ", "bold red"), clean(error.message)))
        if error.hint:
            self.err.print(Text.assemble(("Next: ", "bold"), clean(error.hint)))

    @contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows on a terminal that something goes on, until the block is left; what it yields
        takes a new text.
        """
        if self.is_json or not self.err.is_terminal:
            yield lambda _text: None
            return
        with self.err.status(Text(text)) as status:
            yield lambda text: status.update(Text(clean(text)))

    def _json(self, value: object, indent: int | None = 2) -> None:
        # Not through Rich: it would wrap. One write, so that lines of a watch are whole.
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def _json_error(self, error: errors.WatariError) -> None:
        body = {
            "reason": error.reason,
            "code": error.code.name,
            "message": error.message,
            "hint": error.hint,
            "retryable": error.retryable,
            "metadata": error.metadata,
        }
        self.err.file.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        self.err.file.flush()


def requested_format(arguments: Sequence[str]) -> Format:
    """The format that a command line asks for, also when it is otherwise wrong."""
    for at, argument in enumerate(arguments):
        value = argument.removeprefix("--output=").removeprefix("-o")
        if argument in ("-o", "--output"):
            value = arguments[at + 1] if at + 1 < len(arguments) else ""
        if value in ("json", "=json") and value != argument:
            return Format.JSON
    return Format.TABLE


def table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """A table of rows; columns whose every cell is empty are left out."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    cells = [[clean(column.cell(row)) for row in rows] for column in columns]
    kept = [(column, texts) for column, texts in zip(columns, cells, strict=True) if any(texts)]
    for column, _ in kept:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        shown.add_column(column.title, justify=justify, overflow="fold")
    for row in zip(*(texts for _, texts in kept), strict=True):
        shown.add_row(*(Text(text, _STYLES.get(text, "")) for text in row))
    return shown


def facts(pairs: Sequence[tuple[str, str]]) -> Padding:
    """Names and values below one another; pairs without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, Text(clean(value), _STYLES.get(value, "")))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def clean(text: str) -> str:
    """The text with control characters, which could drive the terminal, replaced."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _console(stream: Any) -> Console:
    width = None if stream.isatty() else PIPED_COLUMNS
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
