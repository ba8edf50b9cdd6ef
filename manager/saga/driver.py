"""The threads that drive migrations: a bounded crew that takes whichever is due.

A migration waits in the schedule, not in a thread; only a copy that is followed keeps one. Places
bound the migrations between RESERVING and the commit point, and there are more threads than places,
so that what is committed or rolls back never stands behind copies. Nothing but the rows decides
what happens next, so that a restart goes on where the last process was cut off.
"""

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from manager.events import Board
from manager.saga import records, states, steps
from manager.saga.actions import Actions
from manager.saga.copying import Signals, StepFailed
from manager.saga.record import Record
from manager.saga.steps import Again, Back, Party
from manager.settings.migrations import MigrationSettings
from manager.store import Store
from watari import errors, logs, tracing
from watari.clock import Clock
from watari.v1 import common_pb2

IDLE_SECONDS_MAX = 1.0
"""An idle thread looks at the schedule at least this often."""

STOP_SECONDS_MAX = 30.0
"""Waited for a thread at most when the manager stops; its step is repeated at the next start."""

_log = logs.get(__name__)


@dataclass
class _Job:
    """A migration that has not ended, in the schedule."""

    migration_id: str
    order: int
    due: float
    running: bool = False
    in_place: bool = False
    again_at_once: bool = False
    """Somebody asked for it while it ran."""

    failures: int = 0
    party: Party | None = None
    failing_since: float = 0.0
    signals: Signals = field(default_factory=Signals)


class Driver:
    """Drives every migration that has not ended."""

    def __init__(
        self, store: Store, clock: Clock, actions: Actions, board: Board, limits: MigrationSettings
    ) -> None:
        self._store = store
        self._clock = clock
        self._actions = actions
        self._board = board
        self._limits = limits
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._count = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up what an earlier process left, and begin to work."""
        with self._store.read() as connection:
            left = records.active(connection)
        for record in left:
            self.submit(record.migration_id)
        for number in range(self._limits.concurrent_max + self._limits.finishers_max):
            thread = threading.Thread(target=self._work, name=f"saga-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, migration_id: str) -> None:
        """A recorded migration is to be driven; nothing when it already is."""
        with self._changed:
            if migration_id not in self._jobs:
                self._count += 1
                now = self._clock.monotonic()
                self._jobs[migration_id] = _Job(migration_id, self._count, due=now)
                self._changed.notify()

    def interrupt(self, migration_id: str) -> None:
        """A migration's record asks for something else now: look at it at once."""
        with self._changed:
            job = self._jobs.get(migration_id)
            if job is not None:
                job.signals.interrupted.set()
                job.again_at_once, job.due = job.running, self._clock.monotonic()
                self._changed.notify()

    def stop(self) -> None:
        """End every thread at its next safe place."""
        with self._changed:
            self._stopping = True
            for job in self._jobs.values():
                job.signals.interrupted.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(STOP_SECONDS_MAX)

    def _work(self) -> None:
        while (job := self._take()) is not None:
            with logs.context(migration_id=job.migration_id):
                try:
                    delay = self._advance(job)
                except Exception:  # noqa: BLE001 - top of a thread: a bug must not end the crew
                    _log.exception("a step broke")
                    delay = self._limits.retry_max_seconds
            self._put_back(job, delay)

    def _take(self) -> _Job | None:
        """The due job that has waited longest; blocks until there is one, None when stopping."""
        with self._changed:
            while not self._stopping:
                now = self._clock.monotonic()
                idle = [job for job in self._jobs.values() if not job.running]
                due = [job for job in idle if job.due <= now]
                if due:
                    job = min(due, key=lambda job: (job.due, job.order))
                    job.running = True
                    return job
                next_due = min((job.due for job in idle), default=now + IDLE_SECONDS_MAX)
                self._changed.wait(min(next_due - now, IDLE_SECONDS_MAX))
            return None

    def _put_back(self, job: _Job, delay: float | None) -> None:
        with self._changed:
            job.running = False
            if delay is None:
                del self._jobs[job.migration_id]
            else:
                job.due = self._clock.monotonic() + (0 if job.again_at_once else delay)
            job.again_at_once = False
            self._changed.notify()

    def _advance(self, job: _Job) -> float | None:
        """One step. Seconds until the next one; None when the migration has ended."""
        with self._store.read() as connection:
            record = records.require(connection, job.migration_id)
        self._account_place(job, record)
        if record.final:
            return None
        if steps.next_step(record) is steps.Step.BEGIN and not self._enter(job):
            self._board.waits_for(job.migration_id, _no_place(self._limits.concurrent_max))
            return self._limits.retry_max_seconds
        try:
            with _step_span(record):
                outcome = self._actions.perform(record, job.signals)
        except errors.Conflict:
            return 0.0  # Cancelled or changed meanwhile: the record says what now.
        except StepFailed as failed:
            outcome = self._judge(job, record, failed.party, failed.error)
        except errors.WatariError as error:
            outcome = self._judge(job, record, Party.OURSELVES, error)
        return self._follow(job, record, outcome)

    def _follow(self, job: _Job, record: Record, outcome: Again | Back | None) -> float:
        if isinstance(outcome, Again):
            self._board.waits_for(job.migration_id, outcome.problem)
            return outcome.delay_seconds
        if isinstance(outcome, Back):
            _log.warning("rolling back", reason=outcome.problem.reason)
            try:
                self._actions.roll_back(self._reread(record), outcome.problem)
            except errors.WatariError as error:
                _log.warning("not rolled back yet", reason=error.reason)
                return self._limits.retry_initial_seconds
        job.failures, job.party, job.signals.moved = 0, None, False
        return 0.0

    def _reread(self, record: Record) -> Record:
        with self._store.read() as connection:
            return records.require(connection, record.migration_id)

    def _judge(
        self, job: _Job, record: Record, party: Party, error: errors.WatariError
    ) -> Again | Back:
        now = self._clock.monotonic()
        if job.party is not party or job.signals.moved:
            job.party, job.failing_since, job.failures = party, now, 0
            job.signals.moved = False
        job.failures += 1
        _log.info("a step failed", party=party.name, reason=error.reason, problem=error.message)
        return steps.after_failure(
            record,
            party,
            error,
            failures=job.failures,
            waited_seconds=now - job.failing_since,
            limits=self._limits,
        )

    def _account_place(self, job: _Job, record: Record) -> None:
        """Keep the places in step with the record, whoever changed it."""
        inside = record.state in states.IN_PLACE
        with self._changed:
            if job.in_place and not inside and record.state is not states.State.REQUESTED:
                self._wake_waiting()
            job.in_place = inside

    def _enter(self, job: _Job) -> bool:
        with self._changed:
            taken = sum(other.in_place for other in self._jobs.values())
            job.in_place = taken < self._limits.concurrent_max
            return job.in_place

    def _wake_waiting(self) -> None:
        now = self._clock.monotonic()
        for other in self._jobs.values():
            if not other.in_place and other.party is None:
                other.due = min(other.due, now)
        self._changed.notify()


def _step_span(record: Record) -> AbstractContextManager[object]:
    to, state = record.to_cloud, record.state.lower()
    name = f"saga {steps.next_step(record).name.lower()}"
    return tracing.migration_span(record.migration_id, name, to_cloud=to, state=state)


def _no_place(places: int) -> common_pb2.Problem:
    return errors.to_problem(
        errors.Unavailable(
            "TOO_MANY_TRANSFERS",
            f"all {places} places for concurrent migrations are taken",
            hint="it begins when one has ended; raise migrations.concurrent_max to run more",
        )
    )
