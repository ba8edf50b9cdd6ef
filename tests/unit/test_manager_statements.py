"""Statements that are sent together: what they tell, and that a failure is the database's own."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables
from manager.settings.store import StoreSettings
from manager.statements import (
    ROWS_MAX,
    Ask,
    AskRows,
    Rows,
    Statement,
    of_row,
    padded,
    parts,
    run,
)
from manager.store import Store
from watari import errors

_TAKEN = tables.taken.c
INSERT = Rows.inserting(tables.taken, [column.name for column in _TAKEN])
READ = Statement(sa.select(_TAKEN.resource_class, _TAKEN.amount).order_by(_TAKEN.resource_class))
ADD = Statement(
    tables.taken.update()
    .where(_TAKEN.kind == "vm", _TAKEN.resource_class == sa.bindparam("name"))
    .values(amount=_TAKEN.amount + sa.bindparam("more"))
)


def _raising(count: int) -> sa.Update:
    named = [_TAKEN.resource_class == of_row("name", row) for row in range(count)]
    return tables.taken.update().where(sa.or_(*named)).values(amount=_TAKEN.amount + 1)


RAISE = Rows(_raising)


@pytest.fixture
def store(database: StoreSettings) -> Iterator[Store]:
    made = Store(database)
    with made.write() as connection:
        fill(connection)
    yield made
    made.close()


def fill(connection: Connection) -> None:
    """Three classes, of which there are 0, 1 and 2."""
    rows = [
        {"host_id": "h1", "kind": "vm", "resource_class": f"c{each}", "amount": each}
        for each in range(3)
    ]
    (told,) = run(connection, [AskRows(INSERT, rows)])
    assert told.changed == len(rows)


def test_each_statement_tells_what_came_of_it_and_sees_those_before_it(store: Store) -> None:
    with store.write() as connection:
        before, one, many, after = run(
            connection,
            [
                Ask(READ),
                Ask(ADD, {"name": "c1", "more": 5}),
                AskRows(RAISE, [{"name": each} for each in ("c0", "c2", "nothing")]),
                Ask(READ),
            ],
        )
    assert list(before.rows) == [("c0", 0), ("c1", 1), ("c2", 2)]
    assert (one.changed, many.changed) == (1, 2)
    assert list(after.rows) == [("c0", 1), ("c1", 6), ("c2", 3)]


def test_a_statement_that_fails_says_so_as_sqlalchemy_does_and_is_taken_back(store: Store) -> None:
    with pytest.raises(sa.exc.IntegrityError), store.write() as connection:
        run(connection, [Ask(ADD, {"name": "c1", "more": 5}), Ask(ADD, {"name": "c1", "more": -9})])
    with store.read() as connection:
        assert list(run(connection, [Ask(READ)])[0].rows) == [("c0", 0), ("c1", 1), ("c2", 2)]


def test_a_database_that_is_gone_is_told_as_one_that_is_away(store: Store) -> None:
    def lose(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.close()
        run(connection, [Ask(READ)])

    if store._database.engine.dialect.name == "postgresql":
        with pytest.raises(errors.Unavailable), store.write() as connection:
            lose(connection)
    with store.write() as connection:
        assert len(run(connection, [Ask(READ)])[0].rows) == 3


def test_what_is_looked_for_is_one_of_few_statements() -> None:
    assert [len(padded(range(1, count + 1))) for count in range(1, 10)] == [
        *(1, 2, 4, 4, 8, 8, 8, 8, 16)
    ]
    assert padded("abc") == ["a", "b", "c", "c"]


@pytest.mark.parametrize("count", [1, 2, 3, ROWS_MAX, 2 * ROWS_MAX + 7])
def test_so_many_rows_are_written_once_each_in_few_statements(store: Store, count: int) -> None:
    names = [f"n{number:03d}" for number in range(count)]
    rows = [
        {"host_id": "h2", "kind": "vm", "resource_class": name, "amount": number}
        for number, name in enumerate(names)
    ]
    with store.write() as connection:
        made, raised, read = run(
            connection,
            [AskRows(INSERT, rows), AskRows(RAISE, [{"name": name} for name in names]), Ask(READ)],
        )
    assert (made.changed, raised.changed) == (count, count)
    assert list(read.rows)[3:] == [(name, number + 1) for number, name in enumerate(names)]


def test_parts_are_powers_of_two_and_all_of_it_in_order() -> None:
    for count in range(3 * ROWS_MAX):
        told = list(parts(range(count)))
        assert [each for part in told for each in part] == list(range(count))
        assert all(len(part) in {1, 2, 4, 8, 16, ROWS_MAX} for part in told)
        assert len(told) <= 3 + ROWS_MAX.bit_length()
