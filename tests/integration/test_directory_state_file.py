"""The state file of the embedded store: what is refused when it is opened, and what is not."""

import dataclasses
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from directory.records import Key
from directory.stores import Limits, versions
from directory.stores.embedded import EmbeddedStore
from directory.stores.versions import COMPACTION_SLACK
from tests.support.directory_samples import cloud, new_id, offer, publication
from watari import errors, failpoint
from watari.clock import FakeClock

LIMITS = Limits(5000, 3000, 3, 4, 600)


def open_store(path: Path) -> EmbeddedStore:
    return EmbeddedStore(path, LIMITS, FakeClock())


def refusal(path: Path) -> errors.WatariError:
    with pytest.raises(errors.InvalidArgument) as caught:
        open_store(path)
    assert caught.value.reason == "CONFIG_INVALID"
    assert str(path) in caught.value.message
    return caught.value


def test_a_file_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "directory.db"
    store = open_store(path)
    assert "another process uses it" in refusal(path).message
    store.close()
    open_store(path).close()


def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    path.write_bytes(b"not a database, and long enough to tell" * 100)
    before = path.read_bytes()
    refusal(path)
    refusal(path)
    assert path.read_bytes() == before


def test_a_file_of_another_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    open_store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    assert "schema version 99" in refusal(path).message


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refusal(tmp_path / "file" / "directory.db")


def test_a_failed_publish_leaves_the_store_usable(tmp_path: Path) -> None:
    store = open_store(tmp_path / "directory.db")
    lease = store.grant_lease(new_id(), "tokyo", "tokyo.example", 30).lease_id
    before, request = store.revision(), publication(lease, [cloud()])
    with (
        failpoint.armed("directory.store.before_commit", "1*error(FAILPOINT)"),
        pytest.raises(errors.Unavailable),
    ):
        store.publish(request)
    assert (store.revision(), store.get(Key.of(cloud().key))[0]) == (before, None)
    assert store.publish(request) == before + 1
    store.close()


def test_a_publish_whose_answer_was_lost_is_not_done_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path / "directory.db")
    lease = store.grant_lease(new_id(), "tokyo", "tokyo.example", 30).lease_id
    before, request = store.revision(), publication(lease, [cloud()])
    with (
        failpoint.armed("directory.store.after_commit", "1*error(FAILPOINT)"),
        pytest.raises(errors.Unavailable),
    ):
        store.publish(request)
    assert store.publish(request) == store.revision() == before + 1
    store.close()


def test_the_file_keeps_no_more_rows_than_present_records_and_history(tmp_path: Path) -> None:
    path, kept = tmp_path / "directory.db", 100
    store = EmbeddedStore(path, dataclasses.replace(LIMITS, changes_kept_max=kept), FakeClock())
    lease = store.grant_lease(new_id(), "tokyo", "tokyo.example", 30).lease_id
    for at in range(300):
        gone = [Key.of(offer(name=f"o{at - 1}").key)]
        store.publish(publication(lease, [offer(name=f"o{at}"), offer(name="always")], gone))
    store.close()
    with sqlite3.connect(path) as db:
        (rows,) = db.execute("SELECT COUNT(*) FROM versions").fetchone()
    db.close()
    # Each row that is not present is either a change that is kept or was superseded by one.
    assert rows <= 2 * (kept + kept // COMPACTION_SLACK + 3)


def test_no_statement_reads_the_whole_table_without_an_index(tmp_path: Path) -> None:
    path, statements = tmp_path / "directory.db", list[str]()
    store = open_store(path)
    store.close()
    with sqlite3.connect(path) as db:
        db.set_trace_callback(statements.append)
        key, now = Key.of(cloud().key), datetime.now(UTC)
        versions.apply(db, [versions.Write(key, cloud(), "lease")], now)
        versions.count(db, "tokyo")
        versions.some_kept_by(db, "lease")
        versions.some_stale_since(db, 5.0)
        versions.scan(db, 2, 1, "tokyo", None, 10)
        versions.changes(db, 1, 10)
        versions.compact(db, 0)
        db.set_trace_callback(None)
        for statement in statements:
            if " position " not in f"{statement} " and "BEGIN" not in statement:
                plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
                assert "SCAN versions" not in plan, statement
    db.close()
