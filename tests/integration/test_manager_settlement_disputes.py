"""Disputes of another provider's charges, between two real managers: both statements show them,
what is disputed is not netted, and the creditor decides.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.accounting import exact
from manager.settings import StoreSettings
from tests.conftest import OSAKA, TOKYO
from tests.support import databases
from tests.support.billing_world import (
    OPERATOR,
    Months,
    accounts,
    balance,
    issue,
    months,
    nanos,
    net,
    new_id,
    refused,
    settle,
)
from tests.support.clouds import Cloud
from watari import errors
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

PART = common_pb2.Money(currency_code="JPY", units=2)


@pytest.fixture
def world(database: StoreSettings, tmp_path: Path) -> Iterator[Months]:
    """acme's web-1 was at osaka for two weeks; both clouds have issued the month."""
    other = databases.sqlite(tmp_path / "osaka.sqlite")
    with months(tmp_path / "world", (database, other)) as made:
        made.there_and_back()
        for cloud in (made.tokyo, made.osaka):
            issue(cloud, made.label)
        yield made


def asked(charge_id: str, **more: object) -> manager_pb2.DisputeBilledChargeRequest:
    """What tokyo's operator asks."""
    fields = {"dispute_id": new_id(), "cloud_id": "osaka", "reason": "it stood still"}
    return manager_pb2.DisputeBilledChargeRequest(charge_id=charge_id, **(fields | more))  # type: ignore[arg-type]


def dispute(
    cloud: Cloud, request: manager_pb2.DisputeBilledChargeRequest, party: str = OPERATOR
) -> manager_pb2.Dispute:
    call = accounts(cloud, party).DisputeBilledCharge
    return client.call(call, request, timeout_seconds=60).dispute


def decide(
    cloud: Cloud, dispute_id: str, credited: common_pb2.Money | None = None
) -> manager_pb2.Dispute:
    request = manager_pb2.DecideDisputeRequest(
        dispute_id=dispute_id, credited=credited, reason="looked at"
    )
    return client.call(accounts(cloud, OPERATOR).DecideDispute, request).dispute


def claims(world: Months) -> tuple[manager_pb2.SettlementClaim, manager_pb2.SettlementClaim]:
    """What tokyo owes osaka, as either reads it."""
    ours = settle(world.tokyo, "osaka", world.label).settlement
    theirs = settle(world.osaka, "tokyo", world.label).settlement
    assert ours.statement_id == theirs.statement_id
    return ours.payable, theirs.receivable


def memory(claim: manager_pb2.SettlementClaim) -> manager_pb2.SettlementDispute:
    """A charge of some hundred yen."""
    return next(each for each in claim.charges if each.description == "memory of web-1")


def test_a_dispute_is_in_both_statements_and_is_not_netted_until_it_is_rejected(world):
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    before, _ = claims(world)
    charge = memory(before)
    request = asked(charge.charge_id, amount=PART)
    made = dispute(tokyo, request)
    assert (made.state, made.amount) == (manager_pb2.DISPUTE_STATE_OPEN, PART)
    assert (made.payer, made.period, made.description) == (
        f"peer:{TOKYO}",
        label,
        charge.description,
    )
    assert dispute(tokyo, request) == made, "told again"
    assert [each.action for each in tokyo.audit()].count("settlement.disputed") == 1
    assert balance(osaka, f"disputed:peer:{TOKYO}") == nanos(PART)
    stub = accounts(osaka, f"spiffe://{TOKYO}/manager/main")
    for period, found in ((label, [made]), ("", [made]), ("1999-01", [])):
        listed = client.call(stub.ListDisputes, manager_pb2.ListDisputesRequest(period=period))
        assert list(listed.disputes) == found

    ours, theirs = claims(world)
    assert ours == theirs
    assert list(ours.opened) == [made]
    (shown,) = ours.disputes
    assert (shown.charge_id, shown.held) == (charge.charge_id, PART)
    assert shown.billed == shown.expected == charge.billed
    assert (ours.charges_disputed, ours.charges_agreed) == (1, before.charges_agreed - 1)
    assert ours.billed == before.billed
    assert nanos(ours.agreed) == nanos(before.agreed) - nanos(PART)

    rejected = decide(osaka, made.dispute_id)
    ours, theirs = claims(world)
    assert ours == theirs
    assert list(ours.opened) == [rejected]
    assert (ours.charges_disputed, ours.agreed) == (0, before.agreed)


def test_what_is_disputed_when_a_month_is_netted_stays_out_and_what_comes_later_changes_nothing(
    world,
):
    tokyo, osaka, label = world.tokyo, world.osaka, world.label
    before, _ = claims(world)
    charge = memory(before)
    made = dispute(tokyo, asked(charge.charge_id, amount=PART))
    rounding = balance(osaka, f"receivable:peer:{TOKYO}") - (nanos(before.billed) - nanos(PART))
    first = net(osaka, "tokyo", label)
    assert nanos(first.receivable.agreed) == nanos(before.billed) - nanos(PART)
    # A further dispute, and a decision, after the creditor has netted.
    later = dispute(tokyo, asked(charge.charge_id, amount=PART, reason="and once more"))
    upheld = decide(osaka, made.dispute_id, PART)
    second = net(tokyo, "osaka", label)
    assert first.receivable == second.payable
    assert balance(tokyo, f"purchases:peer:{OSAKA}") == nanos(first.receivable.agreed)
    netted = min(nanos(first.receivable.agreed), nanos(first.payable.agreed))
    assert balance(osaka, f"receivable:peer:{TOKYO}") == (
        nanos(first.receivable.agreed) - netted + rounding - nanos(PART)
    )
    assert balance(osaka, f"disputed:peer:{TOKYO}") == nanos(PART)
    assert balance(osaka, "credits") == nanos(PART)
    # The statement is as it was booked; the disputes in it are as they stand.
    ours, theirs = claims(world)
    assert ours == theirs
    assert [(each.dispute_id, each.state) for each in ours.opened] == [
        (later.dispute_id, manager_pb2.DISPUTE_STATE_OPEN),
        (made.dispute_id, manager_pb2.DISPUTE_STATE_UPHELD),
    ]
    assert ours.opened[1] == upheld
    assert ours.agreed == first.receivable.agreed

    osaka.stop()
    alone = settle(tokyo, "osaka", label)
    assert alone.not_asked.retryable
    assert not alone.settlement.payable.opened
    assert alone.settlement.payable.charges == ours.charges


def test_a_dispute_that_cannot_be_opened_says_what_to_do_next(world):
    tokyo, osaka = world.tokyo, world.osaka
    claim, _ = claims(world)
    charge = memory(claim)
    too_much = asked(
        charge.charge_id, amount=common_pb2.Money(currency_code="JPY", units=10_000_000)
    )
    error = refused(dispute, tokyo, too_much)
    assert (error.reason, error.metadata["left"]) == (
        "DISPUTE_EXCEEDS_CHARGE",
        f"{exact.text(nanos(charge.billed))} JPY",
    )
    assert "watari settlement show osaka" in error.hint
    error = refused(dispute, tokyo, asked(new_id()))
    assert error.reason == "RECORD_NOT_FOUND"
    assert "--charges" in error.hint
    request = asked(charge.charge_id, amount=PART)
    dispute(tokyo, request)
    request.reason = "something else"
    assert refused(dispute, tokyo, request).reason == "ID_REUSED"
    assert refused(dispute, tokyo, asked(charge.charge_id, cloud_id="kyoto")).reason == (
        "CLOUD_NOT_FOUND"
    )
    assert refused(dispute, tokyo, asked(charge.charge_id, cloud_id="tokyo")).reason in (
        "NOT_ALLOWED",
        "CLOUD_NOT_FOUND",
    )
    for party in ("user/acme", f"spiffe://{OSAKA}/operator/main"):
        assert refused(dispute, tokyo, request, party).reason == "NOT_ALLOWED"
    osaka.stop()
    unreachable = refused(dispute, tokyo, asked(charge.charge_id))
    assert isinstance(unreachable, errors.Unavailable)
    assert [each.action for each in tokyo.audit()].count("settlement.disputed") == 1
