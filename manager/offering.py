"""What a cloud gives to who reserves: a time, a price and a grant."""

from collections.abc import Callable

from manager import grants, quotes
from manager import store as stores
from manager.accounting.price_sheet import PriceSheet
from manager.admitting import Hold, Reserve, Terms, span_of
from manager.ownership import Tenant
from manager.reservation import Reservation, State
from manager.settings import Settings
from watari.clock import Clock
from watari.identity import Identity
from watari.v1 import common_pb2, manager_pb2


class Offering:
    """What one cloud gives. Reads no database."""

    def __init__(
        self,
        clock: Clock,
        identity: Identity,
        settings: Settings,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._clock = clock
        self._identity = identity
        self._cloud_id = settings.cloud_id
        self._limits = settings.reservations
        self._agents = settings.agents
        self._sheet = sheet
        self.terms = Terms(
            self.expiry, self._grant, lambda call: self._price(call.request, call.tenant)
        )
        """For who takes over what was held or booked."""

    def expiry(self, ttl_seconds: int) -> int:
        """In microseconds since 1970, at most as far ahead as is allowed."""
        return self._now() + min(ttl_seconds, self._limits.ttl_seconds_max) * 1_000_000

    def new(self, call: Reserve, host_id: str, tenant: Tenant) -> Reservation:
        """A new reservation on a host: granted at once, unless it is held or for later."""
        request, span = call.request, span_of(call.request)
        price_version = self._price(request, tenant)
        expires_at = self.expiry(request.ttl_seconds)
        state = State.PENDING if span is None else State.BOOKED
        if isinstance(call, Hold):
            state, expires_at = State.HELD, call.expires_at
        grant = self._grant(call, host_id) if state is State.PENDING else None
        if span is not None and span.end is not None:
            expires_at = span.end
        return Reservation(
            reservation_id=request.reservation_id,
            migration_id=request.migration_id,
            vm_id=request.vm_id,
            from_cloud=request.from_cloud,
            requested_by=str(call.caller),
            host_id=host_id,
            state=state,
            expires_at=expires_at,
            created_at=self._now(),
            price_version=price_version,
            request=request,
            grant=grant or common_pb2.SignedDocument(),
            starts_at=None if span is None else span.start,
            ends_at=None if span is None else span.end,
        )

    def _grant(self, call: Reserve, host_id: str) -> common_pb2.SignedDocument:
        return grants.issue(
            self._identity,
            self._clock,
            self._limits,
            call.request,
            source_manager=str(call.caller),
            destination_agent=self._agents[host_id].spiffe_id,
        )

    def _price(self, request: manager_pb2.ReserveRequest, tenant: Tenant) -> int:
        """The version of the price sheet that holds: the quote's, if there is one."""
        if not request.HasField("quote"):
            return self._sheet().version
        offer = quotes.Offer(self._cloud_id, tenant, request.resources)
        quote = quotes.accept(self._identity, self._clock.now(), request.quote, offer)
        return quote.price_version

    def _now(self) -> int:
        return stores.micros(self._clock.now())
