"""Invoices as they are sent: JSON, CSV, HTML and FOCUS rows of one and the same amounts."""

import csv
import io
import json
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from manager.accounting import booking, exact, focus, invoices, ledger, rendering, tabular
from manager.accounting.events import Kind
from manager.accounting.invoices import Invoice
from manager.accounting.ledger import Ledger
from tests.support import accounting_samples as samples

HOSTILE = '=cmd|"/c calc"!A1<script>alert(1)</script>'


def corrected() -> Invoice:
    """An invoice with corrections of what was billed before."""
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 1))
    told = [each for each in samples.events() if each.kind is not Kind.DEPARTED]
    found = booking.corrections(
        booked, samples.rated(told), correction_id="c", reason="told late", booked_at=2
    )
    return samples.invoice(corrections=tuple(found))


@pytest.fixture(params=[samples.invoice, corrected], ids=["plain", "corrected"])
def invoice(request: pytest.FixtureRequest) -> Invoice:
    found: Invoice = request.param()
    return found


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_json_csv_and_focus_say_the_same_total(invoice: Invoice) -> None:
    total = exact.decimal(invoice.total_nanos)
    document = json.loads(rendering.to_json(invoice))
    assert Decimal(document["total"]) == total
    parts = [line["amount"] for key in ("lines", "taxes", "corrections") for line in document[key]]
    assert sum(map(Decimal, [*parts, document["rounding"]])) == total
    assert sum(Decimal(row["amount"]) for row in table(rendering.to_csv(invoice))) == total
    rows = table(focus.to_csv(invoice, "hamburg"))
    assert sum(Decimal(row["BilledCost"]) for row in rows) == total


def test_the_total_can_be_paid_and_its_rounding_is_in_the_ledger(invoice: Invoice) -> None:
    assert invoice.total_nanos % 10**7 == 0
    assert abs(invoice.rounding_nanos) <= 5 * 10**6
    entry = invoices.rounding_entry(invoice)
    assert entry is not None
    assert ledger.balances([entry])["EUR", "receivable:tenant:acme"] == invoice.rounding_nanos
    assert invoices.payable(1_500_000_000, "JPY") == 2 * 10**9
    assert invoices.payable(2_500_000_000, "JPY") == 2 * 10**9
    assert invoices.payable(1_234_500_000, "KWD") == 1_234_000_000


def test_an_invoice_that_is_made_again_is_the_same() -> None:
    assert samples.invoice() == samples.invoice()
    assert samples.invoice().number.startswith("hamburg-2026-03-")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_the_total_and_loads_nothing(invoice: Invoice) -> None:
    page = _Tags()
    text = rendering.to_html(invoice)
    page.feed(text)
    assert f"EUR {exact.text(invoice.total_nanos, decimals_min=2)}" in page.text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "http" not in text


def test_names_of_machines_run_nothing_in_a_browser_and_in_a_spreadsheet() -> None:
    found = samples.invoice(samples.rated(samples.events(HOSTILE)))
    page = _Tags()
    page.feed(rendering.to_html(found))
    assert "script" not in page.tags
    assert HOSTILE in page.text
    for text in (rendering.to_csv(found), focus.to_csv(found, "=1+1")):
        cells = {cell for row in table(text) for cell in row.values()}
        assert f"'{HOSTILE}" in cells
        numbers = {cell for cell in cells if cell.startswith(("=", "+", "-", "@"))}
        assert all(Decimal(cell) < 0 for cell in numbers)


def test_focus_tells_a_correction_with_the_time_of_what_it_corrects() -> None:
    rows = [row for row in focus.rows(corrected(), "hamburg") if row["ChargeClass"]]
    found = {
        row["ChargeDescription"]: (row["ChargePeriodStart"], row["ChargePeriodEnd"]) for row in rows
    }
    assert found["migration out of batch: told late"] == (
        "2026-03-17T17:18:00Z",
        "2026-03-17T17:18:01Z",
    )
    assert found["VAT 19 %: told late"] == ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "  =1", "\uff1d1", "\r=1"])
def test_what_could_be_a_formula_is_made_text(text: str) -> None:
    assert tabular.outside(text) == f"'{text}"
    assert tabular.outside("web-1") == "web-1"


MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
}
NEVER_NULL = MANDATORY - {"ChargeClass", "PricingQuantity", "PricingUnit"}


def test_focus_rows_keep_the_rules_of_the_specification(invoice: Invoice) -> None:
    rows = list(focus.rows(invoice, "hamburg"))
    assert {row["ChargeCategory"] for row in rows} == {"Usage", "Purchase", "Tax", "Adjustment"}
    for row in rows:
        assert tuple(row) == focus.COLUMNS
        assert [name for name in NEVER_NULL if not row[name]] == []
        assert row["BillingPeriodStart"] == "2026-02-28T23:00:00Z"
        assert row["BillingPeriodEnd"] == "2026-03-31T22:00:00Z"
        assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        correction = row["ChargeClass"] == "Correction"
        if row["ChargeCategory"] == "Tax":
            assert not row["PricingQuantity"] + row["ListUnitPrice"] + row["SkuPriceId"]
        if row["ChargeCategory"] in ("Usage", "Purchase") and not correction:
            assert row["SkuPriceId"]
            for price, cost in (("List", "ListCost"), ("Contracted", "ContractedCost")):
                product = Decimal(row["PricingQuantity"]) * Decimal(row[f"{price}UnitPrice"])
                assert abs(product - Decimal(row[cost])) < Decimal("1e-8")
        if row["ChargeCategory"] == "Purchase":
            assert row["ChargeFrequency"] == "Recurring"
        assert bool(row["ConsumedQuantity"]) == (
            row["ChargeCategory"] == "Usage" and not correction
        )
        assert bool(row["ResourceId"]) == bool(row["ResourceType"])
    assert set(focus.COLUMNS) >= MANDATORY
