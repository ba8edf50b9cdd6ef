"""The evacuations' tables; no query in here."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData()

evacuations = Table(
    "evacuations",
    metadata,
    Column("evacuation_id", String(36), primary_key=True),
    Column("requested_by", String(512), nullable=False),
    Column("request", LargeBinary, nullable=False),  # manager.StartEvacuationRequest
    Column("cancelled", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Index("evacuations_by_end", "ended_at"),
)

evacuation_machines = Table(
    "evacuation_machines",
    metadata,
    Column("evacuation_id", String(36), primary_key=True),
    Column("vm_id", String(36), primary_key=True),
    Column("vm_name", String(256), nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),  # allocated, when it was found
    Column("stage", String(16), nullable=False),
    Column("destination", Integer, nullable=False),  # index in the request's to_clouds
    Column("tries", Integer, nullable=False),  # migrations to that cloud
    Column("attempts", Integer, nullable=False),  # migrations in all; their ids follow from it
    Column("due_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("problem", LargeBinary),  # common.Problem of the last migration
)
