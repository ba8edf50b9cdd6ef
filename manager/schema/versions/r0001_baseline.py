"""The tables as they were when migrations came: schema version 4."""

import sqlalchemy as sa
from alembic import op

from manager import schema

revision = schema.BASELINE
down_revision = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# The database itself refuses whatever is no appending, SQLite's INSERT OR REPLACE included.
_APPEND_ONLY = {
    "sqlite": (
        """CREATE TRIGGER audit_entries_in_order BEFORE INSERT ON audit_entries
        WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM audit_entries)
        BEGIN SELECT RAISE(ABORT, 'audit entries are appended only'); END""",
        """CREATE TRIGGER audit_entries_no_update BEFORE UPDATE ON audit_entries
        BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END""",
        """CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries
        BEGIN SELECT RAISE(ABORT, 'audit entries are never removed'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION audit_entries_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.sequence IS DISTINCT FROM
                (SELECT coalesce(max(sequence), 0) + 1 FROM audit_entries)
            THEN
                RAISE integrity_constraint_violation
                    USING MESSAGE = 'audit entries are appended only';
            END IF;
            RETURN NEW;
        END $$""",
        """CREATE FUNCTION audit_entries_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE integrity_constraint_violation
                USING MESSAGE = 'audit entries are never changed or removed';
        END $$""",
        """CREATE TRIGGER audit_entries_in_order BEFORE INSERT ON audit_entries
        FOR EACH ROW EXECUTE FUNCTION audit_entries_in_order()""",
        """CREATE TRIGGER audit_entries_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
        FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_kept()""",
    ),
}


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "allocations",
        sa.Column("consumer_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("resource_class", sa.String(length=64), nullable=False),
        sa.Column("host_id", sa.String(length=128), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name="allocations_amount_positive"),
        sa.PrimaryKeyConstraint("consumer_id", "kind", "resource_class"),
    )
    op.create_index("allocations_by_host", "allocations", ["host_id"], unique=False)
    op.create_table(
        "audit_entries",
        sa.Column("sequence", _SEQUENCE, autoincrement=False, nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=512), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_table(
        "evacuation_machines",
        sa.Column("evacuation_id", sa.String(length=36), nullable=False),
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("vm_name", sa.String(length=256), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("destination", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("evacuation_id", "vm_id"),
    )
    op.create_table(
        "evacuations",
        sa.Column("evacuation_id", sa.String(length=36), nullable=False),
        sa.Column("requested_by", sa.String(length=512), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("evacuation_id"),
    )
    op.create_index("evacuations_by_end", "evacuations", ["ended_at"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("host_id", sa.String(length=128), nullable=False),
        sa.Column("host", sa.LargeBinary(), nullable=False),
        sa.Column("reachable", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host_id"),
    )
    op.create_table(
        "invitations",
        sa.Column("invitation_id", sa.String(length=32), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("caller_pem", sa.LargeBinary(), nullable=False),
        sa.Column("door_cert", sa.LargeBinary(), nullable=False),
        sa.Column("door_key", sa.LargeBinary(), nullable=False),
        sa.Column("used_by", sa.String(length=180), nullable=False),
        sa.Column("used_ca", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("invitation_id"),
    )
    op.create_table(
        "migrations",
        sa.Column("migration_id", sa.String(length=36), nullable=False),
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("vm_name", sa.String(length=256), nullable=False),
        sa.Column("tenant_domain", sa.String(length=180), nullable=False),
        sa.Column("tenant", sa.String(length=256), nullable=False),
        sa.Column("host_id", sa.String(length=128), nullable=False),
        sa.Column("to_cloud", sa.String(length=63), nullable=False),
        sa.Column("to_manager", sa.String(length=512), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("source_epoch", sa.BigInteger(), nullable=False),
        sa.Column("requested_by", sa.String(length=512), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("transfers_failed", sa.Integer(), nullable=False),
        sa.Column("furthest_bytes", sa.BigInteger(), nullable=False),
        sa.Column("limit_bytes_per_second", sa.BigInteger(), nullable=True),
        sa.Column("limit_schedule", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("state_changed_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("reserve_request", sa.LargeBinary(), nullable=True),
        sa.Column("grant", sa.LargeBinary(), nullable=True),
        sa.Column("destination_control", sa.LargeBinary(), nullable=True),
        sa.Column("destination_data", sa.LargeBinary(), nullable=True),
        sa.Column("reserved_seconds", sa.Integer(), nullable=True),
        sa.Column("receipt", sa.LargeBinary(), nullable=True),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.Column("hand_over", sa.LargeBinary(), nullable=True),
        sa.Column("downtime", sa.BigInteger(), nullable=True),
        sa.Column("taken_back_epoch", sa.BigInteger(), nullable=True),
        sa.Column("relinquishment", sa.LargeBinary(), nullable=True),
        sa.Column("resolution", sa.Integer(), nullable=True),
        sa.Column("problem", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("migration_id"),
    )
    op.create_index(
        "migrations_by_creation", "migrations", ["created_at", "migration_id"], unique=False
    )
    op.create_index("migrations_by_state", "migrations", ["state"], unique=False)
    op.create_index(
        "migrations_by_tenant",
        "migrations",
        ["tenant_domain", "tenant", "created_at", "migration_id"],
        unique=False,
    )
    op.create_index("migrations_by_vm", "migrations", ["vm_id"], unique=False)
    op.create_table(
        "old_authorities",
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("accepted_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "owed_calls",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("migration_id", sa.String(length=36), nullable=False),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("subject_id", sa.String(length=36), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "migration_id"),
    )
    op.create_index("owed_calls_by_due", "owed_calls", ["due_at"], unique=False)
    op.create_table(
        "own_bundle",
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_table(
        "peers",
        sa.Column("cloud_id", sa.String(length=63), nullable=False),
        sa.Column("address", sa.String(length=300), nullable=False),
        sa.Column("spiffe_id", sa.String(length=512), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cloud_id"),
    )
    op.create_table(
        "providers",
        sa.Column("domain", sa.String(length=180), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("met_at", sa.BigInteger(), nullable=False),
        sa.Column("state_changed_at", sa.BigInteger(), nullable=False),
        sa.Column("told_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("domain"),
    )
    op.create_table(
        "reservations",
        sa.Column("reservation_id", sa.String(length=36), nullable=False),
        sa.Column("migration_id", sa.String(length=36), nullable=False),
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("from_cloud", sa.String(length=63), nullable=False),
        sa.Column("requested_by", sa.String(length=512), nullable=False),
        sa.Column("host_id", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("price_version", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("grant", sa.LargeBinary(), nullable=False),
        sa.Column("hand_over", sa.LargeBinary(), nullable=True),
        sa.Column("hand_over_at", sa.BigInteger(), nullable=True),
        sa.Column("relinquishment", sa.LargeBinary(), nullable=True),
        sa.Column("resolution", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("reservation_id"),
        sa.UniqueConstraint("migration_id", name="reservations_one_per_migration"),
    )
    op.create_index("reservations_by_state", "reservations", ["state", "expires_at"], unique=False)
    op.create_index("reservations_by_vm", "reservations", ["vm_id"], unique=False)
    op.create_table(
        "schema_version",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "usage_records",
        sa.Column("sequence", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("usage_id", sa.String(length=36), nullable=False),
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("tenant_domain", sa.String(length=180), nullable=False),
        sa.Column("tenant", sa.String(length=256), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("usage_id"),
    )
    op.create_index(
        "usage_records_by_tenant",
        "usage_records",
        ["tenant_domain", "tenant", "sequence"],
        unique=False,
    )
    op.create_table(
        "vms",
        sa.Column("vm_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("cloud_id", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("host_id", sa.String(length=128), nullable=False),
        sa.Column("tenant_domain", sa.String(length=180), nullable=False),
        sa.Column("tenant", sa.String(length=256), nullable=False),
        sa.Column("migration_id", sa.String(length=36), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("epoch >= 1", name="vms_epoch_positive"),
        sa.PrimaryKeyConstraint("vm_id"),
    )
    op.create_index("vms_by_host", "vms", ["host_id"], unique=False)
    op.create_index("vms_by_name", "vms", ["cloud_id", "name", "vm_id"], unique=False)
    op.create_index(
        "vms_by_tenant",
        "vms",
        ["cloud_id", "tenant_domain", "tenant", "name", "vm_id"],
        unique=False,
    )
    op.bulk_insert(
        sa.table("schema_version", sa.column("version", sa.Integer())),
        [{"version": schema.NUMBER}],
    )
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
