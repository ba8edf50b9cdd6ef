"""The accounting's tables; no query in here. Revision 0005 of the schema makes them in a manager's
database; their metadata is their own.

Money is `units` and `nanos` as in the contract's Money: whole numbers that every database sums up
exactly, whereas nanos alone would overflow 64 bits at nine thousand million of a currency, and text
could not be summed up. Both have the same sign.
"""

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
)

metadata = MetaData()

# Chained: ledger.py says over what the hashes are. Nothing but rows.py writes here.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("entry_id", String(36), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("description", Text, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("booked_at", BigInteger, nullable=False),
    Column("period", String(7), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    Column("refers_to", String(36), nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("ledger_entries_by_period", "period", "sequence"),
    Index("ledger_entries_by_subject", "subject", "sequence"),
)

ledger_postings = Table(
    "ledger_postings",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),  # the entry's
    Column("position", Integer, primary_key=True),
    Column("account", String(512), nullable=False),
    Column("units", BigInteger, nullable=False),  # positive is debit
    Column("nanos", Integer, nullable=False),
    Index("ledger_postings_by_account", "account", "sequence"),
)

price_sheets = Table(
    "price_sheets",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("effective_from", BigInteger, nullable=False, unique=True),
    Column("document", Text, nullable=False),  # sheet_documents.to_json
    Column("recorded_at", BigInteger, nullable=False),
)

invoices = Table(
    "invoices",
    metadata,
    Column("invoice_id", String(36), primary_key=True),
    Column("number", String(128), nullable=False, unique=True),
    Column("payer", String(512), nullable=False),
    Column("period", String(7), nullable=False),
    Column("document", Text, nullable=False),  # rendering.to_json
    Column("issued_at", BigInteger, nullable=False),
    Index("invoices_by_payer", "payer", "period"),
)

# An invoice without its lines, for lists.
invoice_heads = Table(
    "invoice_heads",
    metadata,
    Column("invoice_id", String(36), primary_key=True),
    Column("head", LargeBinary, nullable=False),  # manager.Invoice
)

# The corrections that invoices have, each one: listed, or of the month itself and within its lines.
invoice_corrections = Table(
    "invoice_corrections",
    metadata,
    Column("entry_id", String(36), primary_key=True),
    Column("invoice_id", String(36), nullable=False),
)

issued_months = Table(
    "issued_months",
    metadata,
    Column("period", String(7), primary_key=True),
    Column("invoices", Integer, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
)

disputes = Table(
    "disputes",
    metadata,
    Column("dispute_id", String(36), primary_key=True),
    Column("entry_id", String(36), nullable=False, unique=True),
    Column("charge_id", String(36), nullable=False),
    Column("payer", String(512), nullable=False),
    Column("reason", Text, nullable=False),
    Column("opened_by", String(512), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Index("disputes_by_payer", "payer", "opened_at", "dispute_id"),
)

dispute_decisions = Table(
    "dispute_decisions",
    metadata,
    Column("dispute_id", String(36), primary_key=True),
    Column("units", BigInteger, nullable=False),  # of what was credited
    Column("nanos", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_by", String(512), nullable=False),
    Column("decided_at", BigInteger, nullable=False),
)

settlements = Table(
    "settlements",
    metadata,
    Column("statement_id", String(36), primary_key=True),
    Column("peer_cloud", String(63), nullable=False),
    Column("peer_domain", String(180), nullable=False),
    Column("period", String(7), nullable=False),
    Column("statement", LargeBinary, nullable=False),  # manager.Settlement, as it was booked
    Column("netted_at", BigInteger, nullable=False),
)

BOOKED = (ledger_entries, ledger_postings, price_sheets, invoices)
BILLING = (
    invoice_heads,
    invoice_corrections,
    issued_months,
    disputes,
    dispute_decisions,
    settlements,
)
TABLES = (*BOOKED, *BILLING)
"""What migrations of the schema have to make."""

APPEND_ONLY: dict[str, dict[str, tuple[str, ...]]] = {
    "sqlite": {
        table.name: (
            f"""CREATE TRIGGER {table.name}_no_update BEFORE UPDATE ON {table.name}
            BEGIN SELECT RAISE(ABORT, '{table.name} is appended to only'); END""",
            f"""CREATE TRIGGER {table.name}_no_delete BEFORE DELETE ON {table.name}
            BEGIN SELECT RAISE(ABORT, '{table.name} is appended to only'); END""",
        )
        for table in TABLES
    },
    "postgresql": {
        table.name: (
            f"""CREATE FUNCTION {table.name}_appended() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION '{table.name} is appended to only'; END $$""",
            f"""CREATE TRIGGER {table.name}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE
            ON {table.name} FOR EACH STATEMENT EXECUTE FUNCTION {table.name}_appended()""",
        )
        for table in TABLES
    },
}
"""By dialect and table: with these the database itself refuses whatever is no appending."""

for _dialect, _by_table in APPEND_ONLY.items():
    for _table in TABLES:
        for _statement in _by_table[_table.name]:
            _ddl = DDL(_statement)  # type: ignore[no-untyped-call]
            event.listen(_table, "after_create", _ddl.execute_if(dialect=_dialect))
