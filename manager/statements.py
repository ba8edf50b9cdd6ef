"""Statements that are asked for all the time: compiled once, and sent together.

What SQLAlchemy does for each statement anew (build it, look up what it compiled to, describe the
result) takes longer than the database takes to answer, and so does waiting for one answer before
the next question is put. `run` sends several statements in one round trip, where the database has
one (PostgreSQL's pipeline mode), and hands back what came as it came.

Statements are written in SQLAlchemy Core, so that they are the same on every database. Values go in
and come out as the driver has them: for text, numbers and bytes that is what SQLAlchemy gives.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

Values = Mapping[str, object]

_Value = TypeVar("_Value")


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
    """One statement with named parameters. `columns` are those that an INSERT sets."""

    def __init__(self, clause: sa.Executable, columns: Sequence[str] | None = None) -> None:
        self._clause = clause
        self._columns = columns
        self._compiled: dict[str, _Compiled] = {}

    def compiled(self, dialect: sa.Dialect) -> _Compiled:
        """As a database takes it."""
        known = self._compiled.get(dialect.name)
        if known is None:
            made: Any = self._clause.compile(  # type: ignore[attr-defined]
                dialect=dialect,
                column_keys=self._columns,
                compile_kwargs={"render_postcompile": True},
            )
            constants = {name: value for name, value in made.params.items() if value is not None}
            known = _Compiled(made.string, constants, made.positiontup)
            self._compiled[dialect.name] = known
        return known


@dataclass(frozen=True)
class Ask:
    """A statement with its values: once, or once for each of `many`, which returns no rows."""

    statement: Statement
    values: Values | None = None
    many: Sequence[Values] | None = None


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


def run(connection: Connection, asked: Sequence[Ask]) -> list[Told]:
    """Run statements in their order, in the caller's transaction.

    Raises sqlalchemy.exc.DBAPIError, as `connection.execute` does.
    """
    dialect, driver = connection.dialect, connection.connection.driver_connection
    if driver is None:
        raise sa.exc.PendingRollbackError("the connection is gone")
    errors: type[Exception] = dialect.loaded_dbapi.Error
    try:
        if dialect.name != "postgresql":
            return [_told(each, _execute(driver, dialect, each)) for each in asked]
        with driver.pipeline():
            cursors = [_execute(driver, dialect, each) for each in asked]
        return [_told(each, cursor) for each, cursor in zip(asked, cursors, strict=True)]
    except errors as error:
        raise sa.exc.DBAPIError.instance(
            None, None, error, errors, dialect=dialect, hide_parameters=True
        ) from error


def _execute(driver: Any, dialect: sa.Dialect, each: Ask) -> Any:
    compiled, cursor = each.statement.compiled(dialect), driver.cursor()
    if each.many is not None:
        cursor.executemany(compiled.text, [compiled.bound(values) for values in each.many])
    else:
        cursor.execute(compiled.text, compiled.bound(each.values or {}))
    return cursor


def _told(each: Ask, cursor: Any) -> Told:
    rows = cursor.fetchall() if each.many is None and cursor.description is not None else []
    return Told(rows, cursor.rowcount)
