"""The accounts' tables; no query in here. Money is as in `manager.accounting.tables`."""

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text

metadata = MetaData()

# Billing months of which something is still to be done, and those before.
book_months = Table(
    "book_months",
    metadata,
    Column("period", String(7), primary_key=True),  # as in "2026-03"
    Column("zone", String(64), nullable=False),
    Column("start_at", BigInteger, nullable=False),
    Column("end_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # "open", "closing", "closed", "sealed"
    # Facts up to these were told of before the month began, and are in its opening.
    Column("records_after", BigInteger, nullable=False),
    Column("events_after", BigInteger, nullable=False),
    Column("opening", Text, nullable=False),  # machines that were here when it began, JSON
    Column("closed_at", BigInteger, nullable=False),  # 0 until then
)

# One row, "accounts": the last time that the accounts were brought up to date.
book_runs = Table(
    "book_runs",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("ran_at", BigInteger, nullable=False),
    Column("records_read", BigInteger, nullable=False),
    Column("events_read", BigInteger, nullable=False),
)

# What each payer's tenants are charged so far, before taxes, in months that are not closed.
book_totals = Table(
    "book_totals",
    metadata,
    Column("period", String(7), primary_key=True),
    Column("payer", String(512), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("units", BigInteger, nullable=False),
    Column("nanos", Integer, nullable=False),
)

# Facts that do not add up, and what was made of them.
book_problems = Table(
    "book_problems",
    metadata,
    Column("vm_id", String(36), primary_key=True),
    Column("fact_id", String(64), primary_key=True),
    Column("words", Text, nullable=False),
    Column("noticed_at", BigInteger, nullable=False),
)
