"""The catalogue: read once, fed with changes, kept while the directory is away, bounded."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.catalogue import Catalogue
from broker.reading import READ_ATTEMPTS_MAX, Source
from broker.settings import CatalogueSettings
from broker.snapshot import Snapshot
from tests.support import catalogue_records as records
from watari import errors
from watari.clock import FakeClock
from watari.v1 import directory_pb2

SETTINGS = CatalogueSettings(
    page_size=2,
    records_max=10,
    refresh_seconds_min=0.01,
    index_seconds_min=0.0,
    snapshot_age_seconds_max=60.0,
    read_seconds_max=8.0,
    first_seconds_max=30.0,
    call_seconds_max=30.0,
)
Request = directory_pb2.QueryRecordsRequest
Response = directory_pb2.QueryRecordsResponse
Message = directory_pb2.WatchRecordsResponse
WAIT_SECONDS_MAX = 30.0
AWAY = errors.Unavailable("PEER_UNAVAILABLE", "connection refused")
Open = Callable[..., Catalogue]


class Directory:
    """Answers queries from a list of records, and sends to its one watch what the test says."""

    def __init__(self, *published: directory_pb2.Record) -> None:
        self.published = list(published)
        self.revision = 1
        self.failures: list[errors.WatariError] = []
        self.down: errors.WatariError | None = None
        self.queries = 0
        self.age_seconds = 0
        self.watched_from: list[int] = []
        self.before: Callable[[Request], None] = lambda _request: None
        self.ended = threading.Event()
        self._messages: queue.Queue[Message | errors.WatariError] = queue.Queue()

    def query(self, request: Request, _timeout_seconds: float) -> Response:
        self.queries += 1
        self.before(request)
        if self.failures:
            raise self.failures.pop(0)
        if self.down:
            raise self.down
        start = int(request.page_token or 0)
        end = start + request.page_size
        more = str(end) if end < len(self.published) else ""
        answer = Response(
            records=self.published[start:end], next_page_token=more, revision=self.revision
        )
        if self.age_seconds:
            answer.snapshot_age.FromSeconds(self.age_seconds)
        return answer

    @contextmanager
    def watch(
        self, request: directory_pb2.WatchRecordsRequest, _timeout_seconds: float
    ) -> Iterator[Iterator[Message]]:
        if self.down:
            raise self.down
        self.watched_from.append(request.after_revision)
        yield self._sent(request.after_revision)

    def _sent(self, after_revision: int) -> Iterator[Message]:
        yield Message(revision=after_revision)
        while not self.ended.is_set():
            try:
                sent = self._messages.get(timeout=0.01)
            except queue.Empty:
                continue
            if isinstance(sent, errors.WatariError):
                raise sent
            yield sent

    def change(self, *put: directory_pb2.Record, gone: directory_pb2.Record | None = None) -> None:
        """One more revision."""
        self.revision += 1
        message = Message(revision=self.revision)
        for record in put:
            message.changes.add(kind=directory_pb2.CHANGE_KIND_PUT, record=record)
        if gone is not None:
            self.published.remove(gone)
            key = directory_pb2.Record(key=gone.key)
            message.changes.add(kind=directory_pb2.CHANGE_KIND_DELETE, record=key)
        self.published += put
        self._messages.put(message)

    def progress(self) -> None:
        """Sends that nothing has changed."""
        self._messages.put(Message(revision=self.revision))

    def end(self, error: errors.WatariError) -> None:
        """Ends the watch."""
        self._messages.put(error)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens catalogues of directories, which end with the test."""
    with ExitStack() as stack:

        def run(
            clock: FakeClock, *directories: Directory, settings: CatalogueSettings = SETTINGS
        ) -> Catalogue:
            sources = [Source(f"d{n}:1", one.query, one.watch) for n, one in enumerate(directories)]
            found = stack.enter_context(Catalogue(sources, settings, clock))
            for one in directories:
                stack.callback(one.ended.set)
            return found

        yield run


def osaka() -> list[directory_pb2.Record]:
    return [records.cloud("osaka"), records.offer("osaka"), records.capacity("osaka")]


def eventually(view: Catalogue, holds: Callable[[Snapshot], bool]) -> Snapshot:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds(found := view.current()):
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    return found


def test_all_pages_make_one_snapshot(opened: Open) -> None:
    clock = FakeClock()
    directory = Directory(*osaka(), records.link("osaka", "tokyo", 8.0))
    snapshot = opened(clock, directory).current()
    assert list(snapshot.clouds) == ["osaka"]
    assert [offer.name for offer in snapshot.clouds["osaka"].offers] == ["standard"]
    assert list(snapshot.clouds["osaka"].capacities) == ["jp-east"]
    assert snapshot.links["osaka", "tokyo"].rtt_ms == 8.0
    assert (snapshot.revision, snapshot.taken_at) == (1, clock.now())
    assert len(snapshot.columns) == 1


def test_changes_come_without_another_query_and_leave_older_snapshots_alone(opened: Open) -> None:
    directory = Directory(*osaka())
    view = opened(FakeClock(), directory)
    first, queries = view.current(), directory.queries
    directory.change(records.offer("osaka", "large"))
    second = view.current(revision_min=2)
    assert [offer.name for offer in second.clouds["osaka"].offers] == ["large", "standard"]
    directory.change(gone=directory.published[0])
    assert list(view.current(revision_min=3).clouds) == []
    assert [offer.name for offer in first.clouds["osaka"].offers] == ["standard"]
    assert (len(first.columns), len(second.columns)) == (1, 2)
    assert directory.queries == queries


def test_while_the_directory_is_away_the_last_snapshot_serves_marked_and_up_to_its_age(
    opened: Open,
) -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    view = opened(clock, directory)
    read_at = clock.now()
    eventually(view, lambda one: not one.stale)
    directory.down = AWAY
    directory.end(AWAY)
    eventually(view, lambda one: one.stale)
    clock.advance(60)
    assert view.current().taken_at == read_at
    clock.advance(0.5)
    with pytest.raises(errors.Unavailable, match="60 s old, 60 s are allowed") as caught:
        view.current()
    assert caught.value.reason == "PEER_UNAVAILABLE"
    assert caught.value.retryable
    directory.down = None
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        try:
            assert eventually(view, lambda one: not one.stale).taken_at == clock.now()
            break
        except errors.Unavailable:
            assert time.monotonic() < deadline


def test_a_watch_that_broke_is_resumed_where_it_was(opened: Open) -> None:
    directory = Directory(*osaka())
    view = opened(FakeClock(), directory)
    view.current()
    directory.change(records.offer("osaka", "large"))
    view.current(revision_min=2)
    queries = directory.queries
    directory.end(errors.Unavailable("SERVER_UNAVAILABLE", "stops"))
    directory.change(records.offer("osaka", "small"))
    assert len(view.current(revision_min=3).columns) == 3
    assert directory.watched_from == [1, 2]
    assert directory.queries == queries


@pytest.mark.parametrize("reason", ["REVISION_COMPACTED", "WATCHER_TOO_SLOW"])
def test_a_watch_whose_history_is_gone_is_begun_anew(opened: Open, reason: str) -> None:
    directory = Directory(*osaka())
    view = opened(FakeClock(), directory)
    view.current()
    directory.published = [records.cloud("nara")]
    directory.revision = 9
    directory.end(errors.OutOfRange(reason, "gone"))
    assert list(view.current(revision_min=9).clouds) == ["nara"]
    assert directory.watched_from == [1, 9]


def test_silence_makes_an_answer_stale(opened: Open) -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    view = opened(clock, directory)
    view.current()
    directory.change(records.offer("osaka", "large"))
    assert not view.current(revision_min=2).stale, "its watch is heard, and says no more"
    clock.advance(36)
    assert view.current().stale
    directory.progress()
    assert eventually(view, lambda one: not one.stale).taken_at == clock.now()


def test_without_any_snapshot_the_error_says_what_went_wrong(opened: Open) -> None:
    directory = Directory()
    directory.down = errors.Denied("NOT_ALLOWED", "not this broker")
    with pytest.raises(errors.Unavailable, match=r"no snapshot: NOT_ALLOWED: not this broker"):
        opened(FakeClock(), directory).current()


def test_a_revision_that_does_not_come_in_time_is_told(opened: Open) -> None:
    impatient = replace(SETTINGS, call_seconds_max=0.1)
    view = opened(FakeClock(), Directory(*osaka()), settings=impatient)
    view.current()
    with pytest.raises(errors.Unavailable, match="is of revision 1, not 5"):
        view.current(revision_min=5)


def test_the_next_directory_is_read_when_the_first_does_not_answer(opened: Open) -> None:
    first, second = Directory(), Directory(*osaka())
    first.down = AWAY
    view = opened(FakeClock(), first, second)
    eventually(view, lambda one: list(one.clouds) == ["osaka"])
    second.down, first.down = AWAY, None
    first.published = [records.cloud("nara")]
    second.end(AWAY)
    eventually(view, lambda one: list(one.clouds) == ["nara"])


def test_who_waits_for_the_first_snapshot_is_not_refused_while_another_directory_is_read(
    opened: Open,
) -> None:
    first, second, asked = Directory(), Directory(*osaka()), threading.Event()
    first.down = AWAY
    second.before = lambda _request: asked.wait(0.2) and None
    assert list(opened(FakeClock(), first, second).current().clouds) == ["osaka"]


def test_the_next_directory_is_left_alone_while_the_first_answers(opened: Open) -> None:
    first, second = Directory(*osaka()), Directory(records.cloud("nara"))
    assert list(opened(FakeClock(), first, second).current().clouds) == ["osaka"]
    assert not second.queries


def test_a_compacted_revision_starts_the_read_again_a_bounded_number_of_times(
    opened: Open,
) -> None:
    compacted = errors.OutOfRange("REVISION_COMPACTED", "gone")
    directory = Directory(*osaka())
    directory.failures = [compacted] * (READ_ATTEMPTS_MAX - 1)
    assert opened(FakeClock(), directory).current().revision == 1
    other = Directory(*osaka())
    other.down = compacted
    with pytest.raises(errors.Unavailable, match="REVISION_COMPACTED"):
        opened(FakeClock(), other).current()


def test_pages_of_different_revisions_are_never_mixed(opened: Open) -> None:
    directory = Directory(*osaka())

    def change(request: Request) -> None:
        directory.revision += 1

    directory.before = change
    with pytest.raises(errors.Unavailable, match="changed revision from"):
        opened(FakeClock(), directory).current()


def test_a_catalogue_beyond_the_limit_is_not_read_to_its_end(opened: Open) -> None:
    directory = Directory(*(records.cloud(f"c{number}") for number in range(40)))
    with pytest.raises(errors.Unavailable, match="more than 10 records"):
        opened(FakeClock(), directory).current()


def test_a_catalogue_that_grows_beyond_the_limit_is_followed_no_further(opened: Open) -> None:
    directory = Directory(*osaka())
    view = opened(FakeClock(), directory)
    view.current()
    for number in range(12):
        directory.change(records.offer("osaka", f"o{number}"))
    found = eventually(view, lambda one: one.stale)
    assert len(found.columns) <= SETTINGS.records_max


def test_a_directory_that_never_ends_its_pages_runs_into_the_time_limit(opened: Open) -> None:
    clock, directory = FakeClock(), Directory(*osaka())

    def slow(request: Request) -> None:
        clock.advance(9)

    directory.before = slow
    with pytest.raises(errors.Unavailable, match="took over 8 s"):
        opened(clock, directory).current()


def test_a_directory_that_answers_from_the_past_is_only_used_when_none_is_current(
    opened: Open,
) -> None:
    clock, past, current = FakeClock(), Directory(*osaka()), Directory(records.cloud("kyoto"))
    past.age_seconds = 30
    view = opened(clock, past, current)
    eventually(view, lambda one: list(one.clouds) == ["kyoto"] and not one.stale)
    other = Directory(records.cloud("kyoto"))
    other.down = AWAY
    found = eventually(opened(clock, past, other), lambda one: one.stale)
    assert list(found.clouds) == ["osaka"]
    assert found.taken_at == clock.now() - timedelta(seconds=30)


def test_the_age_that_a_directory_tells_counts_towards_that_of_the_snapshot(opened: Open) -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    directory.age_seconds = 61
    with pytest.raises(errors.Unavailable, match="the last snapshot is 61 s old"):
        opened(clock, directory).current()


def test_a_storm_of_changes_ends_in_the_newest_state(opened: Open) -> None:
    directory = Directory(*osaka())
    view = opened(FakeClock(), directory)
    view.current()
    for number in range(500):
        directory.published = directory.published[:3]
        directory.change(records.capacity("osaka", free=records.resources(number + 1, 8, 40)))
    found = eventually(view, lambda one: one.revision == 501)
    assert found.clouds["osaka"].capacities["jp-east"].free["vcpus"] == 500
