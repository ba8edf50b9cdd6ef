"""The broker's view of the directory: the newest snapshot, and the last one while it is away.

A read takes every page of one query, so that a snapshot is the catalogue at one revision. Many
requests share one read; so do they a failure to read, so that a directory that is away costs one
wait and not one per request.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from broker import snapshot
from broker.settings import CatalogueSettings
from broker.snapshot import Snapshot
from watari import errors, logs
from watari.clock import Clock
from watari.v1 import directory_pb2

READ_ATTEMPTS_MAX = 3
"""A read starts again this often when the directory has dropped its revision meanwhile."""

FILTER = "kind != HOST AND kind != IMAGE"
"""One query for all that placement needs: four of one kind each could differ in revision."""

Query = Callable[[directory_pb2.QueryRecordsRequest, float], directory_pb2.QueryRecordsResponse]
"""DirectoryService.QueryRecords with a deadline in seconds; raises WatariError."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class Source:
    """A directory to read from."""

    name: str
    """For messages and logs: its address."""
    query: Query


@dataclass(frozen=True)
class _Held:
    snapshot: Snapshot
    read_at: float
    """As of when it is: when its read began, less the age that the directory told. By the monotonic
    clock.
    """
    fresh: bool
    """Whether the directory's answers were current."""


class Catalogue:
    """Keeps one snapshot. May be used from any thread."""

    def __init__(
        self, sources: Sequence[Source], settings: CatalogueSettings, clock: Clock
    ) -> None:
        self._sources = sources
        self._settings = settings
        self._clock = clock
        self._reading = threading.Lock()
        self._held: _Held | None = None
        self._tried_at: float | None = None
        self._failure: errors.WatariError | None = None

    def current(self) -> Snapshot:
        """The catalogue, at most `refresh_seconds_min` old while a directory answers.

        Else the last one, if it is not older than `snapshot_age_seconds_max`. Raises Unavailable
        PEER_UNAVAILABLE when there is none.
        """
        # Whoever comes while another thread reads waits for what that one gets.
        if self._reading.acquire(timeout=self._settings.read_seconds_max):
            try:
                if self._due():
                    self._refresh()
            finally:
                self._reading.release()
        held, failure = self._held, self._failure
        age_seconds_max = self._settings.snapshot_age_seconds_max
        if held is None or self._clock.monotonic() - held.read_at > age_seconds_max:
            raise self._away(held, failure)
        return held.snapshot

    def _due(self) -> bool:
        tried_at = self._tried_at
        now = self._clock.monotonic()
        return tried_at is None or now - tried_at >= self._settings.refresh_seconds_min

    def _refresh(self) -> None:
        """Takes the first directory that is current, else what is of the latest moment."""
        deadline = self._clock.monotonic() + self._settings.read_seconds_max
        for source in self._sources:
            try:
                found = self._read(source, deadline)
            except errors.WatariError as error:
                _log.warning("directory.read_failed", directory=source.name, problem=str(error))
                self._failure = error
                continue
            if self._held is None or found.fresh or found.read_at > self._held.read_at:
                self._held = found
            self._failure = None
            if found.fresh:
                break
            _log.warning("directory.read_of_the_past", directory=source.name)
        self._tried_at = self._clock.monotonic()

    def _read(self, source: Source, deadline: float) -> _Held:
        for _ in range(READ_ATTEMPTS_MAX - 1):
            try:
                return self._read_once(source, deadline)
            except errors.OutOfRange as error:
                _log.info("directory.read_again", directory=source.name, problem=str(error))
        return self._read_once(source, deadline)

    def _read_once(self, source: Source, deadline: float) -> _Held:
        began, taken_at, age = self._clock.monotonic(), self._clock.now(), timedelta()
        records: list[directory_pb2.Record] = []
        seen, token, revision = 0, "", None
        while revision is None or token:
            page = source.query(
                directory_pb2.QueryRecordsRequest(
                    filter=FILTER, page_size=self._settings.page_size, page_token=token
                ),
                self._remaining(deadline, source),
            )
            if revision not in (None, page.revision):
                raise _broken(source, f"changed revision from {revision} to {page.revision}")
            revision, token = page.revision, page.next_page_token
            age = max(age, page.snapshot_age.ToTimedelta())
            seen += len(page.records)
            if seen > self._settings.records_max:
                raise _broken(source, f"has more than {self._settings.records_max} records")
            records += page.records
        built = snapshot.build(records, revision, taken_at - age)
        return _Held(built, began - age.total_seconds(), fresh=not age)

    def _remaining(self, deadline: float, source: Source) -> float:
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise errors.DeadlineExceeded(
                "DEADLINE_EXCEEDED",
                f"reading the directory at {source.name} took over "
                f"{self._settings.read_seconds_max:g} s",
            )
        return min(remaining, self._settings.call_seconds_max)

    def _away(self, held: _Held | None, failure: errors.WatariError | None) -> errors.Unavailable:
        cause = f": {failure}" if failure else ""
        kept = "there is no snapshot"
        if held is not None:
            age = self._clock.monotonic() - held.read_at
            limit = self._settings.snapshot_age_seconds_max
            kept = f"the last snapshot is {age:.0f} s old, {limit:g} s are allowed"
        return errors.Unavailable(
            "PEER_UNAVAILABLE",
            f"no directory could be read and {kept}{cause}",
            hint="try again once a directory answers; a manager migrates to a named cloud without",
            peer="directory",
            address=",".join(source.name for source in self._sources),
        )


def _broken(source: Source, problem: str) -> errors.Unavailable:
    return errors.Unavailable(
        "PEER_ERROR", f"the directory at {source.name} {problem}", address=source.name
    )
