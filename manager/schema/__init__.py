"""The database's tables over time: one module in `versions` for each change of one.

A manager brings the database to what it knows when it starts, in one write transaction, so that two
that start at once do it one after the other. A database of a newer release is refused: nobody knows
here what its columns mean. Until migrations came, a database had a number in `schema_version`; the
last of these, 4, is taken over as it is. That table remains, with a number that makes the releases
of then refuse the database.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from watari import errors

BASELINE = "0001"
"""The revision that is schema version 4."""

NUMBER_TAKEN_OVER = 4
NUMBER = 5
"""In `schema_version`, for releases that know no migrations."""

_NUMBERS = sa.table("schema_version", sa.column("version", sa.Integer()))


def upgrade(connection: Connection) -> None:
    """Bring the database to this release's tables, in the caller's transaction.

    Raises InvalidArgument CONFIG_INVALID for a database that this release cannot take over.
    """
    config = configuration(connection)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        if sa.inspect(connection).has_table("schema_version"):
            _take_over(connection, config)
    else:
        scripts = ScriptDirectory.from_config(config)
        _require_known(scripts, found)
        if found == scripts.get_current_head():
            return
    command.upgrade(config, "head")


def configuration(connection: Connection) -> Config:
    """Alembic's, for a connection in a transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _take_over(connection: Connection, config: Config) -> None:
    number = connection.scalar(sa.select(_NUMBERS.c.version))
    if number != NUMBER_TAKEN_OVER:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"the database has schema version {number}, this release takes over "
            f"{NUMBER_TAKEN_OVER}",
            hint="use the release that wrote it, or another database",
        )
    command.stamp(config, BASELINE)
    connection.execute(_NUMBERS.update().values(version=NUMBER))


def _require_known(scripts: ScriptDirectory, found: str) -> None:
    try:
        scripts.get_revision(found)
    except CommandError:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"the database is of a newer release: its schema has revision {found}",
            hint="use the release that wrote it, or another database",
        ) from None
