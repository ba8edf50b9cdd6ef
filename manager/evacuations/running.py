"""Starting evacuations, looking at them, cancelling them, and doing what their plans say.

The one thread that does so writes what it is about to start before it starts it, under an id that
follows from the row: cut off in between, it starts the same migration again.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from manager import audit
from manager.callers import Caller
from manager.evacuations import looking, planning, rows
from manager.evacuations.planning import Plan, Situation
from manager.evacuations.rows import Evacuation, Machine, Stage
from manager.migrations import Migrations
from manager.ownership import EVERYTHING
from manager.peers import Peers
from manager.saga import records
from manager.settings import Settings
from manager.settings.migrations import EvacuationSettings
from manager.store import Store, micros
from watari import errors, failpoint, logs, validate
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.v1 import common_pb2, manager_pb2

WATCH_SECONDS = 0.5
"""Between two looks of a watcher: it gets what is new as often at most."""

AFTER_REQUEST = failpoint.declare("manager.evacuation.after_request")
AFTER_CANCEL = failpoint.declare("manager.evacuation.after_cancel")
AFTER_CLAIM = failpoint.declare("manager.evacuation.after_claim")
AFTER_START = failpoint.declare("manager.evacuation.after_start")

_log = logs.get(__name__)


class Evacuations:
    """The evacuations of this cloud."""

    def __init__(
        self,
        settings: Settings,
        own: SpiffeId,
        store: Store,
        clock: Clock,
        migrations: Migrations,
        peers: Peers,
    ) -> None:
        self._cloud_id = settings.cloud_id
        self._host_ids: Collection[str] = settings.agents.keys()
        self._limits: EvacuationSettings = settings.evacuations
        self._own = own
        self._store = store
        self._clock = clock
        self._migrations = migrations
        self._peers = peers
        self._lock = threading.Lock()
        self._waiting_for: dict[str, common_pb2.Problem | None] = {}
        self._watchers = 0

    def start(
        self, request: manager_pb2.StartEvacuationRequest, caller: SpiffeId
    ) -> manager_pb2.Evacuation:
        """Record an evacuation and let it be carried out; idempotent by its id.

        Raises NotFound CLOUD_NOT_FOUND, InvalidArgument INVALID_FIELD for a host that is none,
        AlreadyExists ID_REUSED, Unavailable SERVER_UNAVAILABLE while as many run as may.
        """
        new = Evacuation(request.evacuation_id, str(caller), request, self._now())
        with self._store.read() as connection:
            known = rows.get(connection, new.evacuation_id)
        if known is None:
            self._require_host(request.host_id)
            for cloud_id in new.to_clouds:
                self._require_cloud(cloud_id)
        with self._store.write() as connection:
            known = rows.get(connection, new.evacuation_id)
            if known is None:
                self._record(connection, new, caller)
            else:
                _require_same(known, new)
        failpoint.hit(AFTER_REQUEST)
        return self.get(new.evacuation_id)

    def get(self, evacuation_id: str) -> manager_pb2.Evacuation:
        """An evacuation. Raises NotFound EVACUATION_NOT_FOUND."""
        with self._store.read() as connection:
            shown = rows.message(connection, rows.require(connection, evacuation_id))
        with self._lock:
            waiting_for = self._waiting_for.get(evacuation_id)
        if waiting_for is not None and not shown.done and not shown.running:
            shown.waiting_for.CopyFrom(waiting_for)
        return shown

    @contextmanager
    def watch(
        self, evacuation_id: str, gone: Callable[[], bool]
    ) -> Iterator[Iterator[manager_pb2.Evacuation]]:
        """The evacuation at once and at every change, until it has ended or `gone` says so.

        Raises Unavailable SERVER_UNAVAILABLE when as many watch as may.
        """
        with self._lock:
            if self._watchers >= self._limits.watchers_max:
                raise _too_many(self._limits.watchers_max, "evacuations are being watched")
            self._watchers += 1
        try:
            yield self._follow(evacuation_id, gone)
        finally:
            with self._lock:
                self._watchers -= 1

    def cancel(self, evacuation_id: str, caller: SpiffeId) -> manager_pb2.Evacuation:
        """Start no further migration of it; idempotent, also of one that has ended.

        Raises NotFound EVACUATION_NOT_FOUND.
        """
        with self._store.write() as connection:
            found = rows.require(connection, evacuation_id)
            if not found.cancelled and found.ended_at is None:
                rows.cancel(connection, evacuation_id)
                self._note(connection, "cancelled", evacuation_id, caller)
        failpoint.hit(AFTER_CANCEL)
        return self.get(evacuation_id)

    def check(self) -> None:
        """Carry every evacuation one step further; one that fails does not stop the others."""
        with self._store.read() as connection:
            active = rows.active(connection)
        for evacuation in active:
            with logs.context(evacuation_id=evacuation.evacuation_id):
                try:
                    self._advance(evacuation.evacuation_id)
                except errors.WatariError as error:
                    _log.warning("not carried on", reason=error.reason, problem=error.message)

    def _advance(self, evacuation_id: str) -> None:
        with self._store.read() as connection:
            situation = self._situation(connection, rows.require(connection, evacuation_id))
        planned = planning.plan(situation, self._limits)
        if planned.changed or planned.ended:
            with self._store.write() as connection:
                # Again under the lock: somebody may have cancelled it.
                situation = self._situation(connection, rows.require(connection, evacuation_id))
                planned = planning.plan(situation, self._limits)
                self._write(connection, situation.evacuation, planned)
            failpoint.hit(AFTER_CLAIM)
        with self._lock:
            self._waiting_for[evacuation_id] = planned.waiting_for
            if planned.ended:
                del self._waiting_for[evacuation_id]
        for machine in planned.begin:
            self._begin(situation, machine)

    def _write(self, connection: Connection, evacuation: Evacuation, planned: Plan) -> None:
        rows.put(connection, planned.changed)
        if planned.ended:
            rows.end(connection, evacuation.evacuation_id, self._now())
            shown = rows.message(connection, evacuation)
            counts = {"succeeded": shown.succeeded, "failed": shown.failed}
            told = counts | {"remaining": shown.remaining, "cancelled": evacuation.cancelled}
            self._note(connection, "ended", evacuation.evacuation_id, self._own, **told)
            _log.info("evacuation ended", **told)

    def _begin(self, situation: Situation, machine: Machine) -> None:
        evacuation = situation.evacuation
        with self._store.read() as connection:
            mode = looking.mode(connection, evacuation, machine)
        request = manager_pb2.MigrateVmRequest(
            migration_id=machine.migration_id,
            vm=machine.vm_id,
            to_cloud=evacuation.to_clouds[machine.destination],
            mode=mode,
            options=evacuation.request.options,
        )
        caller = Caller(SpiffeId.parse(evacuation.requested_by), EVERYTHING)
        try:
            self._migrations.start(request, caller)
        except errors.WatariError as error:
            _log.info("not begun", vm_id=machine.vm_id, reason=error.reason)
            with self._store.write() as connection:
                recorded = records.get(connection, machine.migration_id) is not None
                if not recorded:
                    refused = planning.after_refusal(machine, error, situation, self._limits)
                    rows.put(connection, [refused])
            if recorded:  # It failed after that: it runs, or nobody has let it yet.
                self._migrations.drive(machine.migration_id)
            return
        failpoint.hit(AFTER_START)

    def _situation(self, connection: Connection, evacuation: Evacuation) -> Situation:
        return looking.situation(connection, self._cloud_id, evacuation, self._clock.now())

    def _record(self, connection: Connection, new: Evacuation, caller: SpiffeId) -> None:
        if len(rows.active(connection)) >= self._limits.active_max:
            raise _too_many(self._limits.active_max, "evacuations have not ended")
        rows.insert(connection, new)
        found = planning.plan(self._situation(connection, new), self._limits)
        # Found here, so that the answer tells how many there are; started by `check`.
        waiting = [each for each in found.changed if each.stage is Stage.WAITING]
        waiting += [_unbegun(each) for each in found.begin]
        rows.put(connection, waiting)
        self._note(
            connection,
            "started",
            new.evacuation_id,
            caller,
            host_id=new.request.host_id,
            to_clouds=", ".join(new.to_clouds),
            concurrency=new.request.concurrency,
            mode=common_pb2.MigrationMode.Name(new.request.mode),
            machines=len(waiting),
        )

    def _follow(
        self, evacuation_id: str, gone: Callable[[], bool]
    ) -> Iterator[manager_pb2.Evacuation]:
        never = threading.Event()
        shown = None
        while not (shown is not None and shown.done) and not gone():
            latest = self.get(evacuation_id)
            if latest != shown:
                yield latest
                shown = latest
            if not latest.done:
                self._clock.wait(never, WATCH_SECONDS)

    def _require_host(self, host_id: str) -> None:
        if host_id and host_id not in self._host_ids:
            known = ", ".join(sorted(self._host_ids)) or "none"
            raise validate.invalid_field(
                "host_id", f"cloud {self._cloud_id} has no host {host_id}", f"its hosts: {known}"
            )

    def _require_cloud(self, cloud_id: str) -> None:
        if cloud_id == self._cloud_id:
            raise validate.invalid_field(
                "to_clouds", f"{cloud_id} is the cloud that is evacuated", "other clouds"
            )
        self._peers.find(cloud_id)

    def _note(
        self,
        connection: Connection,
        what: str,
        evacuation_id: str,
        actor: SpiffeId,
        **details: object,
    ) -> None:
        audit.append(
            connection,
            self._now(),
            actor=actor,
            action=f"evacuation.{what}",
            subject=evacuation_id,
            details=details,
        )

    def _now(self) -> int:
        return micros(self._clock.now())


def _unbegun(machine: Machine) -> Machine:
    return Machine(machine.evacuation_id, machine.vm_id, machine.vm_name, machine.disk_bytes)


def _require_same(known: Evacuation, new: Evacuation) -> None:
    if (known.request, known.requested_by) != (new.request, new.requested_by):
        raise errors.AlreadyExists(
            "ID_REUSED",
            f"evacuation_id {new.evacuation_id} was used before with other content",
            hint="make a new UUID",
            field="evacuation_id",
        )


def _too_many(limit: int, what: str) -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        f"{limit} {what} already",
        hint="repeat when one has ended, or raise the limit in [manager.evacuations]",
    )
