"""Ledger, price sheets and invoices, all of them appended to only."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_APPENDED = ("ledger_entries", "ledger_postings", "price_sheets", "invoices")

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
        "ledger_entries",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("entry_id", sa.String(36), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("booked_at", sa.BigInteger(), nullable=False),
        sa.Column("period", sa.String(7), nullable=False),
        sa.Column("start_at", sa.BigInteger(), nullable=False),
        sa.Column("end_at", sa.BigInteger(), nullable=False),
        sa.Column("refers_to", sa.String(36), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ledger_entries_by_period", "ledger_entries", ["period", "sequence"])
    op.create_index("ledger_entries_by_subject", "ledger_entries", ["subject", "sequence"])
    op.create_table(
        "ledger_postings",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("account", sa.String(512), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("nanos", sa.Integer(), nullable=False),
    )
    op.create_index("ledger_postings_by_account", "ledger_postings", ["account", "sequence"])
    op.create_table(
        "price_sheets",
        sa.Column("version", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("effective_from", sa.BigInteger(), nullable=False, unique=True),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "invoices",
        sa.Column("invoice_id", sa.String(36), primary_key=True),
        sa.Column("number", sa.String(128), nullable=False, unique=True),
        sa.Column("payer", sa.String(512), nullable=False),
        sa.Column("period", sa.String(7), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
    )
    op.create_index("invoices_by_payer", "invoices", ["payer", "period"])
    for name in _APPENDED:
        for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
            op.execute(statement.format(name=name))
