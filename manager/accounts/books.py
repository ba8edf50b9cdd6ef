"""Brings the accounts up to date: meters, rates, closes months, posts, corrects.

Everything is read in one snapshot and rated outside of any transaction; what comes of it is
written in short ones. Each may be the last before a crash: the next run finds out from the ledger
itself what is still to be posted, as a charge has one id however often it is rated.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sqlalchemy.engine import Connection

from manager.accounting import booking, exact, metering, periods, rating
from manager.accounting import rows as ledger_rows
from manager.accounting.events import Event
from manager.accounting.ledger import Entry
from manager.accounting.metering import Holding, Metered
from manager.accounting.periods import Month
from manager.accounting.price_sheet import PriceBook
from manager.accounting.rating import Rated
from manager.accounts import facts, openings, rows
from manager.accounts.facts import Cloud, Fact, Problem, Told
from manager.accounts.rows import MonthRow, Positions, Run, State
from manager.settings.accounts import AccountSettings
from manager.store import Store, micros
from watari import errors, failpoint, logs
from watari.clock import Clock

AFTER_RATED = failpoint.declare("manager.accounts.after_rated")
IN_POST = failpoint.declare("manager.accounts.in_post")
AFTER_POST = failpoint.declare("manager.accounts.after_post")
AFTER_CLOSED = failpoint.declare("manager.accounts.after_closed")

POSTED_AT_ONCE_MAX = 200
"""Entries of one transaction: other writes wait for it, some 20 ms."""

MONTHS_MAX = 120
"""Months that one run goes through: a manager that was off for longer goes on with the next run."""

ENTRIES_PAGE = 1000
"""Entries of the ledger that one query reads."""

CONTEXT_MICROS = 3600 * 1_000_000
"""How much before a month its facts are read, so that a host whose clock is slow is understood."""

_UNFINISHED = frozenset({State.OPEN, State.CLOSING})

_log = logs.get(__name__)


@dataclass(frozen=True)
class _Snapshot:
    """What a run goes by."""

    book: PriceBook
    last: Run
    newest: Positions
    months: Sequence[MonthRow]
    facts: Sequence[Fact]
    """After the positions of the first month."""

    problems: Sequence[Problem]


@dataclass(frozen=True)
class _Worked:
    """A month, and what it comes to."""

    row: MonthRow
    rated: Rated


class Books:
    """The accounts of one cloud. From any thread."""

    def __init__(self, settings: AccountSettings, cloud: Cloud, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._cloud = cloud
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        """Held over what reads the ledger to post what is missing in it."""

    def book(self) -> None:
        """Bring the accounts up to date. Raises Unavailable while the database is away."""
        with self._turn:
            now = micros(self._clock.now())
            snapshot = self._read(now)
            worked, problems = self._work(snapshot, now)
            failpoint.hit(AFTER_RATED)
            for each in worked:
                self._post(each, now)
            self._finish(snapshot, worked, problems, now)

    def closed(self, period: str) -> Rated:
        """A month that is closed, as the ledger has it: what was told of it since is posted as a
        correction first, also when the month was sealed before its invoices were issued. Raises
        FailedPrecondition PERIOD_OPEN for one that is not closed, or is sealed and issued.
        """
        with self._turn:
            now = micros(self._clock.now())
            worked = self._closed(period)
            self._post(worked, now)
            return worked.rated

    def correct(self, period: str, correction_id: str, reason: str) -> list[Entry]:
        """Post what a closed month lacks under an id of the caller's; what was posted under it, by
        an earlier call too. Raises FailedPrecondition PERIOD_OPEN.
        """
        with self._turn:
            now = micros(self._clock.now())
            worked = self._closed(period)
            with self._store.read() as connection:
                posted = list(_of_period(connection, period))
            lacking = list(
                booking.corrections(
                    posted,
                    worked.rated,
                    correction_id=correction_id,
                    reason=reason,
                    booked_at=now,
                )
            )
            self._append(lacking)
        ids = {exact.identity(booking.CORRECTION, entry.subject, correction_id) for entry in posted}
        return [entry for entry in posted if entry.entry_id in ids] + lacking

    def _closed(self, period: str) -> _Worked:
        with self._store.read() as connection:
            book = ledger_rows.book(connection)
            known = {row.month.label: row for row in rows.months(connection)}
            row = known.get(period)
            if row is not None and row.state is State.SEALED:
                if ledger_rows.is_issued(connection, period):
                    raise _not_closed(period, row, self._settings.close_seconds)
                row = replace(row, opening=rows.opening(connection, period))
            elif row is None or row.state is not State.CLOSED:
                raise _not_closed(period, row, self._settings.close_seconds)
            told = _known_pins(rows.facts(connection, row.after), book)
        metered, _ = self._meter(told, row, row.month.end)
        return _Worked(row, rating.rate(metered, book, row.month, self._cloud.cloud_id))

    def _read(self, now: int) -> _Snapshot:
        with self._store.read() as connection:
            book, last = ledger_rows.book(connection), rows.last_run(connection)
            newest, known = rows.newest(connection), rows.months(connection)
            new = list(rows.facts(connection, last.read))
            begun = self._first(known, new, now)
            told = list(rows.facts(connection, begun[0].after))
        unknown = {fact.fact_id for fact in told if fact.pin and not book.knows(fact.pin.version)}
        problems = [
            Problem(fact.vm_id, fact.fact_id, f"{fact.what.value} when its month was sealed")
            for fact in new
            if last.ran_at and fact.at < begun[0].month.start and fact.what in facts.CHANGES
        ]
        problems += [
            Problem(fact.vm_id, fact.fact_id, "its quote names a price sheet that is not there")
            for fact in told
            if fact.fact_id in unknown
        ]
        return _Snapshot(book, last, newest, begun, _known_pins(told, book), problems)

    def _first(self, known: Sequence[MonthRow], new: Iterable[Fact], now: int) -> list[MonthRow]:
        """The months to go through: from the earliest that something new was told of, or that is to
        be closed, on.
        """
        earliest = min((fact.at for fact in new), default=now)
        unsealed = [row for row in known if row.state is not State.SEALED]
        if not unsealed:
            begin = self._month_of(min(earliest, now))
            return [MonthRow(begin, State.OPEN, Positions(), "[]")]
        # One that is open or closing is followed by open ones only.
        for at, row in enumerate(unsealed):
            if row.state is not State.CLOSED or earliest < row.month.end:
                return unsealed[at:]
        return unsealed[-1:]

    def _work(self, snapshot: _Snapshot, now: int) -> tuple[list[_Worked], list[Problem]]:
        """Every month from the first to the present one, each beginning as the last one ended."""
        worked: list[_Worked] = []
        problems = list(snapshot.problems)
        known = {row.month.label: row for row in snapshot.months}
        row = snapshot.months[0]
        for _ in range(MONTHS_MAX):
            metered, found = self._meter(snapshot.facts, row, min(row.month.end, now))
            problems += found
            rated = rating.rate(metered, snapshot.book, row.month, self._cloud.cloud_id)
            worked.append(_Worked(row, rated))
            if now < row.month.end:
                break
            row = self._next(row, known, metered, snapshot)
        return worked, problems

    def _meter(
        self, told: Sequence[Fact], row: MonthRow, until: int
    ) -> tuple[Metered, list[Problem]]:
        """A month up to `until`. A machine that cannot be metered, though facts are made so that it
        can, is set aside.
        """
        opening = {each.vm_id: each for each in openings.from_json(row.opening)}
        recorded = [fact for fact in told if fact.at < until]
        found = facts.told(recorded, opening, since=row.month.start, cloud=self._cloud)
        try:
            return metering.meter(found.events, until, opening.values()), list(found.problems)
        except errors.WatariError:
            return _one_by_one(found, until, opening)

    def _next(
        self,
        row: MonthRow,
        known: dict[str, MonthRow],
        metered: Metered,
        snapshot: _Snapshot,
    ) -> MonthRow:
        """The month after, with what is here when it begins."""
        month = self._after(row.month)
        opening = openings.to_json(metered.held)
        found = known.get(month.label)
        if found is not None:
            return replace(found, opening=opening)
        after = _before(snapshot.facts, month.start - CONTEXT_MICROS, snapshot.newest)
        return MonthRow(month, State.OPEN, after, opening)

    def _post(self, worked: _Worked, now: int) -> None:
        """Post what a month that is over still lacks."""
        row, month = worked.row, worked.row.month
        if row.state is State.OPEN and now < month.end + _micros(self._settings.close_seconds):
            return
        if row.state is State.OPEN:
            with self._store.write() as connection:
                rows.put_month(connection, replace(row, state=State.CLOSING))
        with self._store.read() as connection:
            posted = list(_of_period(connection, month.label))
            head = ledger_rows.head(connection)
        if row.state in _UNFINISHED:
            known = {entry.entry_id for entry in posted}
            charges = booking.charges(worked.rated, now)
            lacking = [entry for entry in charges if entry.entry_id not in known]
            self._append(lacking)
            posted += lacking
        corrections = booking.corrections(
            posted,
            worked.rated,
            correction_id=f"late-{head.sequence}",
            reason="told of after the month was closed",
            booked_at=now,
        )
        self._append(corrections)
        failpoint.hit(AFTER_POST)
        if row.state in _UNFINISHED:
            with self._store.write() as connection:
                rows.set_state(connection, month.label, State.CLOSED, closed_at=now)
                rows.replace_totals(connection, month.label, {})
            _log.info("month closed", period=month.label, charges=len(worked.rated.lines))
            failpoint.hit(AFTER_CLOSED)

    def _append(self, entries: Iterable[Entry]) -> None:
        left = iter(entries)
        while part := list(islice(left, POSTED_AT_ONCE_MAX)):
            with self._store.write() as connection:
                ledger_rows.post(connection, part)
                failpoint.hit(IN_POST)

    def _finish(
        self, snapshot: _Snapshot, worked: Sequence[_Worked], problems: Sequence[Problem], now: int
    ) -> None:
        """Note how far the accounts are, in one transaction."""
        seal = _micros(self._settings.seal_seconds)
        with self._store.write() as connection:
            known = {row.month.label: row for row in rows.months(connection)}
            for each in worked:
                label = each.row.month.label
                current = replace(known.get(label, each.row), opening=each.row.opening)
                if current.state in _UNFINISHED:
                    rows.replace_totals(connection, label, totals(each.rated))
                if current != known.get(label):
                    rows.put_month(connection, current)
                known[label] = current
            for row in known.values():
                if row.state is State.CLOSED and now >= row.month.end + seal:
                    sealed = replace(row, state=State.SEALED)
                    if ledger_rows.is_issued(connection, row.month.label):
                        sealed = replace(sealed, opening="[]")
                    rows.put_month(connection, sealed)
            added = rows.add_problems(connection, problems, now)
            rows.write_run(connection, Run(now, snapshot.newest))
        for problem in added:
            _log.warning("usage does not add up", vm_id=problem.vm_id, problem=problem.words)

    def _after(self, month: Month) -> Month:
        """The next one; it begins where this one ends, also where the time zone was changed."""
        found = self._month_of(month.end)
        if found.label <= month.label:
            found = self._month_of(found.end)
        return replace(found, start=month.end)

    def _month_of(self, instant: int) -> Month:
        zone = self._settings.time_zone
        day = periods.moment(instant, zone)
        return periods.month(day.year, day.month, zone)


def totals(rated: Rated) -> dict[tuple[str, str], int]:
    """What each payer's tenants are charged, in nanos, before taxes."""
    found: dict[tuple[str, str], int] = {}
    for line in rated.lines:
        key = (line.payer, line.tenant)
        found[key] = found.get(key, 0) + line.net_nanos
    return found


def _before(told: Sequence[Fact], instant: int, newest: Positions) -> Positions:
    """The positions before the first facts of an instant or later."""
    later = [fact for fact in told if fact.at >= instant]
    records = [fact.position for fact in later if fact.what in facts.BY_RECORD]
    events = [fact.position for fact in later if fact.what not in facts.BY_RECORD]
    return Positions(
        min(records, default=newest.records + 1) - 1, min(events, default=newest.events + 1) - 1
    )


def _one_by_one(
    found: Told, until: int, opening: Mapping[str, Holding]
) -> tuple[Metered, list[Problem]]:
    by_machine: dict[str, list[Event]] = defaultdict(list)
    for event in found.events:
        by_machine[event.vm_id].append(event)
    whole, problems = Metered([], [], [], []), list(found.problems)
    for vm_id in sorted({*by_machine, *opening}):
        held = [opening[vm_id]] if vm_id in opening else []
        try:
            part = metering.meter(by_machine[vm_id], until, held)
        except errors.WatariError as error:
            problems.append(Problem(vm_id, error.metadata.get("event_id", ""), error.message))
            continue
        for name in ("intervals", "runs", "crossings", "held"):
            getattr(whole, name).extend(getattr(part, name))
    return whole, problems


def _of_period(connection: Connection, period: str) -> Iterator[Entry]:
    after = 0
    while found := ledger_rows.period(connection, period, after=after, limit=ENTRIES_PAGE):
        yield from (each.entry for each in found)
        after = found[-1].sequence


def _known_pins(told: Iterable[Fact], book: PriceBook) -> list[Fact]:
    """Facts without the pins whose version is not there."""
    return [
        replace(fact, pin=None) if fact.pin and not book.knows(fact.pin.version) else fact
        for fact in told
    ]


def _not_closed(period: str, row: MonthRow | None, close_seconds: float) -> errors.WatariError:
    if row is not None and row.state is State.SEALED:
        problem, hint = (
            "is sealed: nothing changes any more",
            "a payment or a dispute settles the rest",
        )
    elif row is None:
        problem, hint = "is no month of these accounts", "nothing was recorded in it"
    else:
        problem = "is not closed yet"
        hint = f"charges are posted {close_seconds / 86400:g} days after the month's end"
    return errors.FailedPrecondition("PERIOD_OPEN", f"{period} {problem}", hint=hint, period=period)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
