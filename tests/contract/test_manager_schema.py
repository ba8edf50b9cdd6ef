"""The tables over time: from nothing, from before there were migrations, never from a later one."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from manager import audit, schema
from manager.accounting import tables as accounting
from manager.schema import known
from manager.settings.store import StoreSettings
from manager.store import Store
from tests.support import postgresql
from watari import errors
from watari.audit import verify

OLD = Path(__file__).with_name("manager_schema_4.sql")
"""A database as the last release without migrations left it."""


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(
    database: StoreSettings,
) -> None:
    store = Store(database)
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, known.METADATA) == []
    store.close()


def test_a_database_is_opened_again_as_it_was_left(database: StoreSettings) -> None:
    for subject in ("one", "two"):
        store = Store(database)
        with store.write() as connection:
            audit.append(connection, 1, actor="a", action="b", subject=subject)
        store.close()
    store = Store(database)
    with store.read() as connection:
        assert audit.head(connection).sequence == 2
    store.close()


def test_a_database_of_a_newer_release_is_refused(database: StoreSettings) -> None:
    store = Store(database)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(errors.InvalidArgument, match=r"newer release.*9999") as caught:
        Store(database)
    assert caught.value.reason == "CONFIG_INVALID"


def test_a_database_from_before_there_were_migrations_is_taken_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "manager.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
        before = list(connection.iterdump())
    store = Store(StoreSettings(path=path))
    with store.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, known.METADATA) == []
        verify(audit.page(connection, after=0, limit=10))
        audit.append(connection, 3, actor="a", action="b", subject="c")
    with pytest.raises(sa.exc.IntegrityError), store.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_entries")
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        after = set(connection.iterdump())
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [
            (schema.NUMBER,)
        ]
    rows = [line for line in before if line.startswith("INSERT")]
    # A column that a table got since has nothing in it.
    lost = [line for line in rows if after.isdisjoint({line, f"{line[:-2]},NULL);"})]
    assert lost == ['INSERT INTO "schema_version" VALUES(4);']


def test_a_database_of_a_number_that_nobody_takes_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manager.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD.read_text())
        connection.executescript("UPDATE schema_version SET version = 3")
    with pytest.raises(errors.InvalidArgument, match="schema version 3") as caught:
        Store(StoreSettings(path=path))
    assert caught.value.reason == "CONFIG_INVALID"


def test_managers_that_start_at_once_make_the_tables_once(
    postgresql_server: postgresql.Server,
) -> None:
    settings = replace(postgresql_server.settings(), connections_max=2)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store(settings), range(4)))
    for store in stores:
        with store.read() as connection:
            assert audit.head(connection).sequence == 0
        store.close()


@pytest.mark.parametrize("table", accounting.TABLES, ids=lambda table: table.name)
def test_the_database_itself_refuses_to_change_what_was_booked(
    database: StoreSettings, table: sa.Table
) -> None:
    values = {
        column.name: b"" if isinstance(column.type, sa.LargeBinary) else 1
        for column in table.columns
        if not isinstance(column.type, sa.String)
    } | {column.name: "x" for column in table.columns if isinstance(column.type, sa.String)}
    store = Store(database)
    with store.write() as connection:
        connection.execute(table.insert().values(**values))
    for change in (table.delete(), table.update().values(**values)):
        with (
            pytest.raises(sa.exc.DBAPIError, match="appended to only"),
            store.write() as connection,
        ):
            connection.execute(change)
    store.close()
