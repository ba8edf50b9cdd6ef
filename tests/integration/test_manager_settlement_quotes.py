"""A quote is settled between two real managers at the version that it pins, whatever the price is
by then: both work it out alike, to the last nano.
"""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager.settings import StoreSettings
from tests.conftest import OSAKA, TOKYO
from tests.support import databases
from tests.support.billing_world import (
    GIB,
    OPERATOR,
    SIZE,
    Months,
    accounts,
    invoices,
    issue,
    months,
    nanos,
    net,
    new_id,
    opened,
    settle,
)
from tests.support.clouds import Cloud
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

QUOTED_DAY = 10
CHANGE = timedelta(minutes=30)
"""After the quote; it holds for an hour."""
FACTOR = 3
"""Prices are so much higher from then on."""
MONTH_HOURS = 730


@pytest.fixture
def world(database: StoreSettings, tmp_path: Path) -> Iterator[Months]:
    """web-1 runs at tokyo; nothing has moved."""
    other = databases.sqlite(tmp_path / "osaka.sqlite")
    with months(tmp_path / "world", (database, other)) as made:
        made.day(3)
        made.tell(made.tokyo, "APPEARED", running=False)
        made.tell(made.tokyo, "STARTED", running=True)
        yield made


def quoted(osaka: Cloud) -> common_pb2.SignedDocument:
    """osaka's quote for web-1."""
    request = manager_pb2.IssueQuoteRequest(
        quote_id=new_id(), resources=SIZE, tenant="acme", tenant_domain=TOKYO
    )
    return client.call(accounts(osaka, OPERATOR).IssueQuote, request).quote


def raise_prices(osaka: Cloud, moment: datetime) -> None:
    """All of osaka's prices are higher from a moment on."""
    stub = accounts(osaka, OPERATOR)
    found = client.call(stub.GetPriceSheet, manager_pb2.GetPriceSheetRequest()).sheet
    sheet = json.loads(found.document)
    sheet |= {"version": 2, "effective_from": moment.isoformat()}
    for component in sheet["components"]:
        for tier in component["tiers"]:
            whole = Fraction(tier["price"]) * FACTOR * 10**9
            tier["price"] = f"{int(whole) // 10**9}.{int(whole) % 10**9:09}"
    request = manager_pb2.PutPriceSheetRequest(document=json.dumps(sheet))
    client.call(stub.PutPriceSheet, request)


def stay_at_a_quoted_price(world: Months) -> manager_pb2.Quote:
    """web-1 goes to osaka with a quote; the price changes before it ends; the month ends."""
    world.day(QUOTED_DAY)
    quote = quoted(world.osaka)
    raise_prices(world.osaka, world.clock.now() + CHANGE)
    world.day(QUOTED_DAY + 1 / 72)
    world.move(world.tokyo, world.osaka, quote)
    world.day(QUOTED_DAY + 2)
    world.move(world.osaka, world.tokyo)
    world.end()
    issue(world.tokyo, world.label)
    issue(world.osaka, world.label)
    return manager_pb2.Quote.FromString(quote.payload)


def test_a_quoted_stay_is_settled_at_the_quoted_version_though_the_price_changed(world):
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    quote = stay_at_a_quoted_price(world)
    ours, theirs = (
        settle(tokyo, "osaka", label).settlement,
        settle(osaka, "tokyo", label).settlement,
    )
    assert (ours.payable, ours.receivable) == (theirs.receivable, theirs.payable)
    claim = ours.payable
    assert claim.creditor == OSAKA
    assert (claim.charges_disputed, claim.agreed) == (0, claim.billed)
    by_quote = {each.description for each in claim.charges if each.quote_ids}
    assert by_quote == {f"{each} of web-1" for each in ("disk", "memory", "vcpu", "migration in")}
    for each in claim.charges:
        assert each.price_version == (1 if each.quote_ids else 2)
        assert each.quote_ids in ([], [quote.quote_id])
    assert {each.description for each in claim.charges if not each.quote_ids} >= {
        f"{each} of web-1" for each in ("disk", "memory", "vcpu", "migration out")
    }

    # Held against the hand-over, the quote and the price, without any of the accounting.
    arrived = next(each for each in osaka.usage() if each.kind == manager_pb2.USAGE_KIND_ARRIVED)
    # On the grid of the component, which is a second.
    hours = Fraction(quote.expires_at.seconds - arrived.occurred_at.seconds, 3600)
    disk = next(e for e in claim.charges if e.quote_ids and e.description.startswith("disk"))
    gib_months = Fraction(SIZE.disk_bytes, GIB) * hours / MONTH_HOURS
    assert nanos(disk.billed) == nanos(disk.expected) == round(gib_months * 3_300_000_000)

    (invoice,) = [each for each in invoices(osaka) if each.payer == f"peer:{TOKYO}"]
    lines, charges = (
        {each.charge_id: (each.price_version, list(each.quote_ids)) for each in found}
        for found in ([line for line in invoice.lines if line.component], claim.charges)
    )
    assert lines == charges

    booked = net(tokyo, "osaka", label), net(osaka, "tokyo", label)
    assert booked[0].payable == booked[1].receivable == claim


def test_a_provider_that_charges_more_than_it_quoted_is_told_which_version_was_quoted(world):
    """osaka has forgotten that the machine came with a quote."""
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    world.day(QUOTED_DAY)
    quote = quoted(osaka)
    raise_prices(osaka, world.clock.now() + CHANGE)
    world.day(QUOTED_DAY + 1 / 72)
    world.move(tokyo, osaka, quote)
    with opened(osaka) as engine, engine.begin() as connection:
        ((reservation_id, request),) = connection.execute(
            sa.text("SELECT reservation_id, request FROM reservations")
        ).all()
        asked = manager_pb2.ReserveRequest.FromString(request)
        asked.ClearField("quote")
        connection.execute(
            sa.text("UPDATE reservations SET request = :request WHERE reservation_id = :id"),
            {"request": asked.SerializeToString(), "id": reservation_id},
        )
    world.end()
    issue(tokyo, label)
    issue(osaka, label)
    ours, theirs = (
        settle(tokyo, "osaka", label).settlement,
        settle(osaka, "tokyo", label).settlement,
    )
    claim = ours.payable
    assert claim == theirs.receivable
    (quote_id,) = {each for charge in claim.disputes for each in charge.quote_ids}
    assert quote_id == manager_pb2.Quote.FromString(quote.payload).quote_id
    vcpus = [each for each in claim.disputes if each.description == "vcpu of web-1"]
    assert {each.price_version for each in vcpus} == {1, 2}
    for each in vcpus:
        wanted_more = nanos(each.expected) > nanos(each.billed)
        assert wanted_more == (each.price_version == 1) == bool(each.quote_ids)
