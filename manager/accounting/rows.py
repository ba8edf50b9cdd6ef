"""Ledger, price sheets and invoices in the manager's database, in the caller's transaction.

Every write may be repeated: what is there as it is to be is left alone, and what is there otherwise
is refused. The caller's transaction must be one that no other writer runs beside, as `Store.write`
is, or fail when two append at once: the sequence is the primary key.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from manager.accounting import exact, ledger, rendering, sheet_documents, tables
from manager.accounting.invoices import Invoice
from manager.accounting.ledger import Chained, Entry, Posting
from manager.accounting.price_sheet import PriceBook, PriceSheet
from watari import errors
from watari.audit import START, Head

KNOWN_IDS_MAX = 500
"""Ids that one query asks for: far below what any database binds."""

_ENTRIES = tables.ledger_entries.c
_POSTINGS = tables.ledger_postings.c
_SHEETS = tables.price_sheets.c
_INVOICES = tables.invoices.c


def post(connection: Connection, entries: Iterable[Entry]) -> int:
    """Append the entries that are not there yet; how many were. Raises Conflict ID_REUSED."""
    wanted = list(entries)
    count = 0
    last = head(connection)
    for at in range(0, len(wanted), KNOWN_IDS_MAX):
        part = wanted[at : at + KNOWN_IDS_MAX]
        ids = [entry.entry_id for entry in part]
        known = {
            each.entry.entry_id: each.entry
            for each in _select(connection, _ENTRIES.entry_id.in_(ids), KNOWN_IDS_MAX)
        }
        new = []
        for entry in part:
            if entry.entry_id in known:
                ledger.require_same(known[entry.entry_id], entry)
                continue
            known[entry.entry_id] = entry
            new.append(ledger.chain(last, entry))
            last = ledger.head_of(new[-1])
        _insert(connection, new)
        count += len(new)
    return count


def head(connection: Connection) -> Head:
    """The newest entry's number and hash; those of START while there is none."""
    query = sa.select(_ENTRIES.sequence, _ENTRIES.hash).order_by(_ENTRIES.sequence.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return START if row is None else Head(row.sequence, bytes(row.hash))


def page(connection: Connection, *, after: int, limit: int) -> list[Chained]:
    """Entries after a sequence number, oldest first."""
    return _select(connection, _ENTRIES.sequence > after, limit)


def everything(
    connection: Connection, page_size: int = 1000, *, after: int = 0
) -> Iterator[Chained]:
    """The whole ledger after a sequence number, a page at a time: for `ledger.verify`, exports."""
    while found := page(connection, after=after, limit=page_size):
        yield from found
        after = found[-1].sequence


def period(connection: Connection, label: str, *, after: int = 0, limit: int) -> list[Chained]:
    """Entries of a billing month after a sequence number, oldest first."""
    where = sa.and_(_ENTRIES.period == label, _ENTRIES.sequence > after)
    return _select(connection, where, limit)


def find(
    connection: Connection,
    *,
    after: int = 0,
    limit: int,
    period: str = "",
    kind: str = "",
    subject: str = "",
    account: str = "",
) -> list[Chained]:
    """Entries after a sequence number, oldest first; empty filters take all."""
    where = [_ENTRIES.sequence > after]
    for column, wanted in (
        (_ENTRIES.period, period),
        (_ENTRIES.kind, kind),
        (_ENTRIES.subject, subject),
    ):
        if wanted:
            where.append(column == wanted)
    if account:
        touching = sa.select(_POSTINGS.sequence).where(_POSTINGS.account == account)
        where.append(_ENTRIES.sequence.in_(touching))
    return _select(connection, sa.and_(*where), limit)


def every(
    connection: Connection, *, period: str = "", subject: str = "", account: str = ""
) -> Iterator[Entry]:
    """All entries that `find` finds, a page at a time."""
    after = 0
    while found := find(
        connection, after=after, limit=1000, period=period, subject=subject, account=account
    ):
        yield from (each.entry for each in found)
        after = found[-1].sequence


def entries(connection: Connection, entry_ids: Iterable[str]) -> dict[str, Entry]:
    """Entries by id; those that are there."""
    wanted, found = list(entry_ids), {}
    for at in range(0, len(wanted), KNOWN_IDS_MAX):
        part = wanted[at : at + KNOWN_IDS_MAX]
        for each in _select(connection, _ENTRIES.entry_id.in_(part), KNOWN_IDS_MAX):
            found[each.entry.entry_id] = each.entry
    return found


def not_invoiced(connection: Connection, kind: str) -> list[Entry]:
    """Entries of a kind that no invoice has, oldest first."""
    known = sa.select(tables.invoice_corrections.c.entry_id)
    found: list[Entry] = []
    after = 0
    while page := _select(
        connection,
        sa.and_(_ENTRIES.kind == kind, _ENTRIES.sequence > after, _ENTRIES.entry_id.not_in(known)),
        1000,
    ):
        found += [each.entry for each in page]
        after = page[-1].sequence
    return found


def account_page(
    connection: Connection,
    *,
    prefix: str = "",
    only: Sequence[str] | None = None,
    after: tuple[str, str] = ("", ""),
    limit: int,
) -> list[tuple[str, str, int]]:
    """Currency, account and what it holds in nanos, in that order, after a position; `only` are
    the accounts that may be seen at all.
    """
    query = (
        sa.select(
            _ENTRIES.currency,
            _POSTINGS.account,
            sa.func.sum(_POSTINGS.units),
            sa.func.sum(_POSTINGS.nanos),
        )
        .join(tables.ledger_entries, _ENTRIES.sequence == _POSTINGS.sequence)
        .where(sa.tuple_(_ENTRIES.currency, _POSTINGS.account) > sa.tuple_(*after))
        .group_by(_ENTRIES.currency, _POSTINGS.account)
        .order_by(_ENTRIES.currency, _POSTINGS.account)
        .limit(limit)
    )
    if prefix:
        query = query.where(_POSTINGS.account.startswith(prefix, autoescape=True))
    if only is not None:
        query = query.where(_POSTINGS.account.in_(only))
    return [
        (currency, account, int(units) * exact.NANOS + int(nanos))
        for currency, account, units, nanos in connection.execute(query)
    ]


def held(connection: Connection, account: str, currency: str) -> int:
    """What one account holds, in nanos."""
    query = (
        sa.select(sa.func.sum(_POSTINGS.units), sa.func.sum(_POSTINGS.nanos))
        .join(tables.ledger_entries, _ENTRIES.sequence == _POSTINGS.sequence)
        .where(_POSTINGS.account == account, _ENTRIES.currency == currency)
    )
    units, nanos = connection.execute(query).one()
    return int(units or 0) * exact.NANOS + int(nanos or 0)


def balances(connection: Connection) -> dict[tuple[str, str], int]:
    """What each account holds, by currency and account, in nanos, summed up by the database."""
    query = (
        sa.select(
            _ENTRIES.currency,
            _POSTINGS.account,
            sa.func.sum(_POSTINGS.units),
            sa.func.sum(_POSTINGS.nanos),
        )
        .join(tables.ledger_entries, _ENTRIES.sequence == _POSTINGS.sequence)
        .group_by(_ENTRIES.currency, _POSTINGS.account)
    )
    return {
        (currency, account): int(units) * exact.NANOS + int(nanos)
        for currency, account, units, nanos in connection.execute(query)
    }


def record_sheet(connection: Connection, sheet: PriceSheet, now: int) -> None:
    """Keep a version for good.

    Raises Conflict ID_REUSED where the version is there with other content, and InvalidArgument
    INVALID_FIELD where it contradicts the others.
    """
    document = sheet_documents.to_json(sheet)
    query = sa.select(_SHEETS.document).where(_SHEETS.version == sheet.version)
    known = connection.scalar(query)
    if known is not None:
        if known != document:
            raise exact.reused("price sheet", str(sheet.version))
        return
    PriceBook([*_sheets(connection), sheet])
    connection.execute(
        tables.price_sheets.insert().values(
            version=sheet.version,
            effective_from=sheet.effective_from,
            document=document,
            recorded_at=now,
        )
    )


def book(connection: Connection) -> PriceBook:
    """All versions. Raises InvalidArgument INVALID_FIELD while there is none."""
    return PriceBook(_sheets(connection))


def sheet_page(connection: Connection, *, before: int, limit: int) -> list[tuple[PriceSheet, int]]:
    """Versions below a number with when they were recorded, the highest first."""
    query = sa.select(_SHEETS.document, _SHEETS.recorded_at).where(_SHEETS.version < before)
    found = connection.execute(query.order_by(_SHEETS.version.desc()).limit(limit))
    return [(sheet_documents.from_json(row.document), row.recorded_at) for row in found]


def is_issued(connection: Connection, period: str) -> bool:
    """Whether all invoices of a month are issued."""
    months = tables.issued_months.c.period
    return connection.scalar(sa.select(months).where(months == period)) is not None


def record_invoice(connection: Connection, invoice: Invoice) -> None:
    """Keep an invoice as it was issued, for good. Raises Conflict ID_REUSED for another content.

    When it was issued may differ: the first time stays.
    """
    document = rendering.to_json(invoice)
    query = sa.select(_INVOICES.document).where(_INVOICES.invoice_id == invoice.invoice_id)
    known = connection.scalar(query)
    if known is None:
        connection.execute(
            tables.invoices.insert().values(
                invoice_id=invoice.invoice_id,
                number=invoice.number,
                payer=invoice.payer,
                period=invoice.month.label,
                document=document,
                issued_at=invoice.issued_at,
            )
        )
    elif _undated(known) != _undated(document):
        raise exact.reused("invoice", invoice.number)


def invoice_document(connection: Connection, invoice_id: str) -> str | None:
    """The JSON of an invoice as it was issued."""
    query = sa.select(_INVOICES.document).where(_INVOICES.invoice_id == invoice_id)
    return connection.scalar(query)


def _sheets(connection: Connection) -> list[PriceSheet]:
    query = sa.select(_SHEETS.document).order_by(_SHEETS.version)
    return [sheet_documents.from_json(document) for document in connection.scalars(query)]


def _undated(document: str) -> object:
    return {**json.loads(document), "issued_at": "", "due_at": ""}


def _insert(connection: Connection, new: Sequence[Chained]) -> None:
    if not new:
        return
    entries, postings = [], []
    for each in new:
        entry = each.entry
        entries.append(
            {
                "sequence": each.sequence,
                "entry_id": entry.entry_id,
                "kind": entry.kind,
                "subject": entry.subject,
                "description": entry.description,
                "currency": entry.currency,
                "booked_at": entry.booked_at,
                "period": entry.period,
                "start_at": entry.start,
                "end_at": entry.end,
                "refers_to": entry.refers_to,
                "previous_hash": each.previous_hash,
                "hash": each.hash,
            }
        )
        for position, posting in enumerate(entry.postings):
            units, nanos = divmod(abs(posting.nanos), exact.NANOS)
            sign = -1 if posting.nanos < 0 else 1
            postings.append(
                {
                    "sequence": each.sequence,
                    "position": position,
                    "account": posting.account,
                    "units": sign * units,
                    "nanos": sign * nanos,
                }
            )
    connection.execute(tables.ledger_entries.insert(), entries)
    connection.execute(tables.ledger_postings.insert(), postings)


def _select(connection: Connection, where: sa.ColumnElement[bool], limit: int) -> list[Chained]:
    query = sa.select(tables.ledger_entries).where(where).order_by(_ENTRIES.sequence).limit(limit)
    rows = connection.execute(query).all()
    if not rows:
        return []
    sequences = [row.sequence for row in rows]
    postings: dict[int, list[Posting]] = {}
    for at in range(0, len(sequences), KNOWN_IDS_MAX):
        part = sequences[at : at + KNOWN_IDS_MAX]
        found = connection.execute(
            sa.select(tables.ledger_postings)
            .where(_POSTINGS.sequence.in_(part))
            .order_by(_POSTINGS.sequence, _POSTINGS.position)
        )
        for row in found:
            nanos = row.units * exact.NANOS + row.nanos
            postings.setdefault(row.sequence, []).append(Posting(row.account, nanos))
    return [_chained(row, postings.get(row.sequence, [])) for row in rows]


def _chained(row: Row[tuple[object, ...]], postings: Sequence[Posting]) -> Chained:
    try:
        entry = Entry(
            entry_id=row.entry_id,
            kind=row.kind,
            subject=row.subject,
            description=row.description,
            currency=row.currency,
            postings=tuple(postings),
            booked_at=row.booked_at,
            period=row.period,
            start=row.start_at,
            end=row.end_at,
            refers_to=row.refers_to,
        )
    except errors.InvalidArgument as error:
        raise ledger.broken(row.sequence, "altered") from error
    return Chained(row.sequence, entry, bytes(row.previous_hash), bytes(row.hash))
