"""Another provider's manager, asked for what a settlement needs of it.

What it says is checked as what a stranger says: bounded, parsed, and refused as PEER_ERROR where it
makes no sense.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from manager.accounting import periods, sheet_documents
from manager.accounting.events import Event, Kind, Pin
from manager.accounting.periods import Month
from manager.accounting.price_sheet import VERSIONS_MAX, PriceBook
from manager.accounting.settlement import QUOTES_MAX, Due, Owed, Terms
from watari import errors, money
from watari.identity import SpiffeId
from watari.rpc import ChannelPool, Target, client
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2, manager_pb2_grpc

CALL_SECONDS_MAX = 30.0
"""Deadline of a call that reads a page there."""

WORK_SECONDS_MAX = 90.0
"""Deadline of a call for which the other side works out a month, and asks us meanwhile."""

ITEMS_MAX = 1_000_000
"""Charges or events of one month that are taken."""

PAGE_SIZE = 1000

DISPUTE_BYTES_MAX = 4096
"""Of one dispute: two reasons and two names of who opened and decided it are within."""

ID_CHARS_MAX = 36
"""A UUID's."""

_Item = TypeVar("_Item")


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


_AnyPage = TypeVar("_AnyPage", bound=_Page)


@dataclass(frozen=True)
class Bill:
    """What a creditor bills for a month."""

    owed: Owed
    currency: str
    month: Month
    issued: bool
    invoice: manager_pb2.Invoice | None
    netted: manager_pb2.Settlement | None
    """The statement as it was booked there."""

    @property
    def netted_at(self) -> int | None:
        """When they netted the month, microseconds since 1970; None before that."""
        return None if self.netted is None else self.netted.netted_at.ToMicroseconds()


class OtherSide:
    """One other cloud's manager. Every method raises Unavailable and PEER_ERROR."""

    def __init__(self, channels: ChannelPool, cloud_id: str, endpoint: EndpointSettings) -> None:
        self.cloud_id = cloud_id
        target = Target(endpoint.address, SpiffeId.parse(endpoint.spiffe_id))
        self.domain = target.spiffe_id.domain
        self._stub = manager_pb2_grpc.AccountingServiceStub(channels.get(target))

    def bill(self, period: str) -> Bill:
        """What it bills us."""
        first: list[manager_pb2.ListBilledChargesResponse] = []

        def fetch(token: str) -> manager_pb2.ListBilledChargesResponse:
            request = manager_pb2.ListBilledChargesRequest(
                period=period, page_size=PAGE_SIZE, page_token=token
            )
            page = client.call(
                self._stub.ListBilledCharges, request, timeout_seconds=CALL_SECONDS_MAX
            )
            first.append(page)
            return page

        with self._sense():
            charges = list(_pages(fetch, lambda page: list(page.charges)))
            head = first[0]
            return Bill(
                _owed(charges, head.currency_code),
                head.currency_code,
                periods.labelled(period, head.time_zone),
                head.issued,
                head.invoice if head.HasField("invoice") else None,
                head.netted if head.HasField("netted") else None,
            )

    def expected(self, period: str, own_cloud: str, currency: str) -> Owed:
        """What it works out that it owes us."""

        def fetch(token: str) -> manager_pb2.ListExpectedChargesResponse:
            request = manager_pb2.ListExpectedChargesRequest(
                period=period, cloud_id=own_cloud, page_size=PAGE_SIZE, page_token=token
            )
            return client.call(
                self._stub.ListExpectedCharges, request, timeout_seconds=WORK_SECONDS_MAX
            )

        with self._sense():
            return _owed(_pages(fetch, lambda page: list(page.charges)), currency)

    def opened(self, period: str, currency: str) -> list[manager_pb2.Dispute]:
        """The disputes that it has of its charges of a month on us, newest first."""

        def fetch(token: str) -> manager_pb2.ListDisputesResponse:
            request = manager_pb2.ListDisputesRequest(
                period=period, page_size=PAGE_SIZE, page_token=token
            )
            return client.call(self._stub.ListDisputes, request, timeout_seconds=CALL_SECONDS_MAX)

        with self._sense():
            found = _pages(fetch, lambda page: list(page.disputes))
            # A manager of an earlier release lists those of all months.
            return [checked(each, currency) for each in found if each.period == period]

    def dispute(self, request: manager_pb2.OpenDisputeRequest) -> manager_pb2.Dispute:
        """Dispute a charge of its on us. Raises as OpenDispute does."""
        told = client.call(self._stub.OpenDispute, request, timeout_seconds=CALL_SECONDS_MAX)
        with self._sense():
            same = ("dispute_id", "charge_id", "reason")
            if any(getattr(told.dispute, name) != getattr(request, name) for name in same):
                raise errors.InvalidArgument("INVALID_FIELD", "it opened another dispute")
            return checked(told.dispute, told.dispute.amount.currency_code)

    def events(self, period: str, payer: str) -> list[Event]:
        """What it says happened there to machines of our tenants."""

        def fetch(token: str) -> manager_pb2.ListBilledEventsResponse:
            request = manager_pb2.ListBilledEventsRequest(
                period=period, page_size=PAGE_SIZE, page_token=token
            )
            return client.call(
                self._stub.ListBilledEvents, request, timeout_seconds=CALL_SECONDS_MAX
            )

        with self._sense():
            return [
                _event(each, self.cloud_id, payer)
                for each in _pages(fetch, lambda page: list(page.events))
            ]

    def book(self) -> PriceBook:
        """Its price sheets, as we may see them."""

        def fetch(token: str) -> manager_pb2.ListPriceSheetsResponse:
            request = manager_pb2.ListPriceSheetsRequest(page_size=PAGE_SIZE, page_token=token)
            return client.call(
                self._stub.ListPriceSheets, request, timeout_seconds=CALL_SECONDS_MAX
            )

        with self._sense():
            known = list(_pages(fetch, lambda page: list(page.sheets)))
            if len(known) > VERSIONS_MAX:
                raise errors.InvalidArgument("INVALID_FIELD", "too many price sheets")
            return PriceBook(
                sheet_documents.from_json(self._document(each.version)) for each in known
            )

    def _document(self, version: int) -> str:
        request = manager_pb2.GetPriceSheetRequest(version=version)
        found = client.call(self._stub.GetPriceSheet, request, timeout_seconds=CALL_SECONDS_MAX)
        return found.sheet.document

    @contextmanager
    def _sense(self) -> Iterator[None]:
        try:
            yield
        except errors.InvalidArgument as error:
            raise errors.FailedPrecondition(
                "PEER_ERROR",
                f"what the manager of {self.cloud_id} says makes no sense: {error.message}",
                hint="the two managers may be of releases that do not go together",
                peer=self.cloud_id,
            ) from error


def _pages(
    fetch: Callable[[str], _AnyPage], items: Callable[[_AnyPage], list[_Item]]
) -> Iterator[_Item]:
    token, taken = "", 0
    while True:
        page = fetch(token)
        found = items(page)
        yield from found
        taken += len(found)
        token = page.next_page_token
        if not token:
            return
        if taken > ITEMS_MAX or not found:
            raise errors.InvalidArgument("INVALID_FIELD", f"a list of more than {ITEMS_MAX}")


def _owed(
    charges: "Iterator[manager_pb2.OwedCharge] | list[manager_pb2.OwedCharge]", currency: str
) -> Owed:
    found: dict[str, Due] = {}
    for each in charges:
        quotes = tuple(quote[:ID_CHARS_MAX] for quote in each.quote_ids[:QUOTES_MAX])
        found[each.charge_id] = Due(
            each.description[:200],
            _nanos(each.amount, currency),
            Terms(each.price_version, quotes),
        )
    return found


def checked(each: manager_pb2.Dispute, currency: str) -> manager_pb2.Dispute:
    """The dispute, if it is for a part of something and credits no more. A part below zero would
    let more be agreed than was billed. Raises InvalidArgument INVALID_FIELD.
    """
    nanos = [_nanos(amount, currency) for amount in (each.amount, each.credited)]
    if each.ByteSize() > DISPUTE_BYTES_MAX or not 0 <= nanos[1] <= nanos[0]:
        raise errors.InvalidArgument("INVALID_FIELD", f"dispute {each.dispute_id[:64]!r}")
    return each


def _nanos(amount: common_pb2.Money, currency: str) -> int:
    if amount == common_pb2.Money():
        return 0
    if amount.currency_code != currency:
        raise errors.InvalidArgument("INVALID_FIELD", f"money in {amount.currency_code[:8]!r}")
    return int(money.to_decimal(amount).scaleb(9))


def _event(each: manager_pb2.MeteredEvent, cloud_id: str, payer: str) -> Event:
    try:
        kind = Kind(each.kind)
    except ValueError:
        raise errors.InvalidArgument("INVALID_FIELD", f"event {each.kind[:32]!r}") from None
    return Event(
        event_id=each.event_id,
        sequence=each.sequence,
        cloud_id=cloud_id,
        kind=kind,
        at=each.occurred_at.ToMicroseconds(),
        vm_id=each.vm_id,
        payer=payer,
        tenant=each.tenant,
        vm_name=each.vm_name,
        resources=dict(each.resources),
        running=each.running,
        pin=_pin(each),
        migration_id=each.migration_id,
        peer=each.peer_cloud,
        sent_bytes=each.wire_bytes if kind is Kind.DEPARTED else 0,
        received_bytes=each.wire_bytes if kind is Kind.ARRIVED else 0,
    )


def _pin(each: manager_pb2.MeteredEvent) -> Pin | None:
    if not each.price_version:
        return None
    until = each.pinned_until.ToMicroseconds()
    return Pin(each.price_version, until, each.quote_id[:ID_CHARS_MAX])
