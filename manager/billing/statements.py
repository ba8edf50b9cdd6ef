"""Settlements as the contract's messages, and what they say back as values. Pure."""

from collections.abc import Iterable, Sequence

from manager.accounting import exact
from manager.accounting.settlement import Claim, Compared, Opened, Owed, Statement
from watari import money
from watari.v1 import common_pb2, manager_pb2

CHARGES_SHOWN_MAX = 1000
"""Charges that a claim lists, and as many that are disputed."""

OPENED_SHOWN_MAX = 100
"""Disputes that a claim lists. All lists together stay below a message's 4 MiB."""


def message(found: Statement, peer_cloud: str) -> manager_pb2.Settlement:
    """A statement, without the disputes that were opened."""
    return manager_pb2.Settlement(
        statement_id=found.statement_id,
        period=found.month.label,
        peer_cloud=peer_cloud,
        receivable=_claim(found.receivable, found.currency),
        payable=_claim(found.payable, found.currency),
        net=exact.message(found.net_nanos, found.currency),
    )


def show_opened(
    shown: manager_pb2.Settlement,
    receivable: Sequence[manager_pb2.Dispute],
    payable: Sequence[manager_pb2.Dispute],
) -> None:
    """Add how disputes stand now, newest first."""
    shown.receivable.opened.extend(receivable[:OPENED_SHOWN_MAX])
    shown.payable.opened.extend(payable[:OPENED_SHOWN_MAX])


def without_charges(netted: manager_pb2.Settlement) -> manager_pb2.Settlement:
    """What the other side needs of a statement that was booked."""
    found = manager_pb2.Settlement()
    found.CopyFrom(netted)
    for claim in (found.receivable, found.payable):
        claim.ClearField("charges")
    return found


def listed(owed: Owed, currency: str) -> list[manager_pb2.OwedCharge]:
    """What is owed, by charge."""
    return [
        manager_pb2.OwedCharge(
            charge_id=charge_id,
            description=due.description,
            amount=exact.message(due.nanos, currency),
            price_version=due.terms.version,
            quote_ids=due.terms.quotes,
        )
        for charge_id, due in sorted(owed.items())
        if due.nanos
    ]


def opened(found: Iterable[manager_pb2.Dispute]) -> list[Opened]:
    """Disputes, as far as they count for a statement."""
    return [
        Opened(
            each.charge_id,
            _nanos(each.amount),
            each.opened_at.ToMicroseconds(),
            _nanos(each.credited) if each.HasField("credited") else 0,
            each.decided_at.ToMicroseconds() if each.HasField("decided_at") else 0,
        )
        for each in found
    ]


def _nanos(amount: common_pb2.Money) -> int:
    return int(money.to_decimal(amount).scaleb(9))


def _claim(of: Claim, currency: str) -> manager_pb2.SettlementClaim:
    disputes = of.disputes
    return manager_pb2.SettlementClaim(
        creditor=of.creditor,
        debtor=of.debtor,
        billed=exact.message(of.billed_nanos, currency),
        agreed=exact.message(of.agreed_nanos, currency),
        charges_agreed=len(of.charges) - len(disputes),
        charges_disputed=len(disputes),
        disputes=[_charge(each, currency) for each in disputes[:CHARGES_SHOWN_MAX]],
        charges=[_charge(each, currency) for each in of.charges[:CHARGES_SHOWN_MAX]],
    )


def _charge(of: Compared, currency: str) -> manager_pb2.SettlementDispute:
    return manager_pb2.SettlementDispute(
        charge_id=of.charge_id,
        description=of.description,
        billed=exact.message(of.billed_nanos, currency),
        expected=exact.message(of.expected_nanos, currency),
        price_version=of.terms.version,
        quote_ids=of.terms.quotes,
        held=exact.message(of.held_nanos, currency),
    )
