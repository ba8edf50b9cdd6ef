"""The accounting in a database: written once, in one transaction, and never changed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from manager.accounting import booking, ledger, rows, tables
from manager.accounting.ledger import Entry, Ledger
from tests.support import accounting_samples as samples
from tests.support.accounting_world import sheets
from watari import errors
from watari.audit import START


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = sa.create_engine(f"sqlite:///{tmp_path / 'accounting.sqlite'}")
    tables.metadata.create_all(found, tables=tables.TABLES)
    yield found
    found.dispose()


def charges() -> list[Entry]:
    return list(booking.charges(samples.rated(), 5))


def test_the_ledger_in_the_database_is_the_one_in_memory(engine: Engine) -> None:
    booked = Ledger()
    booked.post(charges())
    with engine.begin() as connection:
        assert rows.head(connection) == START
        assert rows.post(connection, charges()) == len(booked.chained)
        assert tuple(rows.everything(connection, page_size=3)) == booked.chained
        assert rows.balances(connection) == ledger.balances(booked)
        assert rows.head(connection) == ledger.verify(rows.everything(connection))
        assert rows.period(connection, "2026-03", limit=500) == list(booked.chained)
        assert rows.period(connection, "2026-04", limit=500) == []


def test_a_run_that_crashed_leaves_nothing_and_one_that_is_repeated_adds_nothing(
    engine: Engine,
) -> None:
    with engine.connect() as connection:
        rows.post(connection, charges()[:5])
        connection.rollback()
    with engine.begin() as connection:
        assert rows.head(connection) == START
        assert rows.post(connection, charges()[:5]) == 5
    for added in (len(charges()) - 5, 0):
        with engine.begin() as connection:
            assert (
                rows.post(connection, [replace(each, booked_at=9) for each in charges()]) == added
            )
    with engine.begin() as connection:
        assert ledger.verify(rows.everything(connection)).sequence == len(charges())


def test_amounts_beyond_64_bits_of_nanos_are_kept_and_summed_exactly(engine: Engine) -> None:
    large = (2**63 - 1) * 10**9 - 1
    entry = booking.between(
        "payment", "cash", "rounding", large, subject="s", words="w", currency="EUR", booked_at=0
    )
    with engine.begin() as connection:
        rows.post(connection, [entry])
        assert rows.balances(connection) == {("EUR", "cash"): large, ("EUR", "rounding"): -large}
        assert next(rows.everything(connection)).entry == entry


def test_an_entry_with_a_known_id_and_another_content_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        rows.post(connection, charges())
        with pytest.raises(errors.Conflict):
            rows.post(connection, [replace(charges()[0], description="other")])


@pytest.mark.parametrize("table", [table.name for table in tables.TABLES])
def test_the_database_refuses_changes_and_removals(engine: Engine, table: str) -> None:
    with engine.begin() as connection:
        rows.post(connection, charges())
        rows.record_sheet(connection, sheets(5)[0], 1)
        rows.record_invoice(connection, samples.invoice())
        for each in tables.BILLING:
            values = {column.name: _sample(column) for column in each.columns}
            connection.execute(each.insert().values(**values))
    of = tables.metadata.tables[table]
    same = {of.columns[1]: of.columns[1]}
    for statement in (of.update().values(same), of.delete()):
        with pytest.raises(sa.exc.DatabaseError, match="appended"), engine.begin() as connection:
            connection.execute(statement)


def _sample(column: sa.Column[object]) -> object:
    kind = column.type
    return b"x" if isinstance(kind, sa.LargeBinary) else "x" if isinstance(kind, sa.String) else 1


@pytest.mark.parametrize("change", [{"units": 77}, {"nanos": 1}, {"account": "x"}])
def test_what_somebody_changed_in_the_file_is_found(
    engine: Engine, change: dict[str, object]
) -> None:
    with engine.begin() as connection:
        rows.post(connection, charges())
        connection.execute(sa.text("DROP TRIGGER ledger_postings_no_update"))
        of = tables.ledger_postings
        where = sa.and_(of.c.sequence == 2, of.c.position == 0)
        connection.execute(of.update().where(where).values(change))
        with pytest.raises(errors.DataLoss) as caught:
            ledger.verify(rows.everything(connection))
    assert (caught.value.metadata["fault"], caught.value.metadata["sequence"]) == ("altered", "2")


def test_price_sheets_are_kept_and_never_replaced(engine: Engine) -> None:
    one, two = sheets(1000)
    with engine.begin() as connection:
        with pytest.raises(errors.InvalidArgument):
            rows.book(connection)
        for sheet in (one, two, one):
            rows.record_sheet(connection, sheet, 7)
        found = rows.book(connection)
        assert [found.at(instant) for instant in (999, 1000)] == [one, two]
        with pytest.raises(errors.Conflict):
            rows.record_sheet(connection, replace(two, taxes=()), 8)
        other = replace(one, version=3, currency="JPY", effective_from=2000)
        with pytest.raises(errors.InvalidArgument):
            rows.record_sheet(connection, other, 8)


def test_an_invoice_is_kept_as_it_was_first_issued(engine: Engine) -> None:
    first = samples.invoice()
    with engine.begin() as connection:
        rows.record_invoice(connection, first)
        document = rows.invoice_document(connection, first.invoice_id)
        rows.record_invoice(connection, replace(first, issued_at=first.issued_at + 1))
        assert rows.invoice_document(connection, first.invoice_id) == document
        with pytest.raises(errors.Conflict):
            rows.record_invoice(connection, replace(first, rounding_nanos=0))
        assert rows.invoice_document(connection, "other") is None
