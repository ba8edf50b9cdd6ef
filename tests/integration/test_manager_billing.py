"""The money of two clouds, over real servers and on every database: sheets, invoices, disputes,
payments, and what others see of it.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager.accounting import exact
from manager.settings.store import StoreSettings
from tests.conftest import OSAKA, TOKYO
from tests.support import databases
from tests.support.billing_world import (
    Months,
    accounts,
    balance,
    booked,
    closed,
    invoices,
    issue,
    months,
    nanos,
    new_id,
    opened,
)
from tests.support.clouds import VM, Cloud, eventually
from watari import errors
from watari.rpc import client
from watari.v1 import manager_pb2

OPERATOR, ACME = "operator/main", "user/acme"
OSAKAS_MANAGER = f"spiffe://{OSAKA}/manager/main"
TOKYOS_MANAGER = f"spiffe://{TOKYO}/manager/main"


@pytest.fixture
def world(database: StoreSettings, tmp_path: Path) -> Iterator[Months]:
    """Both managers at work; tokyo's on the database of the test."""
    other = databases.sqlite(tmp_path / "osaka.sqlite")
    with months(tmp_path / "world", (database, other)) as made:
        yield made


@pytest.fixture
def billed(world: Months) -> Months:
    """A month in which acme's machine ran at tokyo, moved to osaka and came back; issued."""
    world.there_and_back()
    assert issue(world.tokyo, world.label).issued == 1
    assert issue(world.osaka, world.label).issued == 1
    return world


def sheet(version: int, since: str, price: str = "9", **more: object) -> str:
    return json.dumps(
        {
            "version": version,
            "currency": "JPY",
            "effective_from": since,
            "components": [
                {
                    "name": "vcpu",
                    "measure": "running",
                    "resource": "vcpus",
                    "unit": "vCPU-hour",
                    "price": price,
                }
            ],
            **more,
        }
    )


def put(cloud: Cloud, document: str, party: str = OPERATOR) -> manager_pb2.PriceSheetVersion:
    request = manager_pb2.PutPriceSheetRequest(document=document)
    return client.call(accounts(cloud, party).PutPriceSheet, request).sheet


def dispute(
    cloud: Cloud, party: str, charge_id: str, amount: object = None, **more: str
) -> manager_pb2.Dispute:
    request = manager_pb2.OpenDisputeRequest(
        **{"dispute_id": new_id(), "charge_id": charge_id, "reason": "it stood still", **more},
        amount=amount,
    )
    return client.call(accounts(cloud, party).OpenDispute, request).dispute


def decide(cloud: Cloud, dispute_id: str, credited: object) -> manager_pb2.Dispute:
    request = manager_pb2.DecideDisputeRequest(
        dispute_id=dispute_id, credited=credited, reason="looked at"
    )
    return client.call(accounts(cloud, OPERATOR).DecideDispute, request).dispute


def export(cloud: Cloud, invoice_id: str, how: str, party: str = OPERATOR) -> str:
    request = manager_pb2.ExportInvoiceRequest(
        invoice_id=invoice_id, format=f"INVOICE_FORMAT_{how}"
    )
    stub = accounts(cloud, party)
    with client.stream(stub.ExportInvoice, request, timeout_seconds=30) as parts:
        return b"".join(part.content for part in parts).decode()


def refused(call: object, *arguments: object, **named: object) -> errors.WatariError:
    with pytest.raises(errors.WatariError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return caught.value


def line(invoice: manager_pb2.Invoice, component: str) -> manager_pb2.InvoiceLine:
    (found,) = [each for each in invoice.lines if each.component == component]
    return found


def test_the_bills_of_a_machine_that_moved_join_without_a_gap_or_an_overlap(billed):
    (own,), (theirs,) = invoices(billed.tokyo), invoices(billed.osaka)
    assert (own.payer, theirs.payer) == ("tenant:acme", f"peer:{TOKYO}")
    crossings = [each.occurred_at for each in billed.tokyo.usage()]
    assert len(crossings) == 2
    hours = line(own, "disk").quantity, line(theirs, "disk").quantity
    left, back = (each.ToMicroseconds() // 10**6 for each in crossings)
    begun = billed.tokyo.agent.events[0].occurred_at.ToMicroseconds() // 10**6
    end = int(billed.after.timestamp())
    gib = 4
    assert hours == (
        exact.ratio((end - begun - (back - left)) * gib, 730 * 3600),
        exact.ratio((back - left) * gib, 730 * 3600),
    )
    # While it was stopped at osaka, its disk was charged for and nothing else.
    disk, vcpu = line(theirs, "disk"), line(theirs, "vcpu")
    assert disk.end_at.ToSeconds() == back
    assert vcpu.end_at.ToSeconds() < back - 3 * 86_400
    for cloud, invoice in ((billed.tokyo, own), (billed.osaka, theirs)):
        assert balance(cloud, f"receivable:{invoice.payer}") == nanos(invoice.total)
        assert nanos(invoice.total) % 10**9 == 0, "whole yen"


def test_a_month_is_issued_once_and_only_when_it_is_over(world):
    world.tell(world.tokyo, "APPEARED", running=False)
    error = refused(issue, world.tokyo, world.label)
    assert (type(error), error.reason) == (errors.FailedPrecondition, "PERIOD_OPEN")
    world.end()
    first = issue(world.tokyo, world.label)
    before = booked(world.tokyo), invoices(world.tokyo)
    again = issue(world.tokyo, world.label)
    assert (first.issued, again.issued, again.invoices) == (1, 0, 1)
    assert again.issued_at == first.issued_at
    assert (booked(world.tokyo), invoices(world.tokyo)) == before
    for period in ("2026-13", "last", ""):
        assert refused(issue, world.tokyo, period).reason == "INVALID_FIELD"
    actions = [each.action for each in world.tokyo.audit()]
    assert actions.count("invoice.issued") == actions.count("invoices.issued") == 1


def test_everyone_sees_what_is_theirs_and_nothing_else(billed):
    tokyo, osaka = billed.tokyo, billed.osaka
    (own,) = invoices(tokyo, ACME)
    (theirs,) = invoices(osaka, TOKYOS_MANAGER)
    globex, namesake = "user/globex", f"spiffe://{OSAKA}/user/acme"
    for party in (globex, namesake, OSAKAS_MANAGER):
        assert invoices(tokyo, party) == []
        request = manager_pb2.GetInvoiceRequest(invoice_id=own.invoice_id)
        assert refused(client.call, accounts(tokyo, party).GetInvoice, request).reason == (
            "RECORD_NOT_FOUND"
        )
        assert refused(export, tokyo, own.number, "CSV", party).reason == "RECORD_NOT_FOUND"
        assert refused(dispute, tokyo, party, own.lines[0].charge_id).reason == "RECORD_NOT_FOUND"
    # The tenant at osaka owes osaka nothing: its provider does.
    acme_abroad = f"spiffe://{TOKYO}/user/acme"
    assert invoices(osaka, acme_abroad) == []
    stranger = manager_pb2.ListInvoicesRequest(payer="tenant:acme")
    assert not client.call(accounts(tokyo, globex).ListInvoices, stranger).invoices
    balances = client.call(accounts(tokyo, ACME).ListBalances, manager_pb2.ListBalancesRequest())
    assert [(each.account, each.amount) for each in balances.balances] == [
        ("receivable:tenant:acme", own.total)
    ]
    assert not client.call(
        accounts(tokyo, globex).ListBalances, manager_pb2.ListBalancesRequest()
    ).balances
    assert theirs.total.units > 0


def test_names_that_tenants_chose_are_text_in_every_document(world):
    formula = '=HYPERLINK("http://x")<script>'
    world.tokyo.agent.tell("APPEARED", VM, vm_name=formula, tenant="acme")
    world.tell(world.tokyo, "RESIZED", running=False)
    other = "6f1f2d2e-0000-4000-8000-0000000000c1"
    world.tokyo.agent.tell(
        "APPEARED",
        other,
        vm_name=formula,
        tenant="acme",
        resources={"vcpus": 1, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30},
    )
    world.tell(world.tokyo, "RESIZED", running=False)
    world.end()
    issue(world.tokyo, world.label)
    (invoice,) = invoices(world.tokyo)
    for how in ("CSV", "FOCUS"):
        rows = list(csv.reader(io.StringIO(export(world.tokyo, invoice.number, how, ACME))))
        cells = [cell for row in rows for cell in row]
        assert any(formula in cell for cell in cells)
        assert not [cell for cell in cells if cell.startswith("=")]
    page = export(world.tokyo, invoice.number, "HTML", ACME)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Acme &lt;b&gt;Analytics" in page
    document = json.loads(export(world.tokyo, invoice.invoice_id, "JSON", ACME))
    assert document["number"] == invoice.number
    focus = csv.DictReader(io.StringIO(export(world.tokyo, invoice.number, "FOCUS")))
    assert sum(exact.whole(row["BilledCost"]) for row in focus) == nanos(invoice.total)


def test_a_charge_is_disputed_up_to_what_it_is_and_decided_once(billed):
    tokyo = billed.tokyo
    (invoice,) = invoices(tokyo, ACME)
    charge = line(invoice, "vcpu")
    owed = balance(tokyo, "receivable:tenant:acme")
    third = exact.message(nanos(charge.amount) // 3, "JPY")
    more = exact.message(nanos(charge.amount) + 1, "JPY")
    for amount in (more, exact.message(0, "JPY"), exact.message(-1, "JPY")):
        error = refused(dispute, tokyo, ACME, charge.charge_id, amount)
        assert error.reason == "DISPUTE_EXCEEDS_CHARGE"
    wrong = refused(dispute, tokyo, ACME, charge.charge_id, exact.message(5, "EUR"))
    assert wrong.reason == "INVALID_FIELD"
    first = dispute(tokyo, ACME, charge.charge_id, third)
    again = dispute(tokyo, ACME, charge.charge_id, third, dispute_id=first.dispute_id)
    assert again == first
    reused = refused(dispute, tokyo, ACME, charge.charge_id, more, dispute_id=first.dispute_id)
    assert reused.reason == "ID_REUSED"
    rest = dispute(tokyo, ACME, charge.charge_id)
    assert nanos(rest.amount) == nanos(charge.amount) - nanos(third)
    assert refused(dispute, tokyo, ACME, charge.charge_id).reason == "DISPUTE_EXCEEDS_CHARGE"
    assert balance(tokyo, "disputed:tenant:acme") == nanos(charge.amount)
    assert balance(tokyo, "receivable:tenant:acme") == owed - nanos(charge.amount)

    upheld = decide(tokyo, first.dispute_id, first.amount)
    assert upheld.state == manager_pb2.DISPUTE_STATE_UPHELD
    assert decide(tokyo, first.dispute_id, first.amount) == upheld
    assert refused(decide, tokyo, first.dispute_id, None).reason == "DISPUTE_STATE"
    rejected = decide(tokyo, rest.dispute_id, None)
    assert rejected.state == manager_pb2.DISPUTE_STATE_REJECTED
    assert balance(tokyo, "disputed:tenant:acme") == 0
    assert balance(tokyo, "credits") == nanos(third)
    assert balance(tokyo, "receivable:tenant:acme") == owed - nanos(third)
    part = dispute(tokyo, ACME, charge.charge_id)
    decided = decide(tokyo, part.dispute_id, exact.message(7, "JPY"))
    assert decided.state == manager_pb2.DISPUTE_STATE_PARTLY_UPHELD
    assert balance(tokyo, "credits") == nanos(third) + 7
    request = manager_pb2.ListDisputesRequest(page_size=2)
    page = client.call(accounts(tokyo, ACME).ListDisputes, request)
    assert [each.dispute_id for each in page.disputes] == [part.dispute_id, rest.dispute_id]
    request.page_token = page.next_page_token
    page = client.call(accounts(tokyo, ACME).ListDisputes, request)
    assert page.disputes == [upheld]
    assert not page.next_page_token


def test_a_payment_is_booked_once_and_shows_what_is_left(billed):
    tokyo = billed.tokyo
    (invoice,) = invoices(tokyo)

    def pay(payment_id: str, amount: int, payer: str = "tenant:acme", **more: bool):
        request = manager_pb2.RecordPaymentRequest(
            payment_id=payment_id,
            payer=payer,
            amount=exact.message(amount, "JPY"),
            reference=invoice.number,
            **more,
        )
        return client.call(accounts(tokyo, OPERATOR).RecordPayment, request)

    part, payment = 100 * 10**9, new_id()
    first = pay(payment, part)
    assert pay(payment, part) == first
    assert nanos(first.left) == nanos(invoice.total) - part
    assert balance(tokyo, "cash") == part
    assert refused(pay, payment, part + 1).reason == "ID_REUSED"
    assert refused(pay, payment, part, "tenant:globex").reason == "ID_REUSED"
    for payer in ("acme", "tenant:", "peer:NOT A DOMAIN", "x" * 1000):
        assert refused(pay, new_id(), 1, payer).reason == "INVALID_FIELD"
    assert refused(pay, new_id(), 0).reason == "INVALID_FIELD"
    assert nanos(pay(new_id(), part, f"peer:{OSAKA}", outgoing=True).left) == -part
    told = [each for each in tokyo.audit() if each.action == "payment.recorded"]
    assert [each.details["amount"] for each in told] == ["100 JPY", "100 JPY"]


def test_a_version_of_the_price_sheet_is_public_final_and_never_of_the_past(world):
    tokyo = world.tokyo
    later = (world.first + timedelta(days=14)).isoformat()
    discounts = [
        {"payer": "tenant:acme", "percent": "10"},
        {"payer": f"peer:{OSAKA}", "percent": "20"},
    ]
    document = sheet(2, later, discounts=discounts)
    recorded = put(tokyo, document)
    assert put(tokyo, document) == recorded
    assert refused(put, tokyo, sheet(2, later)).reason == "ID_REUSED"
    past = (world.first - timedelta(days=1)).isoformat()
    for wrong in (
        sheet(3, past),
        sheet(3, later, currency="EUR"),
        "{}",
        "[",
        sheet(3, later, "-1"),
    ):
        assert refused(put, tokyo, wrong).reason == "INVALID_FIELD"
    assert refused(put, tokyo, " " * (1024 * 1024 + 1)).reason == "INVALID_FIELD"
    assert refused(put, tokyo, document, ACME).reason == "NOT_ALLOWED"
    seen = {
        OPERATOR: ["tenant:acme", f"peer:{OSAKA}"],
        ACME: ["tenant:acme"],
        "user/globex": [],
        OSAKAS_MANAGER: [f"peer:{OSAKA}"],
        f"spiffe://{OSAKA}/user/acme": [],
    }
    for party, payers in seen.items():
        request = manager_pb2.GetPriceSheetRequest(version=2)
        found = client.call(accounts(tokyo, party).GetPriceSheet, request).sheet
        assert [each["payer"] for each in json.loads(found.document)["discounts"]] == payers
    current = client.call(
        accounts(tokyo, ACME).GetPriceSheet, manager_pb2.GetPriceSheetRequest()
    ).sheet
    assert (current.version, current.in_effect) == (1, True)
    listed = client.call(
        accounts(tokyo, ACME).ListPriceSheets, manager_pb2.ListPriceSheetsRequest(page_size=1)
    )
    assert [(each.version, each.document) for each in listed.sheets] == [(2, "")]
    missing = manager_pb2.GetPriceSheetRequest(version=9)
    assert refused(client.call, accounts(tokyo, ACME).GetPriceSheet, missing).reason == (
        "RECORD_NOT_FOUND"
    )
    assert [each.action for each in tokyo.audit()].count("price_sheet.recorded") == 1


def test_what_was_used_costs_what_the_version_of_then_says(world):
    tokyo = world.tokyo
    world.tell(tokyo, "APPEARED", running=False)
    world.tell(tokyo, "STARTED", running=True)
    middle = world.first + timedelta(days=14)
    put(tokyo, sheet(2, middle.isoformat(), "9", taxes=[{"name": "VAT", "percent": "10"}]))
    world.end()
    issue(tokyo, world.label)
    (invoice,) = invoices(tokyo)
    old, new = [each for each in invoice.lines if each.component == "vcpu"]
    assert (old.price_version, new.price_version) == (1, 2)
    assert old.end_at == new.start_at
    assert new.start_at.ToSeconds() == int(middle.timestamp())
    seconds = int((world.after - middle).total_seconds())
    assert nanos(new.amount) == exact.divided(2 * seconds * 9 * 10**9, 3600)
    (tax,) = [each for each in invoice.lines if each.kind == manager_pb2.INVOICE_LINE_KIND_TAX]
    assert nanos(tax.amount) == exact.divided(nanos(new.amount), 10)


def test_what_is_told_late_is_a_correction_on_the_next_invoice(billed):
    tokyo = billed.tokyo
    (first,) = invoices(tokyo)
    owed = balance(tokyo, "receivable:tenant:acme")
    billed.tell(tokyo, "STOPPED", running=False, late_of=28)
    request = manager_pb2.CorrectMonthRequest(
        correction_id=new_id(), period=billed.label, reason="the host was away"
    )
    corrected = client.call(accounts(tokyo, OPERATOR).CorrectMonth, request, timeout_seconds=30)
    entries = [each for each in booked(tokyo) if each.kind == "correction"]
    assert entries, "by the call, or by the accounts a moment before"
    if corrected.entries:
        assert nanos(corrected.amount) < 0
    change = balance(tokyo, "receivable:tenant:acme") - owed
    assert change < 0
    assert invoices(tokyo) == [first], "what was issued stays"
    this = f"{billed.after:%Y-%m}"
    billed.clock.go_to((billed.after + timedelta(days=32)).replace(day=1) + timedelta(hours=1))
    eventually(lambda: closed(tokyo, this), "it closes")
    issue(tokyo, this)
    second = next(each for each in invoices(tokyo) if each.period == this)
    assert nanos(second.correction) == change
    assert {each.period for each in second.lines if each.period} == {billed.label}
    assert balance(tokyo, "receivable:tenant:acme") == nanos(first.total) + nanos(second.total)
    page = export(tokyo, second.number, "HTML")
    assert "Corrections of earlier invoices" in page
    assert json.loads(export(tokyo, second.number, "JSON"))["corrections"]


def test_what_is_told_after_the_close_and_before_the_issue_is_in_the_lines_once(world):
    tokyo = world.tokyo
    world.tell(tokyo, "APPEARED", running=False)
    world.tell(tokyo, "STARTED", running=True)
    world.end()
    world.tell(tokyo, "STOPPED", running=False, late_of=12)
    stub = accounts(tokyo, OPERATOR)
    asked = manager_pb2.ListLedgerEntriesRequest(kind="correction")
    eventually(
        lambda: bool(client.call(stub.ListLedgerEntries, asked).entries), "the ledger is corrected"
    )
    issue(tokyo, world.label)
    (invoice,) = invoices(tokyo)
    assert not nanos(invoice.correction)
    assert line(invoice, "vcpu").end_at.ToSeconds() == int(world.first.timestamp()) + 11 * 86_400
    assert balance(tokyo, "receivable:tenant:acme") == nanos(invoice.total)
    this = f"{world.after:%Y-%m}"
    world.clock.go_to((world.after + timedelta(days=32)).replace(day=1) + timedelta(hours=1))
    eventually(lambda: closed(tokyo, this), "it closes")
    issue(tokyo, this)
    assert not any(nanos(each.correction) for each in invoices(tokyo)), "nor on the next one"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_postings SET units = units + 1 WHERE sequence = 2",
        "UPDATE ledger_entries SET description = 'other' WHERE sequence = 2",
        "DELETE FROM ledger_entries WHERE sequence = 2",
    ],
)
def test_what_somebody_changed_in_the_database_is_found(billed, change):
    tokyo = billed.tokyo
    last = booked(tokyo)
    with opened(tokyo) as engine, engine.begin() as connection:
        with pytest.raises(sa.exc.DatabaseError, match="appended"), connection.begin_nested():
            connection.execute(sa.text(change))
        for name in ("ledger_entries", "ledger_postings"):
            if engine.dialect.name == "sqlite":
                connection.execute(sa.text(f"DROP TRIGGER {name}_no_update"))
                connection.execute(sa.text(f"DROP TRIGGER {name}_no_delete"))
            else:
                connection.execute(sa.text(f"DROP TRIGGER {name}_no_change ON {name}"))
        connection.execute(sa.text(change))
    stub = accounts(tokyo, OPERATOR)
    error = refused(client.call, stub.VerifyLedger, manager_pb2.VerifyLedgerRequest())
    assert (type(error), error.reason) == (errors.DataLoss, "LEDGER_CHAIN_BROKEN")
    assert error.metadata["sequence"] == "2"
    assert error.metadata["fault"] == ("missing" if change.startswith("DELETE") else "altered")
    assert len(last) > 2


def test_a_ledger_that_was_cut_off_is_found_by_a_head_that_was_kept(billed):
    tokyo = billed.tokyo
    stub = accounts(tokyo, OPERATOR)
    head = client.call(stub.VerifyLedger, manager_pb2.VerifyLedgerRequest())
    kept = manager_pb2.VerifyLedgerRequest(noted_sequence=head.sequence, noted_hash=head.hash)
    assert client.call(stub.VerifyLedger, kept) == head
    kept.noted_sequence += 1
    error = refused(client.call, stub.VerifyLedger, kept)
    assert (error.reason, error.metadata["fault"]) == ("LEDGER_CHAIN_BROKEN", "cut_off")
    kept.noted_sequence, kept.noted_hash = 2, b"x" * 32
    error = refused(client.call, stub.VerifyLedger, kept)
    assert (error.metadata["sequence"], error.metadata["fault"]) == ("2", "replaced")


def test_the_ledger_is_listed_by_pages_and_filters(billed):
    tokyo = billed.tokyo
    entries = booked(tokyo)
    stub = accounts(tokyo, OPERATOR)
    found = []
    request = manager_pb2.ListLedgerEntriesRequest(page_size=2)
    while page := client.call(stub.ListLedgerEntries, request).entries:
        found += page
        request.after_sequence = page[-1].sequence
    assert [each.booking_id for each in found] == [each.entry_id for each in entries]
    assert all(sum(nanos(side.amount) for side in each.postings) == 0 for each in found)
    kinds = manager_pb2.ListLedgerEntriesRequest(kind="rounding", account="rounding")
    assert {each.kind for each in client.call(stub.ListLedgerEntries, kinds).entries} == {
        "rounding"
    }
    for party in (ACME, OSAKAS_MANAGER):
        denied = refused(client.call, accounts(tokyo, party).ListLedgerEntries, request)
        assert denied.reason == "NOT_ALLOWED"


def test_a_month_that_nobody_issued_for_long_is_issued_before_those_after_it(world):
    tokyo = world.tokyo
    world.tell(tokyo, "APPEARED", running=False)
    world.end()
    world.clock.go_to((world.after + timedelta(days=32)).replace(day=1) + timedelta(hours=1))
    this = f"{world.after:%Y-%m}"
    eventually(lambda: closed(tokyo, this), "the month after closes too")

    tokyo.stop()
    tokyo.change(accounts=replace(tokyo.settings.accounts, seal_seconds=1.0))
    tokyo.start()

    def sealed() -> bool:
        with opened(tokyo) as engine, engine.connect() as connection:
            states = sa.text("SELECT state FROM book_months ORDER BY period")
            return connection.execute(states).scalars().all()[:2] == ["sealed", "sealed"]

    eventually(sealed, "both are sealed")
    error = refused(issue, tokyo, this)
    assert (error.reason, error.metadata["period"]) == ("PERIOD_OPEN", world.label)
    assert issue(tokyo, world.label).issued == 1
    assert issue(tokyo, this).issued == 1
    first, second = invoices(tokyo)[::-1]
    assert not nanos(second.correction)
    assert line(second, "disk"), "of a machine that was here when the month began"
    assert balance(tokyo, "receivable:tenant:acme") == nanos(first.total) + nanos(second.total)
