"""The audit log of a manager under test, as its operator sees it."""

from tests.conftest import TOKYO
from tests.support.clouds import Cloud
from watari.rpc import client
from watari.v1 import audit_pb2, audit_pb2_grpc

COLUMNS = "occurred_at, actor, action, subject, outcome, details, previous_hash, hash"
"""Of its table, but for the number."""

Clouds = tuple[Cloud, Cloud]

OPERATOR = f"spiffe://{TOKYO}/operator/admin"

USER = f"spiffe://{TOKYO}/user/acme"
"""Who may not read it."""


def moved(clouds: Clouds) -> str:
    """A migration that succeeded."""
    tokyo, _ = clouds
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "SUCCEEDED")
    return migration_id


def listed(
    cloud: Cloud, caller: str = OPERATOR, **request: int
) -> audit_pb2.ListAuditEntriesResponse:
    """One page."""
    stub = audit_pb2_grpc.AuditServiceStub(cloud.channel(caller))
    return client.call(stub.ListAuditEntries, audit_pb2.ListAuditEntriesRequest(**request))
