"""Measured links to other clouds."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "links",
        sa.Column("to_cloud", sa.String(63), primary_key=True),
        sa.Column("round_trip_micros", sa.BigInteger(), nullable=False),
        sa.Column("round_trip_at", sa.BigInteger(), nullable=False),
        sa.Column("throughput", sa.BigInteger(), nullable=False),
        sa.Column("throughput_at_least", sa.Boolean(), nullable=False),
        sa.Column("throughput_at", sa.BigInteger(), nullable=False),
    )
