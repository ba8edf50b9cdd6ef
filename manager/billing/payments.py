"""Payments: what came in from a payer, or went out to a provider. Each has its caller's id."""

from dataclasses import replace

from manager import audit
from manager.accounting import booking, exact, rows
from manager.accounting.ledger import Chained
from manager.billing import messages
from manager.store import Store, micros
from watari import errors, validate
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2


class Payments:
    """The payments of one cloud. From any thread."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def record(
        self, request: manager_pb2.RecordPaymentRequest, caller: SpiffeId
    ) -> tuple[Chained, common_pb2.Money]:
        """Book a payment; the entry, and what is still owed. Raises AlreadyExists ID_REUSED."""
        now = micros(self._clock.now())
        with self._store.write() as connection:
            currency = rows.book(connection).currency
            nanos = messages.nanos(request.amount, currency, "amount")
            if nanos <= 0:
                raise validate.invalid_field("amount", "is nothing", "more than 0")
            side = "payable:" if request.outgoing else booking.RECEIVABLE
            account = f"{side}{request.payer}"
            debit, credit = (account, "cash") if request.outgoing else ("cash", account)
            words = f"{'paid to' if request.outgoing else 'paid by'} {request.payer}"
            entry = booking.between(
                booking.PAYMENT,
                debit,
                credit,
                nanos,
                subject=request.payment_id,
                words=f"{words}: {request.reference}" if request.reference else words,
                currency=currency,
                booked_at=now,
            )
            known = rows.find(connection, limit=1, subject=request.payment_id)
            if known:
                if replace(entry, booked_at=known[0].entry.booked_at) != known[0].entry:
                    raise errors.AlreadyExists(
                        "ID_REUSED",
                        f"payment_id {request.payment_id} was used before with other content",
                        hint="make a new UUID",
                        field="payment_id",
                    )
            else:
                rows.post(connection, [entry])
                audit.append(
                    connection,
                    now,
                    actor=caller,
                    action="payment.recorded",
                    subject=request.payment_id,
                    details={
                        "payer": request.payer,
                        "amount": f"{exact.text(nanos)} {currency}",
                        "outgoing": request.outgoing,
                        "reference": request.reference,
                    },
                )
                known = rows.find(connection, limit=1, subject=request.payment_id)
            held = rows.held(connection, account, currency)
        return known[0], exact.message(-held if request.outgoing else held, currency)
