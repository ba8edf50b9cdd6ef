"""Issues invoices, each once, and corrects months that were issued.

An invoice is what the ledger has of its payer's month: the month is rated, the ledger brought to
that, and the lines are those of the rating. What comes late is a correction, which the payer's next
invoice lists. Invoices are issued month by month, so that a correction is never due before what it
corrects.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from sqlalchemy.engine import Connection

from manager import audit
from manager.accounting import booking, exact, invoices, rows
from manager.accounting.invoices import Invoice, Party
from manager.accounting.ledger import Entry
from manager.accounting.rating import Rated
from manager.billing import messages
from manager.billing import rows as billed
from manager.settings.accounts import BillingSettings, PartySettings
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import SpiffeId

ISSUED_AT_ONCE_MAX = 50
"""Invoices of one transaction: other writes wait for it."""


class Months(Protocol):
    """What the cloud's accounts say of months."""

    def closed(self, period: str) -> Rated:
        """A month whose charges are posted, as the ledger has it. Raises FailedPrecondition
        PERIOD_OPEN.
        """

    def correct(self, period: str, correction_id: str, reason: str) -> list[Entry]:
        """Post what such a month lacks now; what was posted under that id, also earlier. Raises
        FailedPrecondition PERIOD_OPEN.
        """


class Invoicing:
    """The invoices of one cloud. From any thread."""

    def __init__(
        self, months: Months, settings: BillingSettings, store: Store, clock: Clock
    ) -> None:
        self._months = months
        self._settings = settings
        self._store = store
        self._clock = clock

    def issue(self, period: str, caller: SpiffeId) -> tuple[int, int, int]:
        """Issue a month: how many invoices by this call, how many there are, and since when.

        Whoever crashes in between is followed by a call that goes on. Raises FailedPrecondition
        PERIOD_OPEN.
        """
        with self._store.read() as connection:
            known = billed.issued_month(connection, period)
            earlier = billed.unissued_before(connection, period)
        if known is not None:
            return 0, known[1], known[0]
        if earlier is not None:
            raise errors.FailedPrecondition(
                "PERIOD_OPEN",
                f"{earlier} is not issued yet, so that {period} cannot be",
                hint="issue one month after another",
                period=earlier,
            )
        rated = self._months.closed(period)
        now = micros(self._clock.now())
        issued = 0
        payers = self._payers(rated)
        for at in range(0, len(payers), ISSUED_AT_ONCE_MAX):
            with self._store.write() as connection:
                issued += self._issue(
                    connection, rated, payers[at : at + ISSUED_AT_ONCE_MAX], now, caller
                )
        with self._store.write() as connection:
            known = billed.issued_month(connection, period)
            if known is None:
                count = len(billed.issued_payers(connection, period))
                billed.add_issued_month(connection, period, count, now)
                audit.append(
                    connection,
                    now,
                    actor=caller,
                    action="invoices.issued",
                    subject=period,
                    details={"invoices": count},
                )
                known = now, count
        return issued, known[1], known[0]

    def correct(
        self, period: str, correction_id: str, reason: str, caller: SpiffeId
    ) -> tuple[list[Entry], str]:
        """Correct a month that was issued; the entries of this id, and their currency."""
        with self._store.read() as connection:
            if billed.issued_month(connection, period) is None:
                raise errors.FailedPrecondition(
                    "PERIOD_OPEN",
                    f"{period} is not issued yet: there is nothing to correct",
                    hint="what is told of it until then is in its invoices",
                    period=period,
                )
            currency = rows.book(connection).currency
        posted = self._months.correct(period, correction_id, reason)
        if posted:
            with self._store.write() as connection:
                audit.append(
                    connection,
                    micros(self._clock.now()),
                    actor=caller,
                    action="month.corrected",
                    subject=period,
                    details={
                        "correction": correction_id,
                        "entries": len(posted),
                        "reason": reason,
                    },
                )
        return posted, currency

    def _payers(self, rated: Rated) -> Sequence[str]:
        """Who is charged in the month, and for whom something earlier was corrected."""
        with self._store.read() as connection:
            waiting = rows.not_invoiced(connection, booking.CORRECTION)
            done = billed.issued_payers(connection, rated.month.label)
        found = set(invoices.payers(rated))
        for entry in waiting:
            if entry.period < rated.month.label:
                found |= _receivers(entry)
        return sorted(found - done)

    def _issue(
        self,
        connection: Connection,
        rated: Rated,
        payers: Iterable[str],
        now: int,
        caller: SpiffeId,
    ) -> int:
        label = rated.month.label
        waiting = rows.not_invoiced(connection, booking.CORRECTION)
        done = billed.issued_payers(connection, label)
        count = 0
        for payer in payers:
            if payer in done:
                continue
            mine = [entry for entry in waiting if payer in _receivers(entry)]
            invoice = invoices.issue(
                rated,
                payer,
                issuer=_party(self._settings.issuer, rated.cloud_id),
                customer=self._customer(payer),
                issued_at=now,
                # Those of the month itself are in its lines already.
                corrections=[entry for entry in mine if entry.period < label],
            )
            covered = [entry.entry_id for entry in mine if entry.period <= label]
            self._record(connection, invoice, covered, now, caller)
            count += 1
        return count

    def _record(
        self,
        connection: Connection,
        invoice: Invoice,
        covered: Iterable[str],
        now: int,
        caller: SpiffeId,
    ) -> None:
        entry = invoices.rounding_entry(invoice)
        if entry is not None:
            rows.post(connection, [entry])
        rows.record_invoice(connection, invoice)
        billed.add_invoice(connection, messages.head(invoice), covered)
        audit.append(
            connection,
            now,
            actor=caller,
            action="invoice.issued",
            subject=invoice.number,
            details={
                "payer": invoice.payer,
                "period": invoice.month.label,
                "total": f"{exact.text(invoice.total_nanos)} {invoice.currency}",
            },
        )

    def _customer(self, payer: str) -> Party:
        _, _, name = payer.partition(":")
        return _party(self._settings.customers.get(payer, PartySettings()), name)


def _receivers(entry: Entry) -> set[str]:
    return {
        posting.account.removeprefix(booking.RECEIVABLE)
        for posting in entry.postings
        if posting.account.startswith(booking.RECEIVABLE)
    }


def _party(settings: PartySettings, name: str) -> Party:
    return Party(settings.name or name, settings.address, settings.tax_id)
