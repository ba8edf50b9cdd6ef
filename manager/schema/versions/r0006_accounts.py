"""How far the accounts are: billing months, the running month's totals, what does not add up."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make their tables."""
    op.create_table(
        "book_months",
        sa.Column("period", sa.String(7), primary_key=True),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("start_at", sa.BigInteger(), nullable=False),
        sa.Column("end_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("records_after", sa.BigInteger(), nullable=False),
        sa.Column("events_after", sa.BigInteger(), nullable=False),
        sa.Column("opening", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "book_runs",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("ran_at", sa.BigInteger(), nullable=False),
        sa.Column("records_read", sa.BigInteger(), nullable=False),
        sa.Column("events_read", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "book_totals",
        sa.Column("period", sa.String(7), primary_key=True),
        sa.Column("payer", sa.String(512), primary_key=True),
        sa.Column("tenant", sa.String(256), primary_key=True),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("nanos", sa.Integer(), nullable=False),
    )
    op.create_table(
        "book_problems",
        sa.Column("vm_id", sa.String(36), primary_key=True),
        sa.Column("fact_id", sa.String(64), primary_key=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("noticed_at", sa.BigInteger(), nullable=False),
    )
