"""Statements that are asked for all the time: compiled once, and sent together.

What SQLAlchemy does for each statement anew (build it, look up what it compiled to, describe the
result) takes longer than the database takes to answer, and so does waiting for one answer before
the next question is put. `run` sends several statements in one round trip, where the database has
one (PostgreSQL's pipeline mode), and hands back what came as it came. There, many rows go in few
statements as well: every single one is another message, and for each the driver lets the
interpreter's other threads go first.

Statements are written in SQLAlchemy Core, so that they are the same on every database. Values go in
and come out as the driver has them: for text, numbers and bytes that is what SQLAlchemy gives.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Values = Mapping[str, object]

ROWS_MAX = 32
"""In one statement."""

_Value = TypeVar("_Value")
_NAMED = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True)
class _Compiled:
    text: str
    constants: Values
    positions: Sequence[str] | None
    """Names in the order of the question marks, where the driver has no names."""

    def bound(self, values: Values) -> Any:
        named = {**self.constants, **values}
        if self.positions is None:
            return named
        return tuple(named[name] for name in self.positions)


class Statement:
    """One statement with named parameters."""

    def __init__(self, clause: sa.Executable) -> None:
        self._clause = clause
        self._compiled: dict[str, _Compiled] = {}

    def compiled(self, dialect: sa.Dialect) -> _Compiled:
        """As a database takes it."""
        known = self._compiled.get(dialect.name)
        if known is None:
            made: Any = self._clause.compile(  # type: ignore[attr-defined]
                dialect=dialect, compile_kwargs={"render_postcompile": True}
            )
            constants = {name: value for name, value in made.params.items() if value is not None}
            known = _Compiled(made.string, constants, made.positiontup)
            self._compiled[dialect.name] = known
        return known


@dataclass(frozen=True)
class _CompiledRows:
    text: str
    values: Sequence[tuple[int, str] | object]
    """What stands at each place: a row's number and the name of its value, or a constant."""

    def bound(self, rows: Sequence[Values]) -> tuple[object, ...]:
        return tuple(
            rows[each[0]][each[1]] if isinstance(each, tuple) else each for each in self.values
        )


class Rows:
    """One statement for any number of rows, which returns none. `make` makes it for so many:
    parameter `name` of row 3 is called `name__3`, which is what `of_row` calls it.
    """

    def __init__(self, make: Callable[[int], sa.Executable]) -> None:
        self._make = make
        self._compiled: dict[tuple[str, int], _CompiledRows] = {}

    @classmethod
    def inserting(cls, table: sa.Table, columns: Sequence[str]) -> "Rows":
        """Inserts rows of these columns."""

        def make(count: int) -> sa.Executable:
            return table.insert().values(
                [
                    {name: of_row(name, row, table.c[name].type) for name in columns}
                    for row in range(count)
                ]
            )

        return cls(make)

    def compiled(self, dialect: sa.Dialect, count: int) -> _CompiledRows:
        """As a database takes it, with a value at each place."""
        known = self._compiled.get((dialect.name, count))
        if known is None:
            one = Statement(self._make(count)).compiled(dialect)
            names = one.positions or _NAMED.findall(one.text)
            values = [
                one.constants[name] if name in one.constants else _row_and_name(name)
                for name in names
            ]
            known = _CompiledRows(_NAMED.sub("%s", one.text), values)
            self._compiled[dialect.name, count] = known
        return known


def of_row(name: str, row: int, kind: sa.types.TypeEngine[Any] | None = None) -> Any:
    """The parameter of a row."""
    return sa.bindparam(f"{name}__{row}", type_=kind)


def _row_and_name(parameter: str) -> tuple[int, str]:
    name, _, row = parameter.rpartition("__")
    return int(row), name


@dataclass(frozen=True)
class Ask:
    """A statement with its values."""

    statement: Statement
    values: Values | None = None


@dataclass(frozen=True)
class AskRows:
    """A statement for each of these rows."""

    statement: Rows
    rows: Sequence[Values]


@dataclass(frozen=True)
class Told:
    """What came of it."""

    rows: Sequence[tuple[Any, ...]]
    changed: int
    """Rows that it changed, over all its values."""


def padded(values: Collection[_Value]) -> list[_Value]:
    """`values` (at least one), and the last of them again until they are a power of two: an IN of
    so many parameters is one of few statements, whatever is looked for.
    """
    given = list(values)
    return given + given[-1:] * ((1 << (len(given) - 1).bit_length()) - len(given))


def parts(rows: Sequence[_Value]) -> Iterator[Sequence[_Value]]:
    """`rows` in their order, in parts of powers of two: so these are few statements as well, where
    none may be said twice.
    """
    at = 0
    while at < len(rows):
        count = min(ROWS_MAX, 1 << ((len(rows) - at).bit_length() - 1))
        yield rows[at : at + count]
        at += count


def run(connection: Connection, asked: Sequence[Ask | AskRows]) -> list[Told]:
    """Run statements in their order, in the caller's transaction.

    Raises sqlalchemy.exc.DBAPIError, as `connection.execute` does.
    """
    dialect, driver = connection.dialect, connection.connection.driver_connection
    if driver is None:
        raise sa.exc.PendingRollbackError("the connection is gone")
    errors: type[Exception] = dialect.loaded_dbapi.Error
    try:
        if dialect.name != "postgresql":
            return [_told(_execute(driver, dialect, each)) for each in asked]
        with driver.pipeline():
            cursors = [_send(driver, dialect, each) for each in asked]
        return [_told(*each) for each in cursors]
    except errors as error:
        raise sa.exc.DBAPIError.instance(
            None, None, error, errors, dialect=dialect, hide_parameters=True
        ) from error


def _execute(driver: Any, dialect: sa.Dialect, asked: Ask | AskRows) -> Any:
    if isinstance(asked, Ask):
        compiled = asked.statement.compiled(dialect)
        return driver.execute(compiled.text, compiled.bound(asked.values or {}))
    of_one = asked.statement.compiled(dialect, 1)
    return driver.executemany(of_one.text, [of_one.bound([row]) for row in asked.rows])


def _send(driver: Any, dialect: sa.Dialect, asked: Ask | AskRows) -> list[Any]:
    if isinstance(asked, Ask):
        return [_execute(driver, dialect, asked)]
    sent = []
    for part in parts(asked.rows):
        compiled = asked.statement.compiled(dialect, len(part))
        sent.append(driver.execute(compiled.text, compiled.bound(part)))
    return sent


def _told(*cursors: Any) -> Told:
    (cursor, *more) = cursors
    # Of a statement that returns none sqlite3 fetches no rows, and psycopg has no row number. (It
    # has a `description` as well, which it makes for every asking, column by column.)
    rows = cursor.fetchall() if getattr(cursor, "rownumber", 0) is not None else []
    return Told(rows, sum(each.rowcount for each in (cursor, *more)))
