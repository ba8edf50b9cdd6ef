"""Settlement between two real managers: both compute the same statement and net it once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager.settings.store import StoreSettings
from tests.conftest import HUB, OSAKA, TOKYO
from tests.support import databases
from tests.support.billing_world import (
    OPERATOR,
    Months,
    accounts,
    balance,
    booked,
    invoices,
    issue,
    months,
    nanos,
    net,
    new_id,
    opened,
    refused,
    settle,
)
from watari import errors
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

OTHER_VM = "6f1f2d2e-0000-4000-8000-0000000000d2"


@pytest.fixture
def world(database: StoreSettings, tmp_path: Path) -> Iterator[Months]:
    """acme's web-1 is at osaka for two weeks, osaka's tenant bob has a machine at tokyo for three
    days; both months are over, and issued by nobody.
    """
    other = databases.sqlite(tmp_path / "osaka.sqlite")
    with months(tmp_path / "world", (database, other)) as made:
        tokyo, osaka = made.tokyo, made.osaka
        osaka.agent.add(OTHER_VM, "bobs", tenant="bob")
        made.tell(tokyo, "APPEARED", running=False)
        made.tell(tokyo, "STARTED", running=True)
        made.day(6)
        made.move(tokyo, osaka)
        made.day(9)
        made.tell(osaka, "STOPPED", running=False)
        made.day(10)
        made.tell(osaka, "STARTED", running=True)
        migration = osaka.migrate(OTHER_VM, "tokyo").migration_id
        osaka.wait_state(migration, "SUCCEEDED")
        made.day(13)
        back = tokyo.migrate(OTHER_VM, "osaka").migration_id
        tokyo.wait_state(back, "SUCCEEDED")
        made.day(20)
        made.move(osaka, tokyo)
        made.end()
        yield made


def test_both_compute_the_same_statement_and_net_it_once(world):
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    assert refused(net, tokyo, "osaka", label).reason == "PERIOD_OPEN"
    issue(tokyo, label)
    assert refused(net, tokyo, "osaka", label).reason == "PERIOD_OPEN", "osaka has not issued"
    issue(osaka, label)
    ours, theirs = settle(tokyo, "osaka", label), settle(osaka, "tokyo", label)
    assert ours.settlement.statement_id == theirs.settlement.statement_id
    assert ours.settlement.receivable == theirs.settlement.payable
    assert ours.settlement.payable == theirs.settlement.receivable
    assert nanos(ours.net) == -nanos(theirs.net) < 0
    for claim in (ours.settlement.receivable, ours.settlement.payable):
        assert claim.charges_disputed == 0
        assert claim.agreed == claim.billed
        assert claim.charges_agreed >= 3
        assert nanos(claim.billed) > 0
    assert ours.receivable.payer == f"peer:{OSAKA}"
    assert ours.payable.payer == f"peer:{TOKYO}"
    before = {
        cloud.cloud_id: balance(cloud, f"receivable:peer:{peer}")
        for cloud, peer in ((tokyo, OSAKA), (osaka, TOKYO))
    }
    first = net(tokyo, "osaka", label)
    second = net(osaka, "tokyo", label)
    assert first.HasField("netted_at")
    assert (first.receivable, first.payable) == (second.payable, second.receivable)
    entries = booked(tokyo), booked(osaka)
    assert (net(tokyo, "osaka", label), net(osaka, "tokyo", label)) == (first, second)
    assert settle(tokyo, "osaka", label).settlement == first
    assert (booked(tokyo), booked(osaka)) == entries
    # What tokyo is owed is netted as a whole; what osaka is owed is left less that.
    rounding = before["tokyo"] - nanos(first.receivable.agreed)
    assert abs(rounding) <= 10**9 // 2
    assert balance(tokyo, f"receivable:peer:{OSAKA}") == rounding
    left = nanos(first.payable.agreed) - nanos(first.receivable.agreed)
    assert balance(tokyo, f"payable:peer:{OSAKA}") == -left
    assert balance(tokyo, f"purchases:peer:{OSAKA}") == nanos(first.payable.agreed)
    assert balance(osaka, f"payable:peer:{TOKYO}") == 0
    assert balance(osaka, f"receivable:peer:{TOKYO}") == before["osaka"] - nanos(
        first.receivable.agreed
    )
    payment = manager_pb2.RecordPaymentRequest(
        payment_id=new_id(),
        payer=f"peer:{OSAKA}",
        amount=common_pb2.Money(currency_code="JPY", units=left // 10**9, nanos=left % 10**9),
        outgoing=True,
    )
    told = client.call(accounts(tokyo, OPERATOR).RecordPayment, payment)
    assert nanos(told.left) == 0
    assert [each.action for each in tokyo.audit()].count("settlement.netted") == 1


def test_an_hour_that_was_billed_too_much_becomes_disputes_at_both(world):
    """osaka's record of when web-1 left is moved by an hour: it bills longer than tokyo knows."""
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    with opened(osaka) as engine, engine.begin() as connection:
        rows = connection.execute(sa.text("SELECT sequence, record FROM usage_records")).all()
        for sequence, record in rows:
            told = manager_pb2.UsageRecord.FromString(record)
            if told.kind == manager_pb2.USAGE_KIND_LEFT and told.vm_name == "web-1":
                told.occurred_at.seconds += 3600
                connection.execute(
                    sa.text("UPDATE usage_records SET record = :record WHERE sequence = :number"),
                    {"record": told.SerializeToString(), "number": sequence},
                )
    issue(tokyo, label)
    issue(osaka, label)
    ours, theirs = settle(tokyo, "osaka", label), settle(osaka, "tokyo", label)
    claim = ours.settlement.payable
    assert claim == theirs.settlement.receivable
    assert claim.charges_disputed >= 2
    assert nanos(claim.agreed) < nanos(claim.billed)
    for each in claim.disputes:
        assert nanos(each.billed) > nanos(each.expected) > 0
    first, second = net(osaka, "tokyo", label), net(tokyo, "osaka", label)
    assert first.receivable == second.payable == claim
    wanted = sum(nanos(each.billed) - nanos(each.expected) for each in claim.disputes)
    assert balance(osaka, f"disputed:peer:{TOKYO}") == wanted
    found = client.call(
        accounts(osaka, f"spiffe://{TOKYO}/manager/main").ListDisputes,
        manager_pb2.ListDisputesRequest(open_only=True),
    ).disputes
    assert sum(nanos(each.amount) for each in found) == wanted
    for each in found:
        request = manager_pb2.DecideDisputeRequest(
            dispute_id=each.dispute_id, credited=each.amount, reason="our clock was wrong"
        )
        client.call(accounts(osaka, OPERATOR).DecideDispute, request)
    assert balance(osaka, f"disputed:peer:{TOKYO}") == 0
    assert balance(osaka, "credits") == wanted


def test_what_is_between_two_providers_is_nobody_elses(world):
    tokyo, label = world.tokyo, world.label
    hub, own = f"spiffe://{HUB}/manager/main", f"spiffe://{TOKYO}/manager/main"
    stub = accounts(tokyo, hub)
    billed = manager_pb2.ListBilledChargesRequest(period=label)
    assert not client.call(stub.ListBilledCharges, billed).charges
    events = manager_pb2.ListBilledEventsRequest(period=label)
    assert not client.call(stub.ListBilledEvents, events).events
    expected = manager_pb2.ListExpectedChargesRequest(period=label, cloud_id="osaka")
    assert refused(client.call, stub.ListExpectedCharges, expected).reason == "NOT_ALLOWED"
    assert refused(settle, tokyo, "osaka", label, hub).reason == "NOT_ALLOWED"
    assert refused(settle, tokyo, "osaka", label, provider_domain=HUB).reason == "NOT_ALLOWED"
    for party in (own, OPERATOR, "user/acme"):
        call = accounts(tokyo, party).ListBilledEvents
        assert refused(client.call, call, events).reason == "NOT_ALLOWED"
    # osaka's manager reads what was done with its own tenants' machines only.
    osaka = accounts(tokyo, f"spiffe://{OSAKA}/manager/main")
    found, events = [], manager_pb2.ListBilledEventsRequest(period=label, page_size=1)
    while True:
        page = client.call(osaka.ListBilledEvents, events)
        found += page.events
        events.page_token = page.next_page_token
        if not events.page_token:
            break
    assert {each.tenant for each in found} == {"bob"}
    assert [each.kind for each in found] == ["arrived", "departed"]


def test_a_month_that_is_not_over_and_a_cloud_that_is_not_there_are_refused(world):
    this = f"{world.after:%Y-%m}"
    assert refused(settle, world.tokyo, "osaka", this).reason == "PERIOD_OPEN"
    assert refused(settle, world.tokyo, "kyoto", world.label).reason == "CLOUD_NOT_FOUND"
    world.osaka.stop()
    assert isinstance(refused(settle, world.tokyo, "osaka", world.label), errors.Unavailable)


def test_what_was_netted_otherwise_over_there_is_not_netted_here(world):
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    issue(tokyo, label)
    issue(osaka, label)
    net(tokyo, "osaka", label)
    world.tell(osaka, "STOPPED", running=False, late_of=8.5)
    request = manager_pb2.CorrectMonthRequest(
        correction_id=new_id(), period=label, reason="told late"
    )
    client.call(accounts(osaka, OPERATOR).CorrectMonth, request, timeout_seconds=30)
    assert refused(net, osaka, "tokyo", label).reason == "SETTLEMENT_DIFFERS"
    assert invoices(osaka)[0].period == label
    assert booked(osaka)
