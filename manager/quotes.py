"""Quotes: binding prices, signed by this manager, and taken by it as long as they hold.

A quote holds no room and is not stored: whoever asks again gets another one. What it says is pinned
into the reservation that shows it, so that a price sheet that changes meanwhile changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.message import DecodeError

from manager import prices
from manager.accounting.price_sheet import PriceSheet
from manager.ownership import Tenant
from watari import errors, identity
from watari.v1 import common_pb2, manager_pb2

PURPOSE = "quote"


@dataclass(frozen=True)
class Offer:
    """What a quote is for."""

    cloud_id: str
    tenant: Tenant
    resources: common_pb2.Resources


def issue(
    own: identity.Identity,
    now: datetime,
    sheet: PriceSheet,
    ttl_seconds: int,
    quote_id: str,
    offer: Offer,
) -> common_pb2.SignedDocument:
    """A signed quote by a version of the price sheet."""
    quote = manager_pb2.Quote(
        quote_id=quote_id,
        cloud_id=offer.cloud_id,
        resources=offer.resources,
        hourly=prices.hourly(sheet, offer.resources),
        once=prices.arrival(sheet),
        price_version=sheet.version,
        tenant_domain=offer.tenant.domain,
        tenant=offer.tenant.name,
    )
    quote.expires_at.FromDatetime(now + timedelta(seconds=ttl_seconds))
    return identity.sign(own, quote.SerializeToString(deterministic=True), PURPOSE)


def accept(
    own: identity.Identity, now: datetime, document: common_pb2.SignedDocument, offer: Offer
) -> manager_pb2.Quote:
    """The quote in a document, once it is one of this manager's for exactly this, and still holds.

    Raises Unauthenticated SIGNATURE_INVALID for one that was altered or that another signed,
    FailedPrecondition QUOTE_INVALID for one that is for something else, or has expired.
    """
    payload, _ = identity.verify(own.trust, document, PURPOSE, own.spiffe_id, now=now)
    try:
        quote = manager_pb2.Quote.FromString(payload)
    except DecodeError as error:
        raise _invalid("", "quote", "is none") from error
    said = Offer(quote.cloud_id, Tenant(quote.tenant_domain, quote.tenant), quote.resources)
    for field in ("cloud_id", "tenant", "resources"):
        if getattr(said, field) != getattr(offer, field):
            raise _invalid(quote.quote_id, field, f"is not for this {field}")
    if quote.expires_at.ToDatetime(now.tzinfo) <= now:
        ended = quote.expires_at.ToJsonString()
        raise _invalid(quote.quote_id, "expires_at", f"expired at {ended}")
    return quote


def _invalid(quote_id: str, field: str, problem: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "QUOTE_INVALID",
        f"quote {quote_id} {problem}",
        hint="ask for a new quote, or leave it out: the current price sheet holds then",
        quote_id=quote_id,
        field=field,
    )
