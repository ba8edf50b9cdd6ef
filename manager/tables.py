"""The manager's tables that no package has to itself: portable SQLAlchemy Core, no query in here.

A package with tables of its own has a module `tables` as well. `manager.schema.known` is all of
them. A change of a table needs a module in `manager/schema/versions`; a test compares the two.

Moments are whole microseconds since 1970 UTC. Columns hold what is asked for or compared; the rest
of an object is a serialized message of the contract in a blob. Consumption is one row per consumer,
host and resource class in `allocations`, and what these add up to is in `taken`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")
"""A number that a table counts up by itself: SQLite does that for INTEGER only, of 64 bits."""

# What releases without migrations look at; `manager.schema` says why it is here.
schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String(128), primary_key=True),
    Column("host", LargeBinary, nullable=False),  # agent.Host, as it was last seen
    Column("reachable", Boolean, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    # Grows with every change of what the host has or what is consumed on it; the compare-and-swap
    # that keeps two admissions from counting the same room.
    Column("generation", BigInteger, nullable=False),
    Column("shape", LargeBinary),  # manager.ClassShape, once classes were renamed or split
)

# Machines that this cloud owns or once owned: a row outlives its hand-over, so that the copy that
# the source still holds is never taken for a new machine.
vms = Table(
    "vms",
    metadata,
    Column("vm_id", String(36), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("cloud_id", String(63), nullable=False),  # the owner
    Column("epoch", BigInteger, nullable=False),
    Column("host_id", String(128), nullable=False),
    Column("tenant_domain", String(180), nullable=False),  # the provider whose tenant it is
    Column("tenant", String(256), nullable=False),
    Column("migration_id", String(36)),  # the one that moves it, not ended
    Column("body", LargeBinary, nullable=False),  # manager.Vm: state, resources, disks, problem
    Column("seen_at", BigInteger, nullable=False),
    CheckConstraint("epoch >= 1", name="vms_epoch_positive"),
    Index("vms_by_name", "cloud_id", "name", "vm_id"),
    Index("vms_by_host", "host_id"),
    Index("vms_by_tenant", "cloud_id", "tenant_domain", "tenant", "name", "vm_id"),
)

allocations = Table(
    "allocations",
    metadata,
    Column("consumer_id", String(36), primary_key=True),  # machine or reservation
    Column("kind", String(16), primary_key=True),  # "vm", "reservation", "booking"
    Column("resource_class", String(64), primary_key=True),
    Column("host_id", String(128), nullable=False),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="allocations_amount_positive"),
    Index("allocations_by_host", "host_id"),
)

# What allocations add up to, kept in the transaction that changes them: an admission reads a few
# rows, however many machines and reservations there are. The audit of allocations compares them,
# and a manager that starts counts anew.
taken = Table(
    "taken",
    metadata,
    Column("host_id", String(128), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("resource_class", String(64), primary_key=True),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="taken_amount_positive"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("reservation_id", String(36), primary_key=True),
    Column("migration_id", String(36), nullable=False),
    Column("vm_id", String(36), nullable=False),
    Column("from_cloud", String(63), nullable=False),
    Column("requested_by", String(512), nullable=False),
    Column("tenant_domain", String(180), nullable=False, server_default=""),
    Column("tenant", String(256), nullable=False, server_default=""),
    Column("host_id", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("price_version", BigInteger, nullable=False),
    Column("request", LargeBinary, nullable=False),  # manager.ReserveRequest
    # common.SignedDocument of a Grant; empty as long as it is booked for later.
    Column("grant", LargeBinary, nullable=False),
    # common.SignedDocument: from then on it ends as USED or RELINQUISHED only.
    Column("hand_over", LargeBinary),
    Column("hand_over_at", BigInteger),  # when that was recorded
    Column("relinquishment", LargeBinary),  # common.SignedDocument: ours, never to be taken back
    Column("resolution", Integer),  # manager.Resolution: what an operator decided
    Column("starts_at", BigInteger),  # of one that was made in advance
    Column("ends_at", BigInteger),
    # common.Resources by the classes' present names, where these are not the request's.
    Column("resources", LargeBinary),
    UniqueConstraint("migration_id", name="reservations_one_per_migration"),
    Index("reservations_by_state", "state", "expires_at"),
    Index("reservations_by_vm", "vm_id"),
    Index("reservations_by_tenant", "tenant_domain", "tenant", "state"),
)

migrations = Table(
    "migrations",
    metadata,
    Column("migration_id", String(36), primary_key=True),
    Column("vm_id", String(36), nullable=False),
    Column("vm_name", String(256), nullable=False),
    Column("tenant_domain", String(180), nullable=False),  # the machine's when it was requested
    Column("tenant", String(256), nullable=False),
    Column("host_id", String(128), nullable=False),
    Column("to_cloud", String(63), nullable=False),
    Column("to_manager", String(512), nullable=False),  # SPIFFE id, pinned when it was requested
    Column("state", String(16), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("source_epoch", BigInteger, nullable=False),
    Column("requested_by", String(512), nullable=False),
    Column("request", LargeBinary, nullable=False),  # manager.MigrateVmRequest
    Column("cancel_requested", Boolean, nullable=False),
    Column("transfers_failed", Integer, nullable=False),  # in a row, none further than one before
    Column("furthest_bytes", BigInteger, nullable=False),  # settled by the best of these
    # Set after the request, instead of its own: the cap, and common.TransferOptions with nothing
    # but the schedule.
    Column("limit_bytes_per_second", BigInteger),
    Column("limit_schedule", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Column("state_changed_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("reserve_request", LargeBinary),  # manager.ReserveRequest: repeated byte for byte
    Column("grant", LargeBinary),  # common.SignedGrant, from COPYING on
    Column("destination_control", LargeBinary),  # common.Endpoint, from COPYING on
    Column("destination_data", LargeBinary),  # common.Endpoint, if it was told
    Column("reserved_seconds", Integer),  # time that the destination gave, from COPYING on
    Column("receipt", LargeBinary),  # common.SignedDocument, from CONFIRMING on
    Column("stopped_at", BigInteger),  # from CONFIRMING on, if the machine ran until then
    Column("hand_over", LargeBinary),  # common.SignedDocument, from HANDED_OVER on
    Column("downtime", BigInteger),  # microseconds, from RETIRING on, if the machine ran
    Column("taken_back_epoch", BigInteger),  # that of the machine, from TAKING_BACK on
    Column("relinquishment", LargeBinary),  # common.SignedDocument, from TAKING_BACK on, if any
    Column("resolution", Integer),  # manager.Resolution: what an operator decided
    Column("problem", LargeBinary),  # common.Problem
    Index("migrations_by_creation", "created_at", "migration_id"),
    Index("migrations_by_state", "state"),
    Index("migrations_by_vm", "vm_id"),
    Index("migrations_by_tenant", "tenant_domain", "tenant", "created_at", "migration_id"),
)

usage_records = Table(
    "usage_records",
    metadata,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("usage_id", String(36), nullable=False, unique=True),
    Column("vm_id", String(36), nullable=False),
    Column("tenant_domain", String(180), nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("record", LargeBinary, nullable=False),  # manager.UsageRecord
    Index("usage_records_by_tenant", "tenant_domain", "tenant", "sequence"),
)

# Calls that are owed to a peer or an agent that did not answer; worked off until they succeed.
owed_calls = Table(
    "owed_calls",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("migration_id", String(36), primary_key=True),
    Column("target", String(128), nullable=False),  # host or cloud
    Column("subject_id", String(36), nullable=False),  # machine or reservation
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Index("owed_calls_by_due", "due_at"),
)

# Managers of other clouds, as the directory last told: a directory outage must not stop migrations.
peers = Table(
    "peers",
    metadata,
    Column("cloud_id", String(63), primary_key=True),
    Column("address", String(300), nullable=False),
    Column("spiffe_id", String(512), nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

# Chained: watari/audit.py says over what the hashes are. Nothing but manager/audit.py writes here,
# and the database refuses whatever is no appending (the triggers of revision 0001).
audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("actor", String(512), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(512), nullable=False),
    Column("outcome", Integer, nullable=False),  # audit.AuditOutcome
    Column("details", Text, nullable=False),  # a JSON object of strings
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

# One row: the manager that works, where several share the database (`manager.lease`).
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("token", BigInteger, nullable=False),  # grows whenever another process takes it
    Column("expires_at", BigInteger, nullable=False),  # by the database's clock
)

# Standing delegations, from when they were first seen with a valid certificate; then it may end.
standing_delegations = Table(
    "standing_delegations",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the signed document, hex
    Column("signer", String(512), nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("delegation_id", String(36)),  # with what follows: NULL until it is shown again
    Column("tenant_domain", String(253)),
    Column("tenant", String(256)),
    Column("delegate", String(512)),  # the broker
    Index("standing_delegations_by_end", "expires_at"),
    Index("standing_delegations_by_id", "delegation_id"),
)

# Standing delegations that nothing begins under any more: one tenant's, or, where an operator
# revoked one, whoever's has the id (both of the tenant's columns are "").
revoked_delegations = Table(
    "revoked_delegations",
    metadata,
    Column("delegation_id", String(36), primary_key=True),
    Column("tenant_domain", String(253), primary_key=True),
    Column("tenant", String(256), primary_key=True),
    Column("revoked_at", BigInteger, nullable=False),
    Column("revoked_by", String(512), nullable=False),  # SPIFFE id
    Column("reason", Text, nullable=False),
    Column("kept_until", BigInteger, nullable=False),
    Index("revoked_delegations_by_tenant", "tenant_domain", "tenant"),
    Index("revoked_delegations_by_end", "kept_until"),
)
