"""One whole read of a directory: every page of one query, so that it is one revision."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.settings import CatalogueSettings
from broker.snapshot import Store
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import directory_pb2

READ_ATTEMPTS_MAX = 3
"""A read starts again this often when the directory has dropped its revision meanwhile."""

FILTER = "kind != HOST"
"""One query for all that placement needs: five of one kind each could differ in revision."""

Query = Callable[[directory_pb2.QueryRecordsRequest, float], directory_pb2.QueryRecordsResponse]
"""DirectoryService.QueryRecords with a deadline in seconds; raises WatariError."""

Messages = Iterator[directory_pb2.WatchRecordsResponse]
Watch = Callable[[directory_pb2.WatchRecordsRequest, float], AbstractContextManager[Messages]]
"""DirectoryService.WatchRecords, for so many seconds in all; raises WatariError, also between
messages, and is cancelled when the block is left."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class Source:
    """A directory to read from."""

    name: str
    """For messages and logs: its address."""
    query: Query
    watch: Watch


@dataclass(frozen=True)
class Loaded:
    """What a read found."""

    source: Source
    store: Store
    revision: int
    as_of: float
    """When it was so: when the read began, less the age that the directory told. By the monotonic
    clock."""
    taken_at: datetime
    """The same as a date."""
    fresh: bool
    """Whether the directory's answers were current."""


def read(source: Source, settings: CatalogueSettings, clock: Clock, deadline: float) -> Loaded:
    """All records, by a moment of the monotonic clock. Raises WatariError."""
    for _ in range(READ_ATTEMPTS_MAX - 1):
        try:
            return _read_once(source, settings, clock, deadline)
        except errors.OutOfRange as error:
            _log.info("directory.read_again", directory=source.name, problem=str(error))
    return _read_once(source, settings, clock, deadline)


def _read_once(
    source: Source, settings: CatalogueSettings, clock: Clock, deadline: float
) -> Loaded:
    began, taken_at, age = clock.monotonic(), clock.now(), timedelta()
    store = Store()
    token, revision = "", None
    while revision is None or token:
        page = source.query(
            directory_pb2.QueryRecordsRequest(
                filter=FILTER, page_size=settings.page_size, page_token=token
            ),
            _remaining(source, settings, clock, deadline),
        )
        if revision not in (None, page.revision):
            raise broken(source, f"changed revision from {revision} to {page.revision}")
        revision, token = page.revision, page.next_page_token
        age = max(age, page.snapshot_age.ToTimedelta())
        for record in page.records:
            store.put(record)
        require_bounded(source, store, settings)
    as_of = began - age.total_seconds()
    return Loaded(source, store, revision, as_of, taken_at - age, fresh=not age)


def require_bounded(source: Source, store: Store, settings: CatalogueSettings) -> None:
    """Raises Unavailable PEER_ERROR when there are more records than the settings allow."""
    if len(store) > settings.records_max:
        raise broken(source, f"has more than {settings.records_max} records")


def broken(source: Source, problem: str) -> errors.Unavailable:
    """The error for a directory that cannot be used."""
    return errors.Unavailable(
        "PEER_ERROR", f"the directory at {source.name} {problem}", address=source.name
    )


def _remaining(source: Source, settings: CatalogueSettings, clock: Clock, deadline: float) -> float:
    remaining = deadline - clock.monotonic()
    if remaining <= 0:
        raise errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED",
            f"reading the directory at {source.name} took over {settings.read_seconds_max:g} s",
        )
    return min(remaining, settings.call_seconds_max)
