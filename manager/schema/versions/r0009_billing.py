"""What is issued, disputed and settled, all of it appended to only."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_APPENDED = (
    "invoice_heads",
    "invoice_corrections",
    "issued_months",
    "disputes",
    "dispute_decisions",
    "settlements",
)

_APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER {name}_no_update BEFORE UPDATE ON {name}
        BEGIN SELECT RAISE(ABORT, '{name} is appended to only'); END""",
        """CREATE TRIGGER {name}_no_delete BEFORE DELETE ON {name}
        BEGIN SELECT RAISE(ABORT, '{name} is appended to only'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION {name}_appended() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '{name} is appended to only'; END $$""",
        """CREATE TRIGGER {name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE
        ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {name}_appended()""",
    ),
}


def upgrade() -> None:
    """Make their tables, and the triggers that keep them as they are."""
    op.create_table(
        "invoice_heads",
        sa.Column("invoice_id", sa.String(36), primary_key=True),
        sa.Column("head", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "invoice_corrections",
        sa.Column("entry_id", sa.String(36), primary_key=True),
        sa.Column("invoice_id", sa.String(36), nullable=False),
    )
    op.create_table(
        "issued_months",
        sa.Column("period", sa.String(7), primary_key=True),
        sa.Column("invoices", sa.Integer(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "disputes",
        sa.Column("dispute_id", sa.String(36), primary_key=True),
        sa.Column("entry_id", sa.String(36), nullable=False, unique=True),
        sa.Column("charge_id", sa.String(36), nullable=False),
        sa.Column("payer", sa.String(512), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("opened_by", sa.String(512), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("disputes_by_payer", "disputes", ["payer", "opened_at", "dispute_id"])
    op.create_table(
        "dispute_decisions",
        sa.Column("dispute_id", sa.String(36), primary_key=True),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("nanos", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.String(512), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "settlements",
        sa.Column("statement_id", sa.String(36), primary_key=True),
        sa.Column("peer_cloud", sa.String(63), nullable=False),
        sa.Column("peer_domain", sa.String(180), nullable=False),
        sa.Column("period", sa.String(7), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("netted_at", sa.BigInteger(), nullable=False),
    )
    for name in _APPENDED:
        for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
            op.execute(statement.format(name=name))
