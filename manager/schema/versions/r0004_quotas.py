"""Quotas of tenants."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "quotas",
        sa.Column("tenant_domain", sa.String(180), primary_key=True),
        sa.Column("tenant", sa.String(256), primary_key=True),
        sa.Column("quota", sa.LargeBinary()),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("admissions", sa.BigInteger(), nullable=False),
    )
