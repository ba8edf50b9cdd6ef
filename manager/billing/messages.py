"""What the accounting has as values, as the contract's messages. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from manager.accounting import exact, periods, sheet_documents
from manager.accounting.invoices import Invoice
from manager.accounting.ledger import Chained
from manager.accounting.price_sheet import PriceSheet
from manager.accounting.settlement import QUOTES_MAX
from manager.billing.viewers import Viewer
from watari import money, validate
from watari.v1 import common_pb2, manager_pb2

CHARGE = manager_pb2.INVOICE_LINE_KIND_CHARGE
TAX = manager_pb2.INVOICE_LINE_KIND_TAX
CORRECTION = manager_pb2.INVOICE_LINE_KIND_CORRECTION
ROUNDING = manager_pb2.INVOICE_LINE_KIND_ROUNDING


def timestamp(micros: int) -> Timestamp | None:
    """An instant; None for 0, which stands for none."""
    if not micros:
        return None
    found = Timestamp()
    found.FromMicroseconds(micros)
    return found


def nanos(amount: common_pb2.Money, currency: str, field: str) -> int:
    """The nanos of an amount in a request. Raises InvalidArgument INVALID_FIELD for another
    currency than the cloud's.
    """
    value = money.to_decimal(amount)
    if amount.currency_code != currency:
        raise validate.invalid_field(
            field, f"{amount.currency_code} is not charged here", f"an amount in {currency}"
        )
    return int(value.scaleb(9))


def entry(chained: Chained) -> manager_pb2.LedgerEntry:
    """An entry of the ledger."""
    of = chained.entry
    return manager_pb2.LedgerEntry(
        sequence=chained.sequence,
        booking_id=of.entry_id,
        description=of.description,
        booked_at=timestamp(of.booked_at),
        kind=of.kind,
        subject=of.subject,
        period=of.period,
        start_at=timestamp(of.start),
        end_at=timestamp(of.end),
        refers_to=of.refers_to,
        postings=[
            manager_pb2.LedgerPosting(
                account=each.account, amount=exact.message(each.nanos, of.currency)
            )
            for each in of.postings
        ],
        previous_hash=chained.previous_hash,
        hash=chained.hash,
    )


def sheet(
    of: PriceSheet, recorded_at: int, viewer: Viewer | None, *, in_effect: bool
) -> manager_pb2.PriceSheetVersion:
    """A price sheet, with the discounts that a viewer may see; without its document for None."""
    return manager_pb2.PriceSheetVersion(
        version=of.version,
        currency_code=of.currency,
        effective_from=timestamp(of.effective_from) or Timestamp(),
        recorded_at=timestamp(recorded_at),
        document="" if viewer is None else sheet_documents.to_json(seen(of, viewer)),
        in_effect=in_effect,
    )


def seen(of: PriceSheet, viewer: Viewer) -> PriceSheet:
    """The sheet without what is agreed with other payers."""
    kept = tuple(each for each in of.discounts if viewer.sees(each.payer))
    return PriceSheet(of.version, of.currency, of.effective_from, of.components, kept, of.taxes)


def head(of: Invoice) -> manager_pb2.Invoice:
    """An invoice without its lines."""

    def amount(value: int) -> common_pb2.Money:
        return exact.message(value, of.currency)

    return manager_pb2.Invoice(
        invoice_id=of.invoice_id,
        payer=of.payer,
        period_start=timestamp(of.month.start) or Timestamp(),
        period_end=timestamp(of.month.end),
        total=amount(of.total_nanos),
        issued_at=timestamp(of.issued_at),
        number=of.number,
        cloud_id=of.cloud_id,
        period=of.month.label,
        time_zone=of.month.zone,
        net=amount(of.net_nanos),
        tax=amount(of.tax_nanos),
        correction=amount(of.correction_nanos),
        rounding=amount(of.rounding_nanos),
        due_at=timestamp(of.due_at),
        lines_count=len(of.lines)
        + len(of.taxes)
        + len(of.corrections)
        + int(bool(of.rounding_nanos)),
        issuer_name=of.issuer.name,
        customer_name=of.customer.name,
    )


def lines(document: Mapping[str, Any]) -> Iterator[manager_pb2.InvoiceLine]:
    """The lines of an invoice's JSON document (`rendering.to_json`), one after another."""
    currency = document["currency"]

    def amount(text: str) -> common_pb2.Money:
        return money.from_decimal(exact.signed(text), currency)

    for each in document["lines"]:
        yield manager_pb2.InvoiceLine(
            kind=CHARGE,
            description=each["description"],
            quantity=each["quantity"],
            unit=each["unit"],
            unit_price=amount(each["unit_price"]),
            amount=amount(each["amount"]),
            vm_id=each["vm_id"],
            charge_id=each["charge_id"],
            vm_name=each["vm_name"],
            tenant=each["tenant"],
            component=each["component"],
            price_version=each["price_version"],
            tier=each["tier"],
            minimum=each["minimum"],
            start_at=timestamp(periods.instant(each["start"])),
            end_at=timestamp(periods.instant(each["end"])),
            list_amount=amount(each["list"]),
            percent=each["discount_percent"],
            quote_ids=each.get("quotes", [])[:QUOTES_MAX],
        )
    for each in document["taxes"]:
        yield manager_pb2.InvoiceLine(
            kind=TAX,
            description=f"{each['name']} {each['percent']} %",
            charge_id=each["charge_id"],
            percent=each["percent"],
            amount=amount(each["amount"]),
        )
    for each in document["corrections"]:
        yield manager_pb2.InvoiceLine(
            kind=CORRECTION,
            description=each["description"],
            charge_id=each["charge_id"],
            period=each["period"],
            amount=amount(each["amount"]),
        )
    if exact.signed(document["rounding"]):
        yield manager_pb2.InvoiceLine(
            kind=ROUNDING, description="rounding", amount=amount(document["rounding"])
        )


def parsed(document: str) -> dict[str, Any]:
    """An invoice's document that was recorded here."""
    found: dict[str, Any] = json.loads(document)
    return found
