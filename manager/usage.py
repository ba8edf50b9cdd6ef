"""Usage records: metered facts, written once in the transaction that makes them true.

The id of a record follows from what it records, so that writing it again changes nothing.
"""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables
from manager.ownership import View
from manager.within import within
from watari.v1 import common_pb2, manager_pb2

_USAGE = tables.usage_records.c

ARRIVED = manager_pb2.USAGE_KIND_ARRIVED
LEFT = manager_pb2.USAGE_KIND_LEFT


def usage_id(migration_id: str, kind: manager_pb2.UsageKind.ValueType) -> str:
    """The id of the record of one side of a migration."""
    return str(uuid.uuid5(uuid.UUID(migration_id), manager_pb2.UsageKind.Name(kind)))


def of_hand_over(
    kind: manager_pb2.UsageKind.ValueType,
    vm: manager_pb2.Vm,
    *,
    cloud_id: str,
    peer_cloud: str,
    hand_over: common_pb2.HandOver,
    price_version: int = 0,
) -> manager_pb2.UsageRecord:
    """The record of one side of a hand-over: both sides have the same instant, root and bytes. An
    arrival has the version of the price sheet that was pinned when it was reserved for.
    """
    receipt = common_pb2.Receipt.FromString(hand_over.receipt.payload)
    return manager_pb2.UsageRecord(
        usage_id=usage_id(hand_over.migration_id, kind),
        cloud_id=cloud_id,
        kind=kind,
        vm_id=vm.vm_id,
        vm_name=vm.name,
        tenant=vm.tenant,
        resources=vm.resources,
        migration_id=hand_over.migration_id,
        peer_cloud=peer_cloud,
        raw_bytes=receipt.raw_bytes,
        wire_bytes=receipt.wire_bytes,
        receipt_root=receipt.root,
        occurred_at=hand_over.committed_at,
        price_version=price_version,
    )


def write(connection: Connection, record: manager_pb2.UsageRecord, tenant_domain: str) -> None:
    """Write a record of a tenant of that provider, unless it is written."""
    known = connection.scalar(sa.select(_USAGE.sequence).where(_USAGE.usage_id == record.usage_id))
    if known is None:
        connection.execute(
            tables.usage_records.insert().values(
                usage_id=record.usage_id,
                vm_id=record.vm_id,
                tenant_domain=tenant_domain,
                tenant=record.tenant,
                record=record.SerializeToString(deterministic=True),
            )
        )


def page(
    connection: Connection, view: View, *, tenant: str, vm_id: str, after: int, limit: int
) -> Sequence[tuple[int, manager_pb2.UsageRecord]]:
    """Records of the view after a sequence number, oldest first, with theirs; empty filters take
    all.
    """
    query = sa.select(_USAGE.sequence, _USAGE.record).where(
        _USAGE.sequence > after, within(_USAGE, view)
    )
    if tenant:
        query = query.where(_USAGE.tenant == tenant)
    if vm_id:
        query = query.where(_USAGE.vm_id == vm_id)
    rows = connection.execute(query.order_by(_USAGE.sequence).limit(limit))
    return [(sequence, manager_pb2.UsageRecord.FromString(record)) for sequence, record in rows]
