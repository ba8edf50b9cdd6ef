"""What is taken is counted all along; reservations know for whom and for when they are."""

import sqlalchemy as sa
from alembic import op

from manager import ownership
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

revision = "0008"
down_revision = "0007"

_RESERVATIONS = sa.table(
    "reservations",
    *map(sa.column, ("reservation_id", "requested_by", "request", "tenant_domain", "tenant")),
)


def upgrade() -> None:
    """Make the counters and the columns, and fill both."""
    op.create_table(
        "taken",
        sa.Column("host_id", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("resource_class", sa.String(64), primary_key=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name="taken_amount_positive"),
    )
    op.execute(
        "INSERT INTO taken (host_id, kind, resource_class, amount)"
        " SELECT host_id, kind, resource_class, sum(amount) FROM allocations"
        " GROUP BY host_id, kind, resource_class"
    )
    for name, length in (("tenant_domain", 180), ("tenant", 256)):
        column = sa.Column(name, sa.String(length), nullable=False, server_default="")
        op.add_column("reservations", column)
    for name in ("starts_at", "ends_at"):
        op.add_column("reservations", sa.Column(name, sa.BigInteger()))
    _name_tenants(op.get_bind())
    op.create_index("reservations_by_tenant", "reservations", ["tenant_domain", "tenant", "state"])


def _name_tenants(connection: sa.Connection) -> None:
    """The tenant stood in the request only."""
    rows = _RESERVATIONS.c
    query = sa.select(rows.reservation_id, rows.requested_by, rows.request)
    for reservation_id, requested_by, blob in connection.execute(query).all():
        request = manager_pb2.ReserveRequest.FromString(blob)
        tenant = ownership.tenant_of_arrival(request, SpiffeId.parse(requested_by))
        connection.execute(
            _RESERVATIONS.update()
            .where(rows.reservation_id == reservation_id)
            .values(tenant_domain=tenant.domain, tenant=tenant.name)
        )
