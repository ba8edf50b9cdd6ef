"""The snapshot: shared while fresh, kept while the directory is away, and of one revision."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from broker.catalogue import READ_ATTEMPTS_MAX, Catalogue, Source
from broker.settings import CatalogueSettings
from tests.support import catalogue_records as records
from watari import errors
from watari.clock import FakeClock
from watari.v1 import directory_pb2

SETTINGS = CatalogueSettings(
    page_size=2,
    records_max=10,
    refresh_seconds_min=2.0,
    snapshot_age_seconds_max=60.0,
    read_seconds_max=8.0,
    call_seconds_max=3.0,
)
Request = directory_pb2.QueryRecordsRequest
Response = directory_pb2.QueryRecordsResponse


class Directory:
    """Answers queries from a list of records, page by page, until told to fail."""

    def __init__(self, *published: directory_pb2.Record) -> None:
        self.published = list(published)
        self.revision = 1
        self.failures: list[errors.WatariError] = []
        self.down: errors.WatariError | None = None
        self.timeouts: list[float] = []
        self.age_seconds = 0
        self.before: Callable[[Request], None] = lambda _request: None

    def query(self, request: Request, timeout_seconds: float) -> Response:
        self.timeouts.append(timeout_seconds)
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


def catalogue(clock: FakeClock, *directories: Directory) -> Catalogue:
    sources = [Source(f"d{n}:1", one.query) for n, one in enumerate(directories)]
    return Catalogue(sources, SETTINGS, clock)


AWAY = errors.Unavailable("PEER_UNAVAILABLE", "connection refused")


def osaka() -> list[directory_pb2.Record]:
    return [records.cloud("osaka"), records.offer("osaka"), records.capacity("osaka")]


def test_all_pages_make_one_snapshot() -> None:
    clock = FakeClock()
    directory = Directory(*osaka(), records.link("osaka", "tokyo", 8.0))
    snapshot = catalogue(clock, directory).current()
    assert list(snapshot.clouds) == ["osaka"]
    assert [offer.name for offer in snapshot.clouds["osaka"].offers] == ["standard"]
    assert list(snapshot.clouds["osaka"].capacities) == ["jp-east"]
    assert snapshot.links["osaka", "tokyo"].rtt_ms == 8.0
    assert (snapshot.revision, snapshot.taken_at) == (1, clock.now())
    assert len(directory.timeouts) == 2


def test_a_snapshot_is_read_again_only_after_the_refresh_time() -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    view = catalogue(clock, directory)
    first = view.current()
    directory.revision = 2
    clock.advance(1.9)
    assert view.current() is first
    clock.advance(0.1)
    assert view.current().revision == 2


def test_while_the_directory_is_away_the_last_snapshot_serves_up_to_its_age() -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    view = catalogue(clock, directory)
    first = view.current()
    directory.down = AWAY
    clock.advance(60)
    assert view.current() is first
    clock.advance(0.5)
    with pytest.raises(errors.Unavailable, match="60 s old, 60 s are allowed") as caught:
        view.current()
    assert caught.value.reason == "PEER_UNAVAILABLE"
    assert caught.value.retryable
    directory.down = None
    clock.advance(2)
    assert view.current().taken_at == clock.now()


def test_without_any_snapshot_the_error_says_what_went_wrong() -> None:
    directory = Directory()
    directory.down = errors.Denied("NOT_ALLOWED", "not this broker")
    with pytest.raises(errors.Unavailable, match=r"no snapshot: NOT_ALLOWED: not this broker"):
        catalogue(FakeClock(), directory).current()


def test_the_next_directory_is_read_when_the_first_does_not_answer() -> None:
    first, second = Directory(), Directory(*osaka())
    first.down = AWAY
    assert list(catalogue(FakeClock(), first, second).current().clouds) == ["osaka"]


def test_the_next_directory_is_left_alone_while_the_first_answers() -> None:
    first, second = Directory(*osaka()), Directory(records.cloud("nara"))
    assert list(catalogue(FakeClock(), first, second).current().clouds) == ["osaka"]
    assert not second.timeouts


def test_one_failure_to_read_is_shared_until_the_refresh_time() -> None:
    clock, directory = FakeClock(), Directory()
    directory.down = AWAY
    view = catalogue(clock, directory)
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            view.current()
    assert len(directory.timeouts) == 1
    clock.advance(2)
    with pytest.raises(errors.Unavailable):
        view.current()
    assert len(directory.timeouts) == 2


def test_concurrent_requests_share_one_read() -> None:
    clock, directory = FakeClock(), Directory(records.cloud("osaka"))
    entered, go = threading.Event(), threading.Event()

    def hold(_request: Request) -> None:
        entered.set()
        assert go.wait(5)

    directory.before = hold
    view = catalogue(clock, directory)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(view.current) for _ in range(4)]
        assert entered.wait(5)
        go.set()
        snapshots = {id(answer.result(5)) for answer in answers}
    assert len(snapshots) == 1
    assert len(directory.timeouts) == 1


def test_a_compacted_revision_starts_the_read_again_a_bounded_number_of_times() -> None:
    compacted = errors.OutOfRange("REVISION_COMPACTED", "gone")
    directory = Directory(*osaka())
    directory.failures = [compacted] * (READ_ATTEMPTS_MAX - 1)
    assert catalogue(FakeClock(), directory).current().revision == 1
    directory.failures = [compacted] * READ_ATTEMPTS_MAX
    with pytest.raises(errors.Unavailable, match="REVISION_COMPACTED"):
        catalogue(FakeClock(), directory).current()


def test_pages_of_different_revisions_are_never_mixed() -> None:
    directory = Directory(*osaka())

    def change(request: Request) -> None:
        directory.revision += 1

    directory.before = change
    with pytest.raises(errors.Unavailable, match="changed revision from 2 to 3"):
        catalogue(FakeClock(), directory).current()


def test_a_catalogue_beyond_the_limit_is_not_read_to_its_end() -> None:
    directory = Directory(*(records.cloud(f"c{number}") for number in range(40)))
    with pytest.raises(errors.Unavailable, match="more than 10 records"):
        catalogue(FakeClock(), directory).current()
    assert len(directory.timeouts) == 6


def test_a_directory_that_never_ends_its_pages_runs_into_the_time_limit() -> None:
    clock = FakeClock()

    def endless(request: Request, timeout_seconds: float) -> Response:
        clock.advance(timeout_seconds)
        return Response(next_page_token=request.page_token + "+", revision=1)

    view = Catalogue([Source("d:1", endless)], SETTINGS, clock)
    with pytest.raises(errors.Unavailable, match="took over 8 s"):
        view.current()
    assert clock.monotonic() == 8.0


def test_a_directory_that_answers_from_the_past_is_only_used_when_none_is_current() -> None:
    clock, past, current = FakeClock(), Directory(*osaka()), Directory(records.cloud("kyoto"))
    past.age_seconds = 30
    assert list(catalogue(clock, past, current).current().clouds) == ["kyoto"]
    current.down = AWAY
    snapshot = catalogue(clock, past, current).current()
    assert list(snapshot.clouds) == ["osaka"]
    assert snapshot.taken_at == clock.now() - timedelta(seconds=30)


def test_the_age_that_a_directory_tells_counts_towards_that_of_the_snapshot() -> None:
    clock, directory = FakeClock(), Directory(*osaka())
    view = catalogue(clock, directory)
    directory.age_seconds = 59
    view.current()
    directory.age_seconds += 2
    clock.advance(2)
    with pytest.raises(errors.Unavailable, match="the last snapshot is 61 s old"):
        view.current()


def test_of_answers_from_the_past_the_latest_counts() -> None:
    clock, one, other = FakeClock(), Directory(*osaka()), Directory(records.cloud("kyoto"))
    one.age_seconds, other.age_seconds = 30, 10
    assert list(catalogue(clock, one, other).current().clouds) == ["kyoto"]
    one.age_seconds, other.age_seconds = 10, 30
    assert list(catalogue(clock, one, other).current().clouds) == ["osaka"]
