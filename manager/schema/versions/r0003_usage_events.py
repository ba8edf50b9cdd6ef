"""What hosts told about machines, and how far their logs were read."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "usage_events",
        sa.Column("position", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(36), nullable=False, unique=True),
        sa.Column("vm_id", sa.String(36), nullable=False),
        sa.Column("tenant_domain", sa.String(180), nullable=False),
        sa.Column("tenant", sa.String(256), nullable=False),
        sa.Column("event", sa.LargeBinary(), nullable=False),
        sa.Index("usage_events_by_tenant", "tenant_domain", "tenant", "position"),
        sa.Index("usage_events_by_vm", "vm_id", "position"),
    )
    op.create_table(
        "event_logs",
        sa.Column("position", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("host_id", sa.String(128), nullable=False),
        sa.Column("log_id", sa.String(36), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("host_id", "log_id", name="event_logs_once"),
    )
