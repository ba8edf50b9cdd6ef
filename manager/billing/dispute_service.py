"""AccountingService's calls about disputes and payments."""

import grpc

from manager.billing import messages
from manager.billing.parts import Billing
from manager.domain import next_page
from watari import paging, rpc, validate
from watari.identity import validate_domain
from watari.v1 import manager_pb2

TEXT_BYTES_MAX = 256
"""Longest reason and reference."""

PAYER_BYTES_MAX = 400
"""With an account's name before it, it fits into the ledger."""


class DisputeCalls:
    """The part of AccountingService that is about disputes and payments."""

    _billing: Billing

    def OpenDispute(
        self, request: manager_pb2.OpenDisputeRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.OpenDisputeResponse:
        validate.require_uuid(request.dispute_id, "dispute_id")
        validate.require_uuid(request.charge_id, "charge_id")
        validate.require_text(request.reason, "reason", bytes_max=TEXT_BYTES_MAX, empty=False)
        return manager_pb2.OpenDisputeResponse(
            dispute=self._billing.disputes.open(request, self._billing.viewer(), rpc.current_peer())
        )

    def ListDisputes(
        self, request: manager_pb2.ListDisputesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListDisputesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        before = paging.decode(query, request.page_token, (int, str))
        found = self._billing.disputes.page(
            self._billing.viewer(),
            open_only=request.open_only,
            period=request.period,
            before=None if before is None else (before[0], before[1]),
            limit=size + 1,
        )
        positions = [(each.opened_at.ToMicroseconds(), each.dispute_id) for each in found]
        return manager_pb2.ListDisputesResponse(
            disputes=found[:size], next_page_token=next_page(query, positions, size)
        )

    def DecideDispute(
        self, request: manager_pb2.DecideDisputeRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.DecideDisputeResponse:
        validate.require_uuid(request.dispute_id, "dispute_id")
        validate.require_text(request.reason, "reason", bytes_max=TEXT_BYTES_MAX, empty=False)
        credited = request.credited if request.HasField("credited") else None
        return manager_pb2.DecideDisputeResponse(
            dispute=self._billing.disputes.decide(
                request.dispute_id, credited, request.reason, rpc.current_peer()
            )
        )

    def RecordPayment(
        self, request: manager_pb2.RecordPaymentRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.RecordPaymentResponse:
        validate.require_uuid(request.payment_id, "payment_id")
        _payer(request.payer, outgoing=request.outgoing)
        validate.require_text(request.reference, "reference", bytes_max=TEXT_BYTES_MAX)
        if not request.HasField("amount"):
            raise validate.invalid_field("amount", "is missing", "more than 0")
        chained, left = self._billing.payments.record(request, rpc.current_peer())
        return manager_pb2.RecordPaymentResponse(entry=messages.entry(chained), left=left)


def _payer(payer: str, *, outgoing: bool) -> None:
    validate.require_text(payer, "payer", bytes_max=PAYER_BYTES_MAX, empty=False)
    kind, _, name = payer.partition(":")
    if kind == "peer":
        validate_domain(name)
    elif outgoing or kind != "tenant" or not name:
        raise validate.invalid_field(
            "payer",
            f"{payer[:64]!r} is nobody who {'is paid' if outgoing else 'pays'}",
            "peer:<domain>" if outgoing else "tenant:<name> or peer:<domain>",
        )
