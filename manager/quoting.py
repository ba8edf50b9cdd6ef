"""Answers who asks for a quote: whose it may be, and whether there would be room at all."""

from collections.abc import Callable

from manager import capacity, inventory, ownership, quotes, shape_rows
from manager.accounting.price_sheet import PriceSheet
from manager.ownership import Tenant
from manager.quotas.book import Quotas
from manager.settings import Settings
from manager.store import Store
from watari import errors
from watari.clock import Clock
from watari.identity import Identity, Role, SpiffeId
from watari.v1 import common_pb2, manager_pb2


class Quoting:
    """Issues quotes."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        own: Identity,
        quotas: Quotas,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._sheet = sheet
        self._settings = settings
        self._store = store
        self._clock = clock
        self._own = own
        self._quotas = quotas

    def issue(
        self, request: manager_pb2.IssueQuoteRequest, caller: SpiffeId
    ) -> common_pb2.SignedDocument:
        """A quote for a machine of a tenant; no room is held for it.

        Raises Denied NOT_ALLOWED for who asks for another tenant, Exhausted INSUFFICIENT_CAPACITY,
        QUOTA_EXCEEDED and BUDGET_EXCEEDED when a reservation would be refused now.
        """
        tenant = self._tenant(request, caller)
        with self._store.read() as connection:
            shape = shape_rows.of(connection, inventory.POOL)
            asked = shape.named(inventory.amounts(request.resources))
            refused, _ = self._quotas.look(connection, tenant, asked)
            pool = capacity.pool(connection, self._settings.pool)
            hosts = capacity.views(connection, self._settings.agents)
        if refused:
            raise errors.from_problem(refused[0])
        own, pooled = inventory.split(asked, pool.total)
        inventory.choose(hosts, own)
        if pooled:
            inventory.choose([pool], pooled)
        offer = quotes.Offer(self._settings.cloud_id, tenant, request.resources)
        seconds = self._settings.prices.quote_ttl_seconds
        return quotes.issue(
            self._own, self._clock.now(), self._sheet(), seconds, request.quote_id, offer
        )

    def _tenant(self, request: manager_pb2.IssueQuoteRequest, caller: SpiffeId) -> Tenant:
        named = Tenant(request.tenant_domain or caller.domain, request.tenant)
        if caller.role is Role.USER:
            own = Tenant(caller.domain, caller.name)
            if request.tenant and named != own:
                raise errors.Denied(
                    "NOT_ALLOWED",
                    f"{caller} is not tenant {named.name} of {named.domain}",
                    hint="leave the tenant out: the quote is for who asks",
                )
            return own
        if caller.role is not Role.MANAGER:
            ownership.view_of(caller, self._own.spiffe_id.domain)
        elif caller.domain not in (named.domain, self._own.spiffe_id.domain):
            # What is refused, and why, would tell what another provider's tenant has here.
            raise errors.Denied(
                "NOT_ALLOWED",
                f"{caller} speaks for no tenant of {named.domain}",
                hint="ask for tenants of the manager's own provider",
            )
        if not request.tenant:
            raise errors.InvalidArgument(
                "INVALID_FIELD", "tenant: must not be empty", hint="for whom?", field="tenant"
            )
        return named
