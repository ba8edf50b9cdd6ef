"""What is done to the file of an audit log behind its manager's back, and how it shows."""

import sqlite3
from collections.abc import Iterator

import pytest

from tests.support.audited import COLUMNS, USER, Clouds, listed, moved
from tests.support.clouds import Cloud, eventually
from watari import audit, errors
from watari.audit import Noted


@pytest.fixture
def written(clouds: Clouds) -> Iterator[tuple[Cloud, sqlite3.Connection]]:
    """tokyo after a migration, and its database."""
    moved(clouds)
    with clouds[0].database() as database:
        yield clouds[0], database


Written = tuple[Cloud, sqlite3.Connection]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET actor = 'nobody' WHERE sequence = 3",
        "UPDATE OR REPLACE audit_entries SET sequence = 3 WHERE sequence = 4",
        "DELETE FROM audit_entries WHERE sequence = 3",
        "DELETE FROM audit_entries",
        "INSERT OR REPLACE INTO audit_entries SELECT 3, {} FROM audit_entries",
        "INSERT INTO audit_entries SELECT 99, {} FROM audit_entries WHERE sequence = 3",
        "INSERT INTO audit_entries SELECT NULL, {} FROM audit_entries WHERE sequence = 3",
    ],
)
def test_the_database_refuses_all_but_appending(written: Written, statement: str) -> None:
    cloud, database = written
    before = cloud.audit()
    with pytest.raises(sqlite3.IntegrityError, match="audit entries are"):
        database.execute(statement.format(COLUMNS))
    assert cloud.audit() == before


def touch(database: sqlite3.Connection, statement: str) -> None:
    """What somebody does who can write to the file: the triggers are dropped first."""
    for each in ("in_order", "no_update", "no_delete"):
        database.execute(f"DROP TRIGGER audit_entries_{each}")
    database.execute(statement)
    database.commit()


def fault(cloud: Cloud, noted: Noted | None = None) -> tuple[str, int]:
    """What verifying finds."""
    with pytest.raises(errors.DataLoss) as caught:
        audit.verify(listed(cloud, page_size=1000).entries, noted=noted)
    assert caught.value.reason == "AUDIT_CHAIN_BROKEN"
    return caught.value.metadata["fault"], int(caught.value.metadata["sequence"])


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'spiffe://tokyo.example/user/somebody'",
        "actor = x'ff'",
        "action = 'migration.other'",
        "subject = ''",
        "outcome = 2",
        "outcome = 'x'",
        "occurred_at = occurred_at + 1",
        "occurred_at = 'never'",
        "details = '{}'",
        "details = 'no json'",
        "details = '[1]'",
        "details = replace(details, 'HANDED', 'TAKEN')",
        "details = printf('{\"a\": \"%.*c\"}', 9000000, 'x')",
        "previous_hash = zeroblob(32)",
        "hash = zeroblob(32)",
        "hash = 'x'",
    ],
)
def test_a_changed_row_is_found_whatever_stands_there_now(written: Written, change: str) -> None:
    cloud, database = written
    touch(database, f"UPDATE audit_entries SET {change} WHERE sequence = 6")  # noqa: S608
    assert fault(cloud) == ("altered", 6)


def test_a_removed_row_is_found(written: Written) -> None:
    cloud, database = written
    touch(database, "DELETE FROM audit_entries WHERE sequence = 3")
    assert fault(cloud) == ("missing", 3)


def test_rows_that_changed_places_are_found(written: Written) -> None:
    cloud, database = written
    touch(database, "UPDATE audit_entries SET sequence = -sequence WHERE sequence IN (3, 4)")
    database.execute("UPDATE audit_entries SET sequence = 7 + sequence WHERE sequence < 0")
    database.commit()
    assert fault(cloud) == ("altered", 3)


def test_a_removed_end_is_found_with_a_head_that_was_noted_even_when_it_grew_again(
    written: Written,
) -> None:
    cloud, database = written
    last = cloud.audit()[-1]
    noted = Noted(last.sequence, last.hash)
    touch(database, "DELETE FROM audit_entries WHERE sequence > 5")
    audit.verify(cloud.audit())  # Alone it does not show.
    assert fault(cloud, noted) == ("cut_off", 6)
    assert fault(cloud, Noted(hash=last.hash)) == ("cut_off", 6)
    for _ in range(5):
        with pytest.raises(errors.Denied):
            listed(cloud, USER)
    cloud.stop()
    cloud.start()
    eventually(lambda: cloud.audit()[-1].sequence == last.sequence, "it has grown again")
    assert fault(cloud, noted) == ("replaced", last.sequence)


def test_a_log_that_was_touched_is_still_read_and_appended_to(written: Written) -> None:
    cloud, database = written
    touch(database, "UPDATE audit_entries SET hash = 5, details = 7 WHERE sequence = 8")
    with pytest.raises(errors.Denied):
        listed(cloud, USER)
    eventually(lambda: listed(cloud).last_sequence == 9, "it is written down")
    assert fault(cloud) == ("altered", 8)


# ---- docs/audit.md, carried out by somebody who has nothing of ours but the page ----
