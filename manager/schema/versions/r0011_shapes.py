"""What became of resource classes: of hosts, and of reservations made before."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the columns: nothing was renamed or split before."""
    op.add_column("hosts", sa.Column("shape", sa.LargeBinary()))
    op.add_column("reservations", sa.Column("resources", sa.LargeBinary()))
