"""The gRPC faces to other clouds' managers and to who reads what was metered."""

import grpc

from manager import requests, usage
from manager.billing.dispute_service import DisputeCalls
from manager.billing.invoice_service import InvoiceCalls
from manager.billing.ledger_service import LedgerCalls
from manager.billing.settlement_service import SettlementCalls
from manager.billing.sheet_service import SheetCalls
from manager.domain import Domain, next_page
from manager.metering import rows
from manager.ownership import View
from manager.quotas.service import QuotaCalls
from watari import paging, rpc, validate
from watari.v1 import manager_pb2, manager_pb2_grpc


class ReservationServicer(manager_pb2_grpc.ReservationServiceServicer):
    """ReservationService. Who reserved or holds something sees and changes that."""

    def __init__(self, domain: Domain) -> None:
        self._reservations = domain.reservations
        self._holds = domain.holds
        self._estimate_grants = domain.estimate_grants
        self._hand_overs = domain.hand_overs

    def Reserve(
        self, request: manager_pb2.ReserveRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ReserveResponse:
        return self._reservations.reserve(requests.reserve(request), rpc.current_peer())

    def HoldForMigration(
        self, request: manager_pb2.HoldForMigrationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.HoldForMigrationResponse:
        return self._holds.hold(requests.hold(request), rpc.current_peer())

    def GrantEstimate(
        self, request: manager_pb2.GrantEstimateRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GrantEstimateResponse:
        return self._estimate_grants.grant(requests.grant_estimate(request), rpc.current_peer())

    def GetReservation(
        self, request: manager_pb2.GetReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.get(reservation_id, rpc.current_peer())
        return manager_pb2.GetReservationResponse(reservation=row.message())

    def ListReservations(
        self, request: manager_pb2.ListReservationsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListReservationsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        after = paging.decode(query, request.page_token, (int, str))
        rows = self._reservations.page(active_only=request.active_only, after=after, limit=size + 1)
        positions = [(row.created_at, row.reservation_id) for row in rows]
        return manager_pb2.ListReservationsResponse(
            reservations=[row.message() for row in rows[:size]],
            next_page_token=next_page(query, positions, size),
        )

    def ExtendReservation(
        self, request: manager_pb2.ExtendReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ExtendReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        ttl = validate.require_range(request.ttl_seconds, "ttl_seconds", *requests.TTL_SECONDS)
        row = self._reservations.extend(reservation_id, ttl, rpc.current_peer())
        return manager_pb2.ExtendReservationResponse(reservation=row.message())

    def ConfirmReservation(
        self, request: manager_pb2.ConfirmReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ConfirmReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.confirm(reservation_id, rpc.current_peer())
        return manager_pb2.ConfirmReservationResponse(reservation=row.message())

    def ReleaseReservation(
        self, request: manager_pb2.ReleaseReservationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ReleaseReservationResponse:
        reservation_id = validate.require_uuid(request.reservation_id, "reservation_id")
        row = self._reservations.release(reservation_id, rpc.current_peer())
        return manager_pb2.ReleaseReservationResponse(
            reservation=None if row is None else row.message()
        )

    def HandOverVm(
        self, request: manager_pb2.HandOverVmRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.HandOverVmResponse:
        return self._hand_overs.accept(request.hand_over, rpc.current_peer())


class AccountingServicer(
    QuotaCalls,
    SheetCalls,
    LedgerCalls,
    InvoiceCalls,
    DisputeCalls,
    SettlementCalls,
    manager_pb2_grpc.AccountingServiceServicer,
):
    """AccountingService."""

    def __init__(self, domain: Domain) -> None:
        QuotaCalls.__init__(self, domain.quotas, domain.callers)
        self._billing = domain.billing
        self._store = domain.store
        self._callers = domain.callers
        self._quoting = domain.quoting

    def IssueQuote(
        self, request: manager_pb2.IssueQuoteRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.IssueQuoteResponse:
        signed = self._quoting.issue(requests.quote(request), rpc.current_peer())
        return manager_pb2.IssueQuoteResponse(quote=signed)

    def ListUsageRecords(
        self, request: manager_pb2.ListUsageRecordsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListUsageRecordsResponse:
        size, query, after, view = self._asked(request)
        with self._store.read() as connection:
            found = usage.page(
                connection,
                view,
                tenant=request.tenant,
                vm_id=request.vm_id,
                after=after,
                limit=size + 1,
            )
        return manager_pb2.ListUsageRecordsResponse(
            records=[record for _, record in found[:size]],
            next_page_token=next_page(query, [(sequence,) for sequence, _ in found], size),
        )

    def ListUsageEvents(
        self, request: manager_pb2.ListUsageEventsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListUsageEventsResponse:
        size, query, after, view = self._asked(request)
        with self._store.read() as connection:
            found = rows.page(
                connection,
                view,
                tenant=request.tenant,
                vm_id=request.vm_id,
                after=after,
                limit=size + 1,
            )
        return manager_pb2.ListUsageEventsResponse(
            events=[event for _, event in found[:size]],
            next_page_token=next_page(query, [(position,) for position, _ in found], size),
        )

    def _asked(
        self,
        request: manager_pb2.ListUsageRecordsRequest | manager_pb2.ListUsageEventsRequest,
    ) -> tuple[int, bytes, int, View]:
        """Size of the page, the query, where to go on, and what the caller may see."""
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        validate.require_text(request.tenant, "tenant", bytes_max=requests.TENANT_BYTES_MAX)
        if request.vm_id:
            validate.require_uuid(request.vm_id, "vm_id")
        (after,) = paging.decode(query, request.page_token, (int,)) or (0,)
        return size, query, after, self._callers.person(rpc.current_peer())
