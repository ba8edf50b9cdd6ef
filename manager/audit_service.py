"""The gRPC face of the audit log."""

import grpc

from manager import audit
from manager.store import Store
from watari import paging, validate
from watari.v1 import audit_pb2, audit_pb2_grpc


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """AuditService. The contract is in the proto."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, _context: grpc.ServicerContext
    ) -> audit_pb2.ListAuditEntriesResponse:
        size = paging.page_size(request.page_size)
        after = validate.require_range(
            request.after_sequence, "after_sequence", 0, paging.INTEGER_MAX
        )
        with self._store.read() as connection:
            last = audit.head(connection)
            return audit_pb2.ListAuditEntriesResponse(
                entries=audit.page(connection, after=after, limit=size),
                last_sequence=last.sequence,
                last_hash=last.hash,
            )
