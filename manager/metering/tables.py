"""The tables of what hosts told; no query in here."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from manager.tables import SEQUENCE

metadata = MetaData()

# What hosts told about machines, once each, and how far each of their logs was read: of several
# logs of a host the last row is of the one that it has.
usage_events = Table(
    "usage_events",
    metadata,
    Column("position", SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("vm_id", String(36), nullable=False),
    Column("tenant_domain", String(180), nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("event", LargeBinary, nullable=False),  # manager.UsageEvent
    Index("usage_events_by_tenant", "tenant_domain", "tenant", "position"),
    Index("usage_events_by_vm", "vm_id", "position"),
)

event_logs = Table(
    "event_logs",
    metadata,
    Column("position", SEQUENCE, primary_key=True, autoincrement=True),
    Column("host_id", String(128), nullable=False),
    Column("log_id", String(36), nullable=False),
    Column("sequence", BigInteger, nullable=False),  # of the last event that is recorded
    UniqueConstraint("host_id", "log_id", name="event_logs_once"),
)
