"""What the manager's store promises, on each database that it may have."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import audit, tables
from manager.settings.store import StoreSettings
from manager.statements import Ask, Told
from manager.store import Store
from watari import errors
from watari.audit import verify

WAIT_SECONDS_MAX = 60.0


@pytest.fixture
def store(database: StoreSettings) -> Iterator[Store]:
    opened = Store(replace(database, write_wait_seconds_max=0.3))
    yield opened
    opened.close()


@pytest.fixture
def patient(database: StoreSettings) -> Iterator[Store]:
    """Waits long enough for whoever is in front."""
    opened = Store(database)
    yield opened
    opened.close()


def note(connection: Connection, subject: str) -> None:
    """Something that is written."""
    audit.append(connection, 1, actor="a", action="b", subject=subject)


def noted(store: Store) -> list[str]:
    """What was written, in order; the chain is sound."""
    with store.read() as connection:
        entries = audit.page(connection, after=0, limit=10_000)
    verify(entries)
    return [entry.subject for entry in entries]


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as connection:
            note(connection, "one")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert noted(store) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["begin", "asking", "block"])
def test_a_write_that_is_interrupted_leaves_neither_rows_nor_a_transaction_nor_the_turn(
    store: Store, where: str, interruption: type[BaseException]
) -> None:
    class Interrupted:
        """A guard whose question never comes."""

        def require_in_time(self) -> None:
            pass

        @property
        def question(self) -> list[Ask]:
            raise interruption

        def require_held(self, told: Sequence[Told]) -> None:
            raise AssertionError

    def asking() -> list[Ask]:
        if where == "asking":
            raise interruption
        return []

    def write() -> None:
        with store.write_asking(asking) as (connection, _):
            note(connection, "one")
            raise interruption

    with store.write() as connection:
        note(connection, "before")
    store.guard = Interrupted() if where == "begin" else None
    with pytest.raises(interruption):
        write()
    store.guard = None
    assert store._database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with store.write() as connection:
        note(connection, "after")
    assert noted(store) == ["before", "after"]


def test_a_reader_sees_one_snapshot_and_blocks_no_writer(store: Store) -> None:
    count = sa.select(sa.func.count()).select_from(tables.audit_entries)
    with store.read() as connection:
        assert connection.scalar(count) == 0
        with store.write() as writer:
            note(writer, "one")
        assert connection.scalar(count) == 0
    assert noted(store) == ["one"]


def test_a_writer_that_cannot_begin_is_refused_as_overload(store: Store) -> None:
    with store.write(), pytest.raises(errors.Unavailable) as caught, store.write():
        pass
    assert caught.value.reason == "SERVER_UNAVAILABLE"
    assert caught.value.retryable
    with store.write() as connection:
        note(connection, "one")
    assert noted(store) == ["one"]


def test_writes_that_wait_share_a_commit_and_the_one_that_fails_takes_no_other_with_it(
    patient: Store,
) -> None:
    """The first holds its turn until all others stand behind it: then they are one transaction."""
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with patient.write() as connection:
            note(connection, "first")
            inside.set()
            assert go_on.wait(WAIT_SECONDS_MAX)

    def other(number: int) -> object:
        with patient.write() as connection:
            note(connection, str(number))
            if number % 3 == 0:
                raise RuntimeError
            return connection

    with ThreadPoolExecutor(12) as pool:
        leading = pool.submit(first)
        assert inside.wait(WAIT_SECONDS_MAX)
        others = [pool.submit(other, number) for number in range(9)]
        while len(patient._turns._waiting) < len(others):
            assert not leading.done()
        assert noted(patient) == []
        go_on.set()
        leading.result()
        failed = {number for number, each in enumerate(others) if each.exception() is not None}
    assert failed == {0, 3, 6}
    shared = {each.result() for number, each in enumerate(others) if number not in failed}
    assert len(shared) == 1, "they did not share one transaction"
    assert sorted(noted(patient)) == ["1", "2", "4", "5", "7", "8", "first"]


def test_what_shares_a_commit_that_fails_is_refused_as_a_whole(
    patient: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies while COMMIT is on its way: whoever asked has to ask again."""
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with patient.write() as connection:
            note(connection, "first")
            inside.set()
            assert go_on.wait(WAIT_SECONDS_MAX)

    def last() -> None:
        with patient.write() as connection:
            note(connection, "last")
            cut = connection.connection.driver_connection
            assert cut is not None
            cut.close() if hasattr(cut, "pgconn") else cut.rollback()

    with ThreadPoolExecutor(2) as pool:
        leading = pool.submit(first)
        assert inside.wait(WAIT_SECONDS_MAX)
        following = pool.submit(last)
        while not patient._turns._waiting:
            assert not leading.done()
        go_on.set()
        for each in (leading, following):
            assert isinstance(each.exception(), errors.Unavailable)
    with patient.write() as connection:
        note(connection, "afterwards")
    assert noted(patient) == ["afterwards"]


def test_a_write_that_cannot_join_those_before_it_takes_none_of_them_back_in_silence(
    patient: Store,
) -> None:
    """Its savepoint fails, and the one that there is belongs to the write before it."""
    inside, go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        with patient.write() as connection:
            note(connection, "first")
            inside.set()
            assert go_on.wait(WAIT_SECONDS_MAX)

    def write(subject: str) -> None:
        with patient.write() as connection:
            note(connection, subject)

    def fail_second(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SAVEPOINT"):
            seen.append(statement)
            if len(seen) == 2:
                raise sa.exc.OperationalError(statement, None, Exception("out of memory"))

    sa.event.listen(patient._database.engine, "before_cursor_execute", fail_second)
    with ThreadPoolExecutor(3) as pool:
        leading = pool.submit(first)
        assert inside.wait(WAIT_SECONDS_MAX)
        others = [pool.submit(write, "second")]
        while len(patient._turns._waiting) < 1:
            assert not leading.done()
        others.append(pool.submit(write, "third"))
        while len(patient._turns._waiting) < 2:
            assert not leading.done()
        go_on.set()
        for each in (leading, *others):
            assert isinstance(each.exception(), errors.Unavailable)
    assert noted(patient) == []
    write("afterwards")
    assert noted(patient) == ["afterwards"]


def test_many_writers_append_to_one_chain(patient: Store) -> None:
    def append(number: int) -> None:
        with patient.write() as connection:
            note(connection, str(number))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(append, range(200)))
    assert sorted(map(int, noted(patient))) == list(range(200))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entries SET actor = 'mallory'",
        "DELETE FROM audit_entries",
        (
            "INSERT INTO audit_entries SELECT sequence + 2, occurred_at, actor, action, subject,"
            " outcome, details, previous_hash, hash FROM audit_entries"
        ),
    ],
)
def test_the_database_refuses_what_is_no_appending(store: Store, statement: str) -> None:
    with store.write() as connection:
        note(connection, "one")

    def touch() -> None:
        with store.write() as connection:
            connection.exec_driver_sql(statement)

    with pytest.raises(sa.exc.IntegrityError, match="audit entries are"):
        touch()
    assert noted(store) == ["one"]
