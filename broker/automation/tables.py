"""The tables of automatic placement: SQLAlchemy Core, no query in here.

Moments are seconds since 1970, as in `broker.policies`, or microseconds where pages are ordered by
them. Messages of the contract are blobs; what was learnt is JSON. Every table is bounded by one of
the settings, or by what is written beside it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

VERSION = 1
"""Of these tables; in the file's `user_version`."""

metadata = MetaData()

# At most `policies_max`, and those that were deleted while a move of theirs ran.
policies = Table(
    "policies",
    metadata,
    Column("tenant_domain", String(253), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("policy_id", String(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("policy", LargeBinary, nullable=False),  # broker.Policy, as it was put
    Column("delegation", LargeBinary, nullable=False),  # common.SignedDocument
    Column("delegated_by", String(512), nullable=False),
    Column("deleted", Boolean, nullable=False),  # only followed to the end of what runs
)

# At most `plans_max`.
plans = Table(
    "plans",
    metadata,
    Column("plan_id", String(36), primary_key=True),
    Column("tenant_domain", String(253), nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("policy_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),  # microseconds
    Column("live", Boolean, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("plan", LargeBinary, nullable=False),  # broker.Plan
    Index("plans_by_creation", "created_at", "plan_id"),
    Index("plans_by_tenant", "tenant_domain", "tenant", "created_at", "plan_id"),
    Index("plans_by_life", "live", "created_at"),
)

# Machines as policies last saw them: at most `machines_max` a policy, and those of the last month.
machines = Table(
    "machines",
    metadata,
    Column("tenant_domain", String(253), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("policy_id", String(64), primary_key=True),
    Column("vm_id", String(36), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("cloud_id", String(63), nullable=False),
    Column("since", Float, nullable=False),  # 0: it was there before it was seen
    Column("failed_at", Float),  # the end of its last move that failed
    Column("looked_at", Float, nullable=False),
    Column("standing", Text, nullable=False),  # broker.policies.model.Standing
    Column("burdens", Text, nullable=False),  # money an hour by cloud, at the last look
    Index("machines_by_look", "looked_at"),
)

# Moves of the last two days, which budgets count.
moves = Table(
    "moves",
    metadata,
    Column("migration_id", String(36), primary_key=True),
    Column("tenant_domain", String(253), nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("vm_id", String(36), nullable=False),
    Column("from_cloud", String(63), nullable=False),
    Column("to_cloud", String(63), nullable=False),
    Column("began_at", Float, nullable=False),
    Index("moves_by_tenant", "tenant_domain", "tenant", "began_at"),
    Index("moves_by_beginning", "began_at"),
)

# The history of each cloud's price in each currency of a policy, of the last month.
forecasts = Table(
    "forecasts",
    metadata,
    Column("currency", String(3), primary_key=True),
    Column("cloud_id", String(63), primary_key=True),
    Column("seen_at", Float, nullable=False),
    Column("forecaster", Text, nullable=False),  # broker.policies.forecast.Forecaster
    Index("forecasts_by_look", "seen_at"),
)
