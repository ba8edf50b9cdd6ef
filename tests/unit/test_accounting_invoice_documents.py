"""An invoice's JSON document is all of the invoice: read again, it is written the same."""

import json

import pytest

from manager.accounting import booking, focus, invoice_documents, rendering
from manager.accounting.events import Kind
from manager.accounting.invoices import Invoice, issue
from manager.accounting.ledger import Ledger
from manager.accounting.metering import meter
from manager.accounting.price_sheet import PriceBook
from manager.accounting.rating import rate
from tests.support import accounting_samples as samples
from tests.support import accounting_world


def corrected() -> Invoice:
    """With corrections of the same month, which stand for an earlier one."""
    booked = Ledger()
    booked.post(booking.charges(samples.rated(), 0))
    late = [each for each in samples.events() if each.kind is not Kind.DEPARTED]
    changes = tuple(
        booking.corrections(
            booked, samples.rated(late), correction_id="c", reason="told late", booked_at=1
        )
    )
    assert changes
    return samples.invoice(corrections=changes)


@pytest.mark.parametrize("made", [samples.invoice(), corrected()], ids=["plain", "corrected"])
def test_a_document_read_again_is_the_invoice(made: Invoice) -> None:
    entries = {entry.entry_id: entry for entry in made.corrections}
    document = json.loads(rendering.to_json(made))
    assert invoice_documents.read(document, samples.BOOK, entries) == made


def test_the_invoices_of_a_whole_month_are_read_as_they_were_written() -> None:
    world = accounting_world.world(11, 2026, 3, "Europe/Berlin", machines=60)
    for cloud, events in world.events.items():
        book = PriceBook(world.sheets[cloud])
        rated = rate(meter(events, world.month.end), book, world.month, cloud)
        for payer in {line.payer for line in rated.lines}:
            made = issue(
                rated, payer, issuer=samples.ISSUER, customer=samples.CUSTOMER, issued_at=5
            )
            again = invoice_documents.read(json.loads(rendering.to_json(made)), book, {})
            assert again == made
            assert focus.to_csv(again, "north") == focus.to_csv(made, "north")
