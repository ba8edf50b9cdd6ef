"""The cloud's price sheets, and what is charged by the one in effect.

The first is that of the settings (`[manager.prices]`); others are recorded by operators. A version
is recorded once and never changed: what a quote or a reservation names is what is charged.
"""

import threading
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.engine import Connection

from manager.accounting import rows as ledger_rows
from manager.accounting import sheet_documents
from manager.accounting.price_sheet import PriceBook, PriceSheet
from manager.settings.accounts import PriceSettings
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock


class Sheets:
    """The price sheets of one cloud. May be used from any thread."""

    def __init__(self, settings: PriceSettings, store: Store, clock: Clock) -> None:
        """Records the settings' sheet if it is new. Raises InvalidArgument CONFIG_INVALID when it
        contradicts those that are recorded.
        """
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._book = self._open(settings)

    @property
    def book(self) -> PriceBook:
        """All versions."""
        with self._lock:
            return self._book

    @property
    def currency(self) -> str:
        """In which the cloud charges."""
        return self.book.currency

    def current(self) -> PriceSheet:
        """The version in effect now."""
        return self.book.at(micros(self._clock.now()))

    def record(self, sheet: PriceSheet, note: Callable[[Connection], object] | None = None) -> None:
        """Keep a version for good; `note` is called in the transaction that does, if it is new.

        Raises Conflict ID_REUSED where it is there with other content, InvalidArgument
        INVALID_FIELD where it contradicts the others, or would change the past.
        """
        now = micros(self._clock.now())
        with self._store.write() as connection:
            known = ledger_rows.book(connection)
            if not known.knows(sheet.version) and sheet.effective_from < now:
                raise errors.InvalidArgument(
                    "INVALID_FIELD",
                    f"price sheet {sheet.version} would have been in effect already",
                    hint="what was used is never priced anew: let it begin later than now",
                    field="effective_from",
                )
            ledger_rows.record_sheet(connection, sheet, now)
            if note is not None and not known.knows(sheet.version):
                note(connection)
            book = ledger_rows.book(connection)
        with self._lock:
            self._book = book

    def _open(self, settings: PriceSettings) -> PriceBook:
        wanted = sheet_documents.from_settings(settings)
        now = micros(self._clock.now())
        with self._store.write() as connection:
            try:
                known = ledger_rows.book(connection)
            except errors.InvalidArgument:
                ledger_rows.record_sheet(connection, wanted, now)
                return ledger_rows.book(connection)
            if not known.knows(wanted.version):
                self._require_newer(known, wanted)
                ledger_rows.record_sheet(connection, replace(wanted, effective_from=now), now)
                return ledger_rows.book(connection)
            recorded = known.version(wanted.version)
            if replace(recorded, effective_from=0) != wanted:
                raise errors.InvalidArgument(
                    "CONFIG_INVALID",
                    f"manager.prices: version {wanted.version} was recorded with other prices",
                    hint="raise prices.version with every change of an amount",
                )
            return known

    @staticmethod
    def _require_newer(known: PriceBook, wanted: PriceSheet) -> None:
        newest = max(each.version for each in known.versions)
        try:
            PriceBook([*known.versions, replace(wanted, effective_from=2**62)])
        except errors.InvalidArgument:
            fits = False
        else:
            fits = True
        if wanted.version < newest or not fits:
            raise errors.InvalidArgument(
                "CONFIG_INVALID",
                f"manager.prices: version {wanted.version} in {wanted.currency} does not go with "
                f"recorded version {newest} in {known.currency}",
                hint="name the newest version or a later one, in the same currency",
            )
