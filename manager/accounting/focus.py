"""Invoices in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

A row a charge: what machines used and flat charges as "Usage", what is charged by the month as
"Purchase", taxes as "Tax", the rounding as "Adjustment"; corrections of closed months have
ChargeClass "Correction". Costs are exact; PricingQuantity is rounded to 12 decimals, so that its
product with a unit price is the cost to within that. An empty cell is null.
"""

from collections.abc import Iterator

from manager.accounting import booking, exact, periods, rendering, tabular
from manager.accounting.invoices import Invoice, owed
from manager.accounting.ledger import Entry
from manager.accounting.price_sheet import Component, Measure
from manager.accounting.rating import Line, TaxLine

VERSION = "1.2"

COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "x_ChargeId",
)
"""In the order of the export; the last is ours."""

_UNITS = {
    "vCPU-hour": "vCPU-Hours",
    "unit-hour": "Unit-Hours",
    "GiB-hour": "GiB-Hours",
    "GiB-month": "GiB-Months",
    "GiB": "GiB",
    "migration": "Migrations",
    "month": "Months",
}

_PRICE_SCALE = exact.NANOS * exact.PERCENT_WHOLE
"""A price in nanos less a discount in ten-thousandths of a percent, exactly."""


def to_csv(invoice: Invoice, region: str) -> str:
    """The invoice's rows as CSV with a header."""
    cells = ([row[name] for name in COLUMNS] for row in rows(invoice, region))
    return tabular.table(COLUMNS, cells)


def rows(invoice: Invoice, region: str) -> Iterator[dict[str, str]]:
    """A row for every charge of the invoice; their BilledCost sums to its total."""
    for line in invoice.lines:
        yield _common(invoice, region) | _line(line)
    for tax in invoice.taxes:
        yield _common(invoice, region) | _tax(tax)
    for entry in invoice.corrections:
        yield _common(invoice, region) | _correction(entry, invoice)
    if invoice.rounding_nanos:
        yield _common(invoice, region) | _other(
            "Adjustment", "rounding", invoice.rounding_nanos, invoice.invoice_id
        )


def _common(invoice: Invoice, region: str) -> dict[str, str]:
    tenant, _, name = invoice.payer.partition(":")
    issuer = tabular.outside(invoice.issuer.name)
    start, end = periods.rfc3339(invoice.month.start), periods.rfc3339(invoice.month.end)
    return dict.fromkeys(COLUMNS, "") | {
        "BillingAccountId": tabular.outside(invoice.payer),
        "BillingAccountName": tabular.outside(invoice.customer.name or name),
        "BillingAccountType": "Tenant" if tenant == "tenant" else "Provider",
        "BillingCurrency": invoice.currency,
        "BillingPeriodEnd": end,
        "BillingPeriodStart": start,
        "ChargePeriodEnd": end,
        "ChargePeriodStart": start,
        "InvoiceId": invoice.number,
        "InvoiceIssuerName": issuer,
        "PricingCurrency": invoice.currency,
        "ProviderName": issuer,
        "PublisherName": issuer,
        "RegionId": tabular.outside(region),
        "RegionName": tabular.outside(region),
        "ServiceCategory": "Other",
        "ServiceName": "Virtual machines",
        "ServiceSubcategory": "Other (Other)",
    }


def _line(line: Line) -> dict[str, str]:
    component = line.component
    monthly = component.measure is Measure.MONTHLY
    category, subcategory = _service(component)
    quantity, unit = rendering.quantity(line), _UNITS[component.unit]
    contracted = line.unit_price_nanos * (exact.PERCENT_WHOLE - line.discount_percent)
    sku = f"{component.name}/v{line.version}/t{line.tier + 1}"
    cells = _other(
        "Purchase" if monthly else "Usage",
        booking.describe(line),
        line.net_nanos,
        line.charge_id,
    )
    cells |= _charged(line.start, line.end)
    cells |= {
        "ChargeFrequency": "Recurring" if monthly else "Usage-Based",
        "ContractedUnitPrice": exact.text(contracted, _PRICE_SCALE),
        "ListCost": exact.text(line.list_nanos),
        "ListUnitPrice": exact.text(line.unit_price_nanos),
        "PricingCategory": "Standard",
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ServiceCategory": category,
        "ServiceSubcategory": subcategory,
        "SkuId": component.name,
        "SkuMeter": component.resource or component.measure.value,
        "SkuPriceId": sku,
        "SubAccountId": tabular.outside(line.tenant),
        "SubAccountName": tabular.outside(line.tenant),
        "SubAccountType": "Tenant" if line.tenant else "",
    }
    if not monthly:
        cells |= {"ConsumedQuantity": quantity, "ConsumedUnit": unit}
    if line.vm_id:
        cells |= {
            "ResourceId": tabular.outside(line.vm_id),
            "ResourceName": tabular.outside(line.vm_name),
            "ResourceType": "Virtual machine",
        }
    return cells


def _tax(tax: TaxLine) -> dict[str, str]:
    return _other("Tax", booking.describe_tax(tax), tax.nanos, tax.charge_id)


def _correction(entry: Entry, invoice: Invoice) -> dict[str, str]:
    taxed = any(each.account.startswith(booking.TAXES) for each in entry.postings)
    listed = sum(-each.nanos for each in entry.postings if each.account.startswith(booking.REVENUE))
    nanos = owed(entry, invoice.payer)
    cells = _other("Tax" if taxed else "Usage", entry.description, nanos, entry.subject)
    cells |= _charged(entry.start, entry.end)
    return cells | {
        "ChargeClass": "Correction",
        "ChargeFrequency": "One-Time" if taxed else "Usage-Based",
        "ListCost": exact.text(nanos if taxed else listed),
    }


def _other(category: str, words: str, nanos: int, charge_id: str) -> dict[str, str]:
    cost = exact.text(nanos)
    return {
        "BilledCost": cost,
        "ChargeCategory": category,
        "ChargeDescription": tabular.outside(words),
        "ChargeFrequency": "One-Time",
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "x_ChargeId": charge_id,
    }


def _service(component: Component) -> tuple[str, str]:
    if component.measure is Measure.RUNNING:
        return "Compute", "Virtual Machines"
    if component.measure is Measure.HELD and component.unit.startswith("GiB"):
        return "Storage", "Block Storage"
    if component.measure in (Measure.SENT, Measure.RECEIVED):
        return "Networking", "Data Transfer"
    if component.measure is Measure.HELD:
        return "Networking", "Other (Networking)"
    if component.measure in (Measure.ARRIVALS, Measure.DEPARTURES):
        return "Migration", "Other (Migration)"
    return "Other", "Other (Other)"


def _charged(start: int, end: int) -> dict[str, str]:
    """FOCUS tells time in whole seconds: a period is widened to them, and is never empty."""
    first = start - start % periods.MICROS
    last = max(end + -end % periods.MICROS, first + periods.MICROS)
    return {
        "ChargePeriodStart": periods.rfc3339(first),
        "ChargePeriodEnd": periods.rfc3339(last),
    }
