"""Settlements as messages: bounded, and what another provider says of them is checked."""

import pytest

from manager.accounting import periods, settlement
from manager.accounting.settlement import Claim, Compared, Opened, Terms
from manager.billing import other_side, statements
from watari import errors
from watari.rpc import MESSAGE_BYTES_MAX
from watari.v1 import common_pb2, manager_pb2

MARCH = periods.month(2026, 3, "UTC")
QUOTE = "3f6f1d3e-0000-4000-8000-000000000001"


def money(units: int, currency: str = "EUR") -> common_pb2.Money:
    return common_pb2.Money(currency_code=currency, units=units)


def dispute(**more: object) -> manager_pb2.Dispute:
    """The longest that a manager has."""
    fields = {
        "dispute_id": QUOTE,
        "charge_id": QUOTE,
        "payer": f"peer:{'p' * 253}",
        "description": "ö" * 200,
        "period": "2026-03",
        "amount": money(5),
        "reason": "r" * 256,
        "opened_by": "s" * 512,
        "decision_reason": "r" * 256,
        "decided_by": "s" * 512,
    }
    return manager_pb2.Dispute(**(fields | more))  # type: ignore[arg-type]


def test_the_largest_statement_fits_into_a_message_with_its_first_charges_and_disputes() -> None:
    most = 2**62
    charges = tuple(
        Compared(f"{number:036}", "ö" * 200, most, -most, Terms(2**32, (QUOTE,) * 8), most)
        for number in range(statements.CHARGES_SHOWN_MAX + 1)
    )
    one, other = Claim("a.example", "b.example", charges), Claim("b.example", "a.example", charges)
    shown = statements.message(settlement.statement(MARCH, "EUR", one, other), "b")
    many = [dispute()] * (statements.OPENED_SHOWN_MAX + 1)
    statements.show_opened(shown, many, many)
    for claim in (shown.receivable, shown.payable):
        assert claim.charges_disputed == statements.CHARGES_SHOWN_MAX + 1
        assert len(claim.disputes) == len(claim.charges) == statements.CHARGES_SHOWN_MAX
        assert len(claim.opened) == statements.OPENED_SHOWN_MAX
    assert shown.ByteSize() < MESSAGE_BYTES_MAX
    fewer = statements.without_charges(shown)
    assert not fewer.payable.charges
    assert shown.payable.charges, "only the copy is without"


def test_disputes_count_with_what_was_credited_and_when() -> None:
    decided = dispute(credited=money(2))
    decided.opened_at.FromMicroseconds(10)
    decided.decided_at.FromMicroseconds(20)
    undecided = dispute()
    undecided.opened_at.FromMicroseconds(11)
    assert statements.opened([decided, undecided]) == [
        Opened(QUOTE, 5 * 10**9, 10, 2 * 10**9, 20),
        Opened(QUOTE, 5 * 10**9, 11),
    ]


def test_the_longest_dispute_of_another_provider_is_taken() -> None:
    assert other_side.checked(dispute(credited=money(5)), "EUR").amount == money(5)


@pytest.mark.parametrize(
    "told",
    [
        dispute(amount=money(-5)),
        dispute(credited=money(6)),
        dispute(credited=money(-1)),
        dispute(amount=money(5, "JPY")),
        dispute(reason="r" * other_side.DISPUTE_BYTES_MAX),
    ],
    ids=["below zero", "credits more", "credits below zero", "another currency", "too long"],
)
def test_a_dispute_that_makes_no_sense_is_refused(told: manager_pb2.Dispute) -> None:
    with pytest.raises(errors.InvalidArgument):
        other_side.checked(told, "EUR")
