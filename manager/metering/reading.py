"""Reads the hosts' event logs.

How far a log was read is written in the transaction that writes what was read. Whatever happens in
between, the next reading begins where the last one that was written ended.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy.engine import Connection

from manager import audit
from manager.agents import Agents
from manager.metering import rows
from manager.metering.rows import Position
from manager.store import Store, micros
from watari import errors, failpoint, logs
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, manager_pb2

AFTER_READ = failpoint.declare("manager.metering.after_read")
IN_RECORD = failpoint.declare("manager.metering.in_record")
AFTER_RECORD = failpoint.declare("manager.metering.after_record")

READS_CONCURRENT_MAX = 4
"""Hosts that are read at a time."""

EVENTS_MAX = 200
"""Events of one page: a transaction writes them all, and other writes wait for it."""

PAGES_MAX = 50
"""Pages of one host at a time: a host that has much to tell keeps the others waiting no longer."""

THINNED_MAX = 1000
"""Old events that one transaction drops."""

THIN_SECONDS = 3600.0
"""Between two looks for old events."""

_log = logs.get(__name__)


class Metering:
    """Reads every configured host."""

    def __init__(
        self,
        cloud_id: str,
        own: SpiffeId,
        store: Store,
        clock: Clock,
        agents: Agents,
        kept_days: int,
    ) -> None:
        self._cloud_id = cloud_id
        self._own = own
        self._store = store
        self._clock = clock
        self._agents = agents
        self._kept_days = kept_days
        self._problems: dict[str, str] = {}

    def read(self) -> None:
        """Record what every host has to tell."""
        with ThreadPoolExecutor(READS_CONCURRENT_MAX, thread_name_prefix="metering") as pool:
            list(pool.map(self.read_one, self._agents.host_ids))

    def thin(self) -> None:
        """Drop recorded events that are older than they have to be."""
        before = self._clock.now() - timedelta(days=self._kept_days)
        while True:
            with self._store.write() as connection:
                gone = rows.thin(connection, before, THINNED_MAX)
            if gone:
                _log.info("old usage events dropped", count=gone)
            if gone < THINNED_MAX:
                return

    def read_one(self, host_id: str) -> None:
        """Record what one host has to tell; one that cannot be read now is read later."""
        with logs.context(host_id=host_id):
            try:
                for _ in range(PAGES_MAX):
                    if not self._read_page(host_id):
                        break
            except errors.WatariError as error:
                if self._problems.get(host_id) != error.reason:
                    _log.warning("events not read", reason=error.reason, problem=error.message)
                self._problems[host_id] = error.reason
            else:
                self._problems.pop(host_id, None)

    def _read_page(self, host_id: str) -> bool:
        """Record a page; whether there may be another."""
        with self._store.read() as connection:
            known = began = rows.position(connection, host_id)
        page = self._agents.events(host_id, known.log_id, known.sequence, EVENTS_MAX)
        if page.log_id != known.log_id:
            with self._store.read() as connection:
                began = rows.position(connection, host_id, page.log_id)
            if began.sequence:  # the host has an older log again
                page = self._agents.events(host_id, began.log_id, began.sequence, EVENTS_MAX)
        failpoint.hit(AFTER_READ)
        read = _checked(host_id, page, began)
        if read == known:
            return False
        with self._store.write() as connection:
            if rows.position(connection, host_id) != known:
                return False  # somebody else recorded it
            self._tell_lost(connection, host_id, known, page, began)
            for event in page.events:
                rows.write(connection, self._recorded(connection, host_id, page.log_id, event))
            failpoint.hit(IN_RECORD)
            rows.move(connection, host_id, read)
        failpoint.hit(AFTER_RECORD)
        return read.sequence < page.last_sequence

    def _recorded(
        self, connection: Connection, host_id: str, log_id: str, event: agent_pb2.HostEvent
    ) -> manager_pb2.UsageEvent:
        payer = rows.payer(connection, event, self._own.domain)
        return manager_pb2.UsageEvent(
            event_id=rows.event_id(host_id, log_id, event.sequence),
            cloud_id=self._cloud_id,
            host_id=host_id,
            log_id=log_id,
            tenant_domain=payer.domain,
            tenant=payer.name,
            event=event,
        )

    def _tell_lost(
        self,
        connection: Connection,
        host_id: str,
        known: Position,
        page: agent_pb2.ListEventsResponse,
        began: Position,
    ) -> None:
        """What was not read and never will be: a host's old log that is gone, and entries that were
        dropped.
        """
        if known.log_id and page.log_id != known.log_id:
            told = {"log": page.log_id, "log_before": known.log_id, "read_before": known.sequence}
            self._audit(connection, host_id, "metering.log_replaced", told)
        missed = page.first_sequence - began.sequence - 1
        if missed > 0:
            told = {"log": page.log_id, "after": began.sequence, "events": missed}
            self._audit(connection, host_id, "metering.events_lost", told)

    def _audit(
        self, connection: Connection, host_id: str, action: str, told: dict[str, object]
    ) -> None:
        now = micros(self._clock.now())
        audit.append(connection, now, actor=self._own, action=action, subject=host_id, details=told)
        _log.warning(action, **told)


def _checked(host_id: str, page: agent_pb2.ListEventsResponse, began: Position) -> Position:
    """Where the page ends. Raises FailedPrecondition PEER_ERROR for one that the contract does not
    allow, of which nothing is recorded.
    """
    first = max(began.sequence + 1, page.first_sequence)
    told = [event.sequence for event in page.events]
    right = list(range(first, first + len(told)))
    if not page.log_id or page.log_id != began.log_id or told != right:
        raise errors.FailedPrecondition(
            "PEER_ERROR",
            f"host {host_id} tells events {told[:1]} to {told[-1:]} where {first} is next",
            hint="look at the agent's log; nothing was recorded",
        )
    return Position(page.log_id, first - 1 + len(told))
