"""The quotas' table; no query in here."""

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData, String, Table

metadata = MetaData()

# Quotas of tenants, "*" for all. A row outlives its quota, and tenants that are limited have one
# without: every admission that a limit holds for changes it, so that no two count the same use.
quotas = Table(
    "quotas",
    metadata,
    Column("tenant_domain", String(180), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("quota", LargeBinary),  # manager.Quota, as it was asked for; none when deleted
    Column("request_id", String(36), nullable=False),  # of the change that made it, or empty
    Column("generation", BigInteger, nullable=False),
    Column("admissions", BigInteger, nullable=False),
)
