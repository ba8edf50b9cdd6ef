"""Quotes: what makes one good for a reservation, and what is pinned by it."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manager import quotes
from manager.accounting.sheet_documents import from_settings
from manager.ownership import Tenant
from manager.quotas.book import Quotas
from manager.reservations import Reservations
from manager.settings.accounts import PriceSettings
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, Rig, reason_of, request
from watari.clock import SystemClock
from watari.identity import Identity
from watari.v1 import common_pb2, manager_pb2

ACME = Tenant("tokyo.example", "acme")
SHEET = PriceSettings(
    currency="JPY", version=3, vcpu_hour="2.5", migration_flat="10", quote_ttl_seconds=600
)


@pytest.fixture(scope="module")
def own(federation: Federation) -> Identity:
    """osaka's manager."""
    return federation.party(OSAKA)


@pytest.fixture
def rig(tmp_path: Path, own: Identity) -> Iterator[Rig]:
    # What is signed is checked against certificates of today.
    made = Rig(tmp_path, own, start=SystemClock().now())
    yield made
    made.store.close()


def quoted(
    own: Identity, rig: Rig, asked: manager_pb2.ReserveRequest, **changes: object
) -> manager_pb2.ReserveRequest:
    """The request with osaka's quote for it."""
    offer = quotes.Offer("osaka", ACME, asked.resources)
    offer = replace(offer, **changes)  # type: ignore[arg-type]
    made = manager_pb2.ReserveRequest()
    made.CopyFrom(asked)
    key = str(uuid.uuid4())
    made.quote.CopyFrom(
        quotes.issue(
            own, rig.clock.now(), from_settings(SHEET), SHEET.quote_ttl_seconds, key, offer
        )
    )
    return made


def version(rig: Rig, asked: manager_pb2.ReserveRequest) -> int:
    """The price sheet's version that a reservation gets."""
    return rig.reservations.reserve(asked, TOKYO).reservation.price_version


def test_a_quote_says_what_an_hour_costs_and_for_whom_and_how_long(rig: Rig, own: Identity):
    asked = quoted(own, rig, request(vcpus=4))
    quote = manager_pb2.Quote.FromString(asked.quote.payload)
    assert (quote.hourly.units, quote.once.units, quote.price_version) == (10, 10, 3)
    assert (quote.tenant_domain, quote.tenant, quote.cloud_id) == (*_names(ACME), "osaka")
    left = quote.expires_at.ToDatetime(rig.clock.now().tzinfo) - rig.clock.now()
    assert left.total_seconds() == SHEET.quote_ttl_seconds


def test_a_reservation_has_the_version_of_its_quote_and_else_the_current_one(
    rig: Rig, own: Identity
):
    assert version(rig, request()) == 1
    asked = quoted(own, rig, request())
    assert version(rig, asked) == 3
    rig.clock.advance(7200)
    assert version(rig, asked) == 3, "repeated after the quote has expired"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cloud_id": "kyoto"}, "cloud_id"),
        ({"tenant": Tenant("osaka.example", "acme")}, "tenant"),
        ({"tenant": Tenant("tokyo.example", "globex")}, "tenant"),
        ({"resources": common_pb2.Resources(vcpus=1)}, "resources"),
    ],
)
def test_a_quote_for_something_else_is_refused(rig: Rig, own: Identity, changes, field):
    asked = quoted(own, rig, request(), **changes)
    with pytest.raises(Exception, match="QUOTE_INVALID") as caught:
        rig.reservations.reserve(asked, TOKYO)
    assert caught.value.metadata["field"] == field  # type: ignore[attr-defined]
    assert rig.held() == 0


def test_a_quote_that_has_expired_is_refused_and_not_a_moment_earlier(rig: Rig, own: Identity):
    first, second = quoted(own, rig, request()), quoted(own, rig, request())
    rig.clock.advance(SHEET.quote_ttl_seconds - 1)
    assert version(rig, first) == 3
    rig.clock.advance(1)
    assert reason_of(rig.reservations.reserve, second, TOKYO) == "QUOTE_INVALID"


def test_an_altered_quote_and_one_that_another_signed_are_refused(
    rig: Rig, own: Identity, federation: Federation
):
    asked = quoted(own, rig, request())
    cheaper = manager_pb2.Quote.FromString(asked.quote.payload)
    cheaper.hourly.units = 1
    asked.quote.payload = cheaper.SerializeToString()
    assert reason_of(rig.reservations.reserve, asked, TOKYO) == "SIGNATURE_INVALID"
    foreign = quoted(federation.party(str(TOKYO)), rig, request())
    assert reason_of(rig.reservations.reserve, foreign, TOKYO) == "SIGNATURE_INVALID"
    grant = rig.reservations.reserve(request(), TOKYO).grant
    other = request()
    other.quote.CopyFrom(grant)
    assert reason_of(rig.reservations.reserve, other, TOKYO) == "SIGNATURE_INVALID"


def test_a_new_price_sheet_leaves_what_was_quoted_and_reserved_before(rig: Rig, own: Identity):
    before = request()
    assert version(rig, before) == 1
    asked = quoted(own, rig, request())
    rig.settings = replace(rig.settings, prices=replace(SHEET, version=9, vcpu_hour="100"))
    quotas = Quotas(rig.store, rig.clock, "osaka", "osaka.example", rig.spending)
    rig.reservations = Reservations(
        rig.store, rig.clock, own, rig.settings, rig.manager_of, quotas, rig.sheet
    )
    assert version(rig, request()) == 9
    assert version(rig, asked) == 3
    assert version(rig, before) == 1


def _names(tenant: Tenant) -> tuple[str, str]:
    return tenant.domain, tenant.name
