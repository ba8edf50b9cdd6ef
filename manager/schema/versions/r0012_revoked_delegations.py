"""Standing delegations that were revoked, and what is told of those that were seen."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the table, and name what the documents say; older rows learn it when they are shown."""
    op.create_table(
        "revoked_delegations",
        sa.Column("delegation_id", sa.String(36), primary_key=True),
        sa.Column("tenant_domain", sa.String(253), primary_key=True),
        sa.Column("tenant", sa.String(256), primary_key=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_by", sa.String(512), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("kept_until", sa.BigInteger(), nullable=False),
    )
    op.create_index("revoked_delegations_by_tenant", "revoked_delegations", _TENANT)
    op.create_index("revoked_delegations_by_end", "revoked_delegations", ["kept_until"])
    for column in (
        sa.Column("delegation_id", sa.String(36)),
        sa.Column("tenant_domain", sa.String(253)),
        sa.Column("tenant", sa.String(256)),
        sa.Column("delegate", sa.String(512)),
    ):
        op.add_column("standing_delegations", column)
    op.create_index("standing_delegations_by_id", "standing_delegations", ["delegation_id"])


_TENANT = ["tenant_domain", "tenant"]
