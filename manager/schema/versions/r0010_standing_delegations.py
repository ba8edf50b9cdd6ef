"""Standing delegations that were seen."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "standing_delegations",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("signer", sa.String(512), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("standing_delegations_by_end", "standing_delegations", ["expires_at"])
