"""Run by Alembic around the modules of `versions`, on the connection that it is given."""

from alembic import context

from manager import tables

context.configure(
    connection=context.config.attributes["connection"], target_metadata=tables.metadata
)
context.run_migrations()
