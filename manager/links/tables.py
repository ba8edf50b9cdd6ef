"""The table of measured ways; no query in here."""

from sqlalchemy import BigInteger, Boolean, Column, MetaData, String, Table

metadata = MetaData()

# The ways to other clouds as this one measured them; 0 is "never".
links = Table(
    "links",
    metadata,
    Column("to_cloud", String(63), primary_key=True),
    Column("round_trip_micros", BigInteger, nullable=False),
    Column("round_trip_at", BigInteger, nullable=False),
    Column("throughput", BigInteger, nullable=False),  # sealed bytes per second
    Column("throughput_at_least", Boolean, nullable=False),  # something else was slower
    Column("throughput_at", BigInteger, nullable=False),
)
