"""AccountingService's calls about quotas: check a request, call the domain, return."""

from typing import Literal, get_args

import grpc

from manager import inventory, requests
from manager.callers import Callers
from manager.domain import next_page
from manager.ownership import Tenant
from manager.quotas import limits
from manager.quotas.book import Quotas
from watari import paging, rpc, validate
from watari.identity import validate_domain
from watari.v1 import common_pb2, manager_pb2

GENERATION_MAX = 2**62

_Answer = Literal[
    "used",
    "effective_hard",
    "effective_soft",
    "spent_month",
    "effective_budget_month",
    "effective_budget_month_soft",
]
_ANSWERS: tuple[_Answer, ...] = get_args(_Answer)


class QuotaCalls:
    """The part of AccountingService that is about quotas."""

    def __init__(self, quotas: Quotas, callers: Callers) -> None:
        self._quotas = quotas
        self._people = callers

    def ListQuotas(
        self, request: manager_pb2.ListQuotasRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.ListQuotasResponse:
        size, query = paging.page_size(request.page_size), paging.fingerprint(request)
        only = None
        if request.tenant:
            only = self._tenant(request.tenant_domain, request.tenant, "")
        found = self._quotas.page(
            self._people.person(rpc.current_peer()),
            only,
            after=paging.decode(query, request.page_token, (str, str)),
            limit=size + 1,
        )
        positions = [(each.tenant_domain, each.tenant) for each in found]
        return manager_pb2.ListQuotasResponse(
            quotas=found[:size], next_page_token=next_page(query, positions, size)
        )

    def PutQuota(
        self, request: manager_pb2.PutQuotaRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.PutQuotaResponse:
        validate.require_uuid(request.request_id, "request_id")
        quota = request.quota
        self._tenant(quota.tenant_domain, quota.tenant, "quota.")
        validate.require_range(quota.generation, "quota.generation", 0, GENERATION_MAX)
        for field in _ANSWERS:
            if quota.HasField(field):
                raise validate.invalid_field(
                    f"quota.{field}", "follows from the rest", "leave it unset"
                )
        for name, said in (("quota.hard", quota.hard), ("quota.soft", quota.soft)):
            _require_limits(said, name)
        limits.require_consistent(limits.of_quota(quota))
        put = self._quotas.put(quota, request.request_id, rpc.current_peer())
        return manager_pb2.PutQuotaResponse(quota=put)

    def DeleteQuota(
        self, request: manager_pb2.DeleteQuotaRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.DeleteQuotaResponse:
        tenant = self._tenant(request.tenant_domain, request.tenant, "")
        validate.require_range(request.generation, "generation", 0, GENERATION_MAX)
        self._quotas.delete(tenant, request.generation, rpc.current_peer())
        return manager_pb2.DeleteQuotaResponse()

    def _tenant(self, domain: str, name: str, prefix: str) -> Tenant:
        """One tenant, or all of a provider or of the cloud."""
        most = requests.TENANT_BYTES_MAX
        validate.require_text(name, f"{prefix}tenant", bytes_max=most, empty=False)
        if domain == limits.ALL and name != limits.ALL:
            raise validate.invalid_field(
                f"{prefix}tenant_domain", "a tenant is one provider's", "name the provider"
            )
        if domain and domain != limits.ALL:
            validate_domain(domain)
        return self._quotas.tenant(domain, name)


def _require_limits(resources: common_pb2.Resources, name: str) -> None:
    inventory.require_classes(resources, name)
    for each, amount in limits.named(resources).items():
        validate.require_range(amount, f"{name}.{each}", 0, inventory.AMOUNT_MAX)
