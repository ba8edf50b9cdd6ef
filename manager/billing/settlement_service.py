"""AccountingService's calls about settlements: an operator's, and those between two managers."""

import grpc

from manager import ownership
from manager.accounting import periods
from manager.accounting.events import Event
from manager.billing import messages
from manager.billing.dispute_service import TEXT_BYTES_MAX
from manager.billing.parts import Billing
from watari import errors, paging, rpc, validate
from watari.v1 import manager_pb2

PAGE_BYTES_MAX = 2 * 1024 * 1024
"""Events of one page take no more, but for the first."""


class SettlementCalls:
    """The part of AccountingService that is about settlements."""

    _billing: Billing

    def GetSettlement(
        self, request: manager_pb2.GetSettlementRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetSettlementResponse:
        validate.require_cloud_id(request.cloud_id, "cloud_id")
        period, caller = self._period(request.period), rpc.current_peer()
        only = request.provider_domain or None
        if not ownership.is_operator(caller, self._billing.own_domain):
            if only not in (None, caller.domain):
                raise errors.Denied(
                    "NOT_ALLOWED",
                    f"{caller} settles for {caller.domain} only",
                    hint="ask as an operator of this provider",
                )
            only = caller.domain
        return self._billing.settling.get(request.cloud_id, period, only)

    def NetSettlement(
        self, request: manager_pb2.NetSettlementRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.NetSettlementResponse:
        validate.require_cloud_id(request.cloud_id, "cloud_id")
        period = self._period(request.period)
        return manager_pb2.NetSettlementResponse(
            settlement=self._billing.settling.net(request.cloud_id, period, rpc.current_peer())
        )

    def DisputeBilledCharge(
        self, request: manager_pb2.DisputeBilledChargeRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.DisputeBilledChargeResponse:
        validate.require_cloud_id(request.cloud_id, "cloud_id")
        validate.require_uuid(request.dispute_id, "dispute_id")
        validate.require_uuid(request.charge_id, "charge_id")
        validate.require_text(request.reason, "reason", bytes_max=TEXT_BYTES_MAX, empty=False)
        return manager_pb2.DisputeBilledChargeResponse(
            dispute=self._billing.contesting.dispute(request, rpc.current_peer())
        )

    def ListBilledCharges(
        self, request: manager_pb2.ListBilledChargesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListBilledChargesResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (after,) = paging.decode(query, request.page_token, (str,)) or ("",)
        period, domain = self._period(request.period), rpc.current_peer().domain
        response = self._billing.settling.billed_charges(period, domain)
        charges = self._billing.settling.charges(period, domain, anew=not after)
        found = [each for each in charges if each.charge_id > after]
        response.charges.extend(found[:size])
        if len(found) > size:
            response.next_page_token = paging.encode(query, (found[size - 1].charge_id,))
        return response

    def ListBilledEvents(
        self, request: manager_pb2.ListBilledEventsRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListBilledEventsResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (start,) = paging.decode(query, request.page_token, (int,)) or (0,)
        found = self._billing.settling.events(
            self._period(request.period), rpc.current_peer().domain, anew=not start
        )
        response, taken = manager_pb2.ListBilledEventsResponse(), 0
        for each in found[start : start + size]:
            event = _event(each)
            taken += event.ByteSize()
            if response.events and taken > PAGE_BYTES_MAX:
                break
            response.events.append(event)
        reached = start + len(response.events)
        if reached < len(found):
            response.next_page_token = paging.encode(query, (reached,))
        return response

    def ListExpectedCharges(
        self, request: manager_pb2.ListExpectedChargesRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListExpectedChargesResponse:
        validate.require_cloud_id(request.cloud_id, "cloud_id")
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        (after,) = paging.decode(query, request.page_token, (str,)) or ("",)
        worked = self._billing.settling.expected_by_us(
            request.cloud_id,
            self._period(request.period),
            rpc.current_peer().domain,
            anew=not after,
        )
        found = [each for each in worked if each.charge_id > after]
        response = manager_pb2.ListExpectedChargesResponse(charges=found[:size])
        if len(found) > size:
            response.next_page_token = paging.encode(query, (found[size - 1].charge_id,))
        return response

    def _period(self, label: str) -> str:
        return periods.labelled(label, self._billing.zone).label


def _event(each: Event) -> manager_pb2.MeteredEvent:
    pin = each.pin
    return manager_pb2.MeteredEvent(
        event_id=each.event_id,
        sequence=each.sequence,
        kind=each.kind.value,
        occurred_at=messages.timestamp(each.at),
        vm_id=each.vm_id,
        vm_name=each.vm_name,
        tenant=each.tenant,
        resources=each.resources,
        running=each.running,
        migration_id=each.migration_id,
        peer_cloud=each.peer,
        wire_bytes=each.sent_bytes or each.received_bytes,
        price_version=pin.version if pin else 0,
        pinned_until=messages.timestamp(pin.until) if pin else None,
        quote_id=pin.quote_id if pin else "",
    )
