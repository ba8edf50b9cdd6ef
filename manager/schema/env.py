"""Run by Alembic around the modules of `versions`, on the connection that it is given."""

from alembic import context

from manager.schema import known

context.configure(
    connection=context.config.attributes["connection"], target_metadata=known.METADATA
)
context.run_migrations()
