"""Invoices as JSON, CSV and one printable HTML page that needs nothing else.

Everything from outside is escaped: names of machines and tenants are other people's text.
"""

import json
from collections.abc import Iterable, Iterator
from html import escape
from itertools import groupby

from manager.accounting import booking, exact, periods, tabular
from manager.accounting.invoices import Invoice, Party, decimals, owed
from manager.accounting.ledger import Entry
from manager.accounting.rating import Line

_CSV = [
    "invoice",
    "kind",
    "description",
    "vm_id",
    "vm_name",
    "tenant",
    "component",
    "price_version",
    "start",
    "end",
    "quantity",
    "unit",
    "unit_price",
    "list",
    "discount_percent",
    "amount",
    "currency",
]

_STYLE = """
@page{size:A4;margin:16mm}
*{box-sizing:border-box}
body{font:13px/1.45 "DejaVu Sans",Helvetica,Arial,sans-serif;margin:0}
body{color:#1d2733;background:#fff}
main{max-width:820px;margin:0 auto;padding:36px 40px}
header{display:flex;justify-content:space-between;padding-bottom:18px}
header{border-bottom:3px solid #1f5fa8}
h1{font-size:30px;letter-spacing:.06em;margin:0;color:#1f5fa8}
address{font-style:normal}
.parties{display:flex;justify-content:space-between;margin:24px 0 28px}
.label{color:#6b7785;font-size:11px;text-transform:uppercase;letter-spacing:.08em}
dl{display:grid;grid-template-columns:auto auto;gap:2px 18px;margin:0}
dt{color:#6b7785}dd{margin:0;text-align:right}
table{width:100%;border-collapse:collapse}
th{text-align:left;color:#6b7785;font-weight:600;font-size:11px;padding:6px 4px}
th{border-bottom:1px solid #1d2733}
td{padding:5px 4px;border-bottom:1px solid #e4e8ed;vertical-align:top;overflow-wrap:anywhere}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.machine td{background:#f3f6fa;font-weight:600}
tr{break-inside:avoid}
.totals{width:52%;margin:18px 0 0 auto}
.total td{font-size:17px;font-weight:700;padding-top:9px}
.total td{border-top:2px solid #1d2733;border-bottom:0}
footer{margin-top:30px;color:#6b7785;font-size:11px;border-top:1px solid #e4e8ed;padding-top:10px}
"""


def to_json(invoice: Invoice) -> str:
    """All of it; amounts are decimal strings, instants RFC 3339 in UTC."""
    document = {
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
        "cloud": invoice.cloud_id,
        "issuer": _party(invoice.issuer),
        "payer": invoice.payer,
        "customer": _party(invoice.customer),
        "period": invoice.month.label,
        "time_zone": invoice.month.zone,
        "period_start": periods.rfc3339(invoice.month.start),
        "period_end": periods.rfc3339(invoice.month.end),
        "currency": invoice.currency,
        "lines": [_line(line) for line in invoice.lines],
        "taxes": [
            {
                "charge_id": tax.charge_id,
                "name": tax.name,
                "percent": exact.text(tax.percent, exact.PERCENT_SCALE),
                "base": exact.text(tax.base_nanos),
                "amount": exact.text(tax.nanos),
            }
            for tax in invoice.taxes
        ],
        "corrections": [
            {
                "entry_id": entry.entry_id,
                "charge_id": entry.subject,
                "refers_to": entry.refers_to,
                "description": entry.description,
                "period": entry.period,
                "amount": exact.text(owed(entry, invoice.payer)),
            }
            for entry in invoice.corrections
        ],
        "net": exact.text(invoice.net_nanos),
        "tax": exact.text(invoice.tax_nanos),
        "correction": exact.text(invoice.correction_nanos),
        "rounding": exact.text(invoice.rounding_nanos),
        "total": _payable(invoice),
        "issued_at": periods.rfc3339(invoice.issued_at),
        "due_at": periods.rfc3339(invoice.due_at),
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


def to_csv(invoice: Invoice) -> str:
    """A row a line, a tax and a correction, one for the rounding: the amounts sum to the total."""
    return tabular.table(_CSV, _rows(invoice))


def to_html(invoice: Invoice) -> str:
    """One page in UTF-8 without scripts or anything to be loaded."""
    lines = "".join(_machines(invoice))
    title = escape(f"Invoice {invoice.number}")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><main>"
        f"<header><h1>INVOICE</h1>{_address(invoice.issuer)}</header>"
        f'<div class="parties"><div><div class="label">Billed to</div>'
        f"{_address(invoice.customer)}</div>{_facts(invoice)}</div>"
        '<table><thead><tr><th>Description</th><th class="n">Quantity</th><th>Unit</th>'
        '<th class="n">Unit price</th><th class="n">Discount</th>'
        f'<th class="n">Amount {escape(invoice.currency)}</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>{_totals(invoice)}"
        f"<footer>{_notes(invoice)}</footer></main></body></html>\n"
    )


def _rows(invoice: Invoice) -> Iterator[list[str]]:
    def row(kind: str, words: str, amount: int, **cells: str) -> list[str]:
        known = {
            "invoice": invoice.number,
            "kind": kind,
            "description": tabular.outside(words),
            "amount": exact.text(amount),
            "currency": invoice.currency,
        } | cells
        return [known.get(name, "") for name in _CSV]

    for line in invoice.lines:
        yield row(
            "charge",
            booking.describe(line),
            line.net_nanos,
            vm_id=tabular.outside(line.vm_id),
            vm_name=tabular.outside(line.vm_name),
            tenant=tabular.outside(line.tenant),
            component=line.component.name,
            price_version=str(line.version),
            start=periods.rfc3339(line.start),
            end=periods.rfc3339(line.end),
            quantity=quantity(line),
            unit=line.component.unit,
            unit_price=exact.text(line.unit_price_nanos),
            list=exact.text(line.list_nanos),
            discount_percent=exact.text(line.discount_percent, exact.PERCENT_SCALE),
        )
    for tax in invoice.taxes:
        yield row("tax", booking.describe_tax(tax), tax.nanos)
    for entry in invoice.corrections:
        yield row("correction", entry.description, owed(entry, invoice.payer))
    if invoice.rounding_nanos:
        yield row("rounding", "rounding", invoice.rounding_nanos)


def quantity(line: Line) -> str:
    """For people, in the component's unit; the base quantity is exact."""
    return exact.ratio(line.base_quantity, line.component.base)


def _line(line: Line) -> dict[str, object]:
    return {
        "charge_id": line.charge_id,
        "description": booking.describe(line),
        "vm_id": line.vm_id,
        "vm_name": line.vm_name,
        "tenant": line.tenant,
        "component": line.component.name,
        "price_version": line.version,
        "tier": line.tier + 1,
        "minimum": line.minimum,
        "start": periods.rfc3339(line.start),
        "end": periods.rfc3339(line.end),
        "quantity": quantity(line),
        "unit": line.component.unit,
        "base_quantity": str(line.base_quantity),
        "unit_price": exact.text(line.unit_price_nanos),
        "list": exact.text(line.list_nanos),
        "discount_percent": exact.text(line.discount_percent, exact.PERCENT_SCALE),
        "amount": exact.text(line.net_nanos),
        "quotes": list(line.quotes),
    }


def _party(party: Party) -> dict[str, object]:
    return {"name": party.name, "address": list(party.address), "tax_id": party.tax_id}


def _payable(invoice: Invoice) -> str:
    return exact.text(invoice.total_nanos, decimals_min=decimals(invoice.currency))


def _address(party: Party) -> str:
    tax_id = [f"Tax id {party.tax_id}"] if party.tax_id else []
    rest = "<br>".join(escape(text) for text in (*party.address, *tax_id))
    return f"<address><b>{escape(party.name)}</b><br>{rest}</address>"


def _facts(invoice: Invoice) -> str:
    def day(instant: int) -> str:
        return periods.moment(instant, invoice.month.zone).date().isoformat()

    facts = {
        "Invoice": invoice.number,
        "Issued": day(invoice.issued_at),
        "Due": day(invoice.due_at),
        "Period": f"{day(invoice.month.start)} to {day(invoice.month.end - 1)}",
        "Time zone": invoice.month.zone,
        "Account": invoice.payer,
    }
    return (
        f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>' for a, b in facts.items())}</dl>"
    )


def _machines(invoice: Invoice) -> Iterator[str]:
    def machine(line: Line) -> tuple[str, str]:
        return line.vm_name, line.vm_id

    for (name, vm_id), lines in groupby(sorted(invoice.lines, key=machine), machine):
        title = f"{name}  {vm_id}" if name and vm_id else (name or vm_id or "Account")
        yield f'<tr class="machine"><td colspan="6">{escape(title)}</td></tr>'
        yield from map(_html_line, lines)
    if invoice.corrections:
        yield '<tr class="machine"><td colspan="6">Corrections of earlier invoices</td></tr>'
        yield from _html_corrections(invoice.corrections, invoice.payer)


def _html_line(line: Line) -> str:
    words = [line.component.name.replace("-", " "), f"price sheet {line.version}"]
    if len(line.component.tiers) > 1:
        words.append(f"tier {line.tier + 1}")
    if line.minimum:
        words.append("up to the minimum")
    percent = exact.text(line.discount_percent, exact.PERCENT_SCALE)
    return (
        f"<tr><td>{escape(', '.join(words))}</td>"
        f'<td class="n">{exact.ratio(line.base_quantity, line.component.base, 3)}</td>'
        f"<td>{escape(line.component.unit)}</td>"
        f'<td class="n">{exact.text(line.unit_price_nanos, decimals_min=2)}</td>'
        f'<td class="n">{f"{percent} %" if line.discount_percent else ""}</td>'
        f'<td class="n">{_fixed(line.net_nanos)}</td></tr>'
    )


def _html_corrections(entries: Iterable[Entry], payer: str) -> Iterator[str]:
    for entry in entries:
        yield (
            f'<tr><td colspan="5">{escape(entry.period)} {escape(entry.description)}</td>'
            f'<td class="n">{_fixed(owed(entry, payer))}</td></tr>'
        )


def _totals(invoice: Invoice) -> str:
    rows = [("By the price sheets", _fixed(invoice.list_nanos))]
    if invoice.list_nanos != invoice.net_nanos:
        rows.append(("Discounts", _fixed(invoice.net_nanos - invoice.list_nanos)))
    rows += [
        (f"{booking.describe_tax(tax)} on {_fixed(tax.base_nanos)}", _fixed(tax.nanos))
        for tax in invoice.taxes
    ]
    if invoice.corrections:
        rows.append(("Corrections, with taxes", _fixed(invoice.correction_nanos)))
    if invoice.rounding_nanos:
        rows.append(("Rounding", _fixed(invoice.rounding_nanos)))
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{value}</td></tr>' for name, value in rows
    )
    total = f"{escape(invoice.currency)} {_payable(invoice)}"
    return (
        f'<table class="totals">{cells}'
        f'<tr class="total"><td>Total due</td><td class="n">{total}</td></tr></table>'
    )


def _notes(invoice: Invoice) -> str:
    return escape(
        f"Each line is rounded once, half to even, to 0.000000001 {invoice.currency}; quantities "
        "are shown rounded and charged exactly. A month of disk is 730 hours. Corrections appear "
        "on a later invoice; this one is never changed."
    )


def _fixed(nanos: int) -> str:
    return exact.text(nanos, decimals_min=9)
