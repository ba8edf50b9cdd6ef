"""Disputes as the contract's messages. Pure."""

from manager.accounting import exact, invoices
from manager.accounting.ledger import Entry
from manager.billing import messages
from manager.billing.rows import DisputeRow
from watari.v1 import manager_pb2


def message(row: DisputeRow, entry: Entry) -> manager_pb2.Dispute:
    """A dispute with the entry that booked it."""
    amount = disputed_nanos(entry, row.payer)
    found = manager_pb2.Dispute(
        dispute_id=row.dispute_id,
        charge_id=row.charge_id,
        payer=row.payer,
        description=entry.description.removesuffix(f": {row.reason}"),
        period=entry.period,
        amount=exact.message(amount, entry.currency),
        reason=row.reason,
        opened_by=row.opened_by,
        opened_at=messages.timestamp(row.opened_at),
        state=_state_of(row, amount),
        decision_reason=row.decision_reason,
        decided_by=row.decided_by,
        decided_at=messages.timestamp(row.decided_at),
    )
    if row.credited_nanos is not None:
        found.credited.CopyFrom(exact.message(row.credited_nanos, entry.currency))
    return found


def disputed_nanos(entry: Entry, payer: str) -> int:
    """How much of a charge an entry disputes."""
    return -invoices.owed(entry, payer)


def state(row: DisputeRow, amount: int) -> str:
    """How a dispute of so much stands, in a word."""
    name: str = manager_pb2.DisputeState.Name(_state_of(row, amount))
    return name.removeprefix("DISPUTE_STATE_").lower()


def _state_of(row: DisputeRow, amount: int) -> "manager_pb2.DisputeState.ValueType":
    if row.credited_nanos is None:
        return manager_pb2.DISPUTE_STATE_OPEN
    if row.credited_nanos == amount:
        return manager_pb2.DISPUTE_STATE_UPHELD
    if row.credited_nanos == 0:
        return manager_pb2.DISPUTE_STATE_REJECTED
    return manager_pb2.DISPUTE_STATE_PARTLY_UPHELD
