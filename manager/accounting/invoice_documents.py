"""An invoice from its JSON document, as it was issued: for the other ways to write it."""

from collections.abc import Mapping
from typing import Any

from manager.accounting import exact, periods
from manager.accounting.invoices import Invoice, Party
from manager.accounting.ledger import Entry
from manager.accounting.periods import Month
from manager.accounting.price_sheet import Component, PriceBook
from manager.accounting.rating import Line, TaxLine


def read(document: Mapping[str, Any], book: PriceBook, entries: Mapping[str, Entry]) -> Invoice:
    """The invoice whose `rendering.to_json` the document is.

    `book` has the versions that its lines name, `entries` its corrections by id. Raises NotFound
    for a version that is missing.
    """
    payer = document["payer"]
    return Invoice(
        invoice_id=document["invoice_id"],
        number=document["number"],
        cloud_id=document["cloud"],
        issuer=_party(document["issuer"]),
        payer=payer,
        customer=_party(document["customer"]),
        month=Month(
            document["period"],
            document["time_zone"],
            periods.instant(document["period_start"]),
            periods.instant(document["period_end"]),
        ),
        currency=document["currency"],
        lines=tuple(_line(each, payer, book) for each in document["lines"]),
        taxes=tuple(_tax(each, payer) for each in document["taxes"]),
        corrections=tuple(entries[each["entry_id"]] for each in document["corrections"]),
        rounding_nanos=exact.whole(document["rounding"]),
        issued_at=periods.instant(document["issued_at"]),
        due_at=periods.instant(document["due_at"]),
    )


def _party(document: Mapping[str, Any]) -> Party:
    return Party(document["name"], tuple(document["address"]), document["tax_id"])


def _line(document: Mapping[str, Any], payer: str, book: PriceBook) -> Line:
    version = document["price_version"]
    return Line(
        charge_id=document["charge_id"],
        payer=payer,
        tenant=document["tenant"],
        vm_id=document["vm_id"],
        vm_name=document["vm_name"],
        component=_component(book, version, document["component"]),
        version=version,
        tier=document["tier"] - 1,
        minimum=document["minimum"],
        start=periods.instant(document["start"]),
        end=periods.instant(document["end"]),
        base_quantity=int(document["base_quantity"]),
        discount_percent=exact.whole(document["discount_percent"], exact.PERCENT_SCALE),
        list_nanos=exact.whole(document["list"]),
        net_nanos=exact.whole(document["amount"]),
        # Documents of before do not name them.
        quotes=tuple(document.get("quotes", ())),
    )


def _component(book: PriceBook, version: int, name: str) -> Component:
    return next(each for each in book.version(version).components if each.name == name)


def _tax(document: Mapping[str, Any], payer: str) -> TaxLine:
    return TaxLine(
        charge_id=document["charge_id"],
        payer=payer,
        name=document["name"],
        percent=exact.whole(document["percent"], exact.PERCENT_SCALE),
        base_nanos=exact.whole(document["base"]),
        nanos=exact.whole(document["amount"]),
    )
