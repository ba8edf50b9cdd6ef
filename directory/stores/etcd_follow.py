"""Follows etcd: a snapshot, then every change, in order, into the replica; over any break.

A break is resumed from the last revision that was applied. When etcd no longer has that, or was put
back to an older state, the replica begins again from a snapshot.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, Protocol, TypeVar

from aetcd.rpc import rpc_pb2 as pb

from directory import etcd
from directory.etcd import Compacted, Etcd
from directory.stores import FIRST_REVISION, etcd_keys
from directory.stores.etcd_keys import Keys, Stored
from directory.stores.etcd_txn import put, when
from directory.stores.replica import CloudKey, Replica, Step
from directory.stores.versions import Row
from watari import errors, logs
from watari.clock import Clock

RANGE_RECORDS = 256
"""Keys in one answer of a snapshot: 16 MiB with records of the largest size."""

STEPS_AT_ONCE_MAX = 500
"""Revisions that are applied in one transaction of the replica."""

PAUSE_SECONDS = 0.1
"""Before the next try after a break."""

LAG_SECONDS_MAX = 3.0
"""How long the watch may bring nothing of what etcd says there is, before another one is opened."""

SILENCE_SECONDS_MAX = 2.5
"""How long etcd may say nothing before leases are given that time more; it is asked each second."""

FRESH_SECONDS_MAX = 5.0
"""How long after etcd's last word the replica counts as current."""

_Value = TypeVar("_Value")

_log = logs.get(__name__)


class Leases(Protocol):
    """Who wants to know about leases. Called by the follower's thread only."""

    def seen(self, lease_id: str, lease: etcd_keys.Lease, revision: int) -> None:
        """It was granted or renewed, at a revision of etcd."""

    def gone(self, lease_id: str) -> None:
        """It was revoked or has expired."""

    def only(self, lease_ids: set[str]) -> None:
        """No others are alive."""

    def resumed(self, after_seconds: float) -> None:
        """etcd is back after so long: nobody could renew a lease here meanwhile."""


class Follower:
    """The thread that follows. `applied` is the revision that the replica has reached."""

    def __init__(
        self,
        client: Etcd,
        keys: Keys,
        replica: Replica,
        leases: Leases,
        time: Clock,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called after every change of records."""
        self._etcd = client
        self._keys = keys
        self._replica = replica
        self._leases = leases
        self._clock = time
        self._changed = changed
        self._news = threading.Condition()
        self._applied = 0
        self._synced = False
        self._heard_at = time.monotonic()
        self._live = False
        self._again = False
        self._watch: etcd.Watch | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory-etcd", daemon=True)

    def start(self, seconds_max: float) -> None:
        """Begins, and waits until the replica has what etcd has; at most that long."""
        self._thread.start()
        with self._news:
            self._news.wait_for(lambda: self._synced, seconds_max)

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        if self._watch is not None:
            self._watch.cancel()
        self._thread.join(etcd.CALL_SECONDS_MAX + etcd.ATTEMPT_SECONDS_MAX)

    @property
    def synced(self) -> bool:
        """Whether the replica has had everything at least once."""
        return self._synced

    @property
    def live(self) -> bool:
        """Whether changes arrive as they happen."""
        return self._live and self.age() is None

    @property
    def applied(self) -> int:
        """A revision of etcd."""
        return self._applied

    def age(self) -> float | None:
        """Seconds since the replica was last known to have what etcd has, None while it is well."""
        age = self._clock.monotonic() - self._heard_at
        return age if age >= FRESH_SECONDS_MAX else None

    def await_revision(self, revision: int, seconds_max: float) -> bool:
        """Waits until the replica has a revision of etcd; tells whether it has."""
        with self._news:
            return self._news.wait_for(lambda: self._applied >= revision, seconds_max)

    def mark(self) -> int:
        """Writes the mark, and returns its revision: all that is in etcd now comes before it.

        Raises Unavailable STORE_UNAVAILABLE.
        """
        return int(self._etcd.txn(when([], [put(self._keys.mark)])).header.revision)

    def probe(self) -> None:
        """Asks etcd where it is, and begins anew when the replica does not follow."""
        had = self._applied  # before etcd is asked: it may well be further afterwards
        try:
            answer = self._etcd.range(pb.RangeRequest(key=self._keys.head))
        except errors.WatariError as error:
            _log.debug("etcd does not answer", problem=error.message)
            return
        if answer.header.revision < had:
            _log.warning("etcd was put back", revision=answer.header.revision, had=had)
            self._again = True
            self._break()
            return
        head = answer.kvs[0].mod_revision if answer.kvs else 0
        if self.await_revision(head, LAG_SECONDS_MAX):
            self._heard()
        elif self._applied == had:
            _log.warning("etcd's watch stands still", revision=head, applied=had)
            self._break()

    def _break(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.cancel()

    def _heard(self) -> None:
        """etcd has answered. Nobody could renew a lease here since it last did."""
        with self._news:
            now = self._clock.monotonic()
            away, self._heard_at = now - self._heard_at, now
        if away > SILENCE_SECONDS_MAX:
            self._leases.resumed(away)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except Compacted as error:
                self._snapshot_when_possible(error.revision)
            except errors.WatariError as error:
                if self._live and not self._stopped.is_set():
                    _log.warning("etcd is away", reason=error.reason, problem=error.message)
                self._live = False
                self._clock.wait(self._stopped, PAUSE_SECONDS)
            except Exception:  # noqa: BLE001 - logged; a catalogue that stands still helps nobody
                self._live = False
                _log.exception("following etcd failed; beginning again")
                self._again = True
                self._clock.wait(self._stopped, PAUSE_SECONDS)

    def _follow(self) -> None:
        if self._again:
            raise Compacted(0)
        # Written first, so that the replica has everything once it has this.
        mark = self.mark()
        with self._etcd.watch(self._keys.prefix, self._applied + 1) as watch:
            self._watch = watch
            for answer in watch:
                if self._stopped.is_set():
                    return
                self._heard()
                self._live = True
                self._take(answer)
                if self._applied >= mark:
                    self._in_step()

    def _in_step(self) -> None:
        if not self._synced:
            with self._news:
                self._synced = True
                self._news.notify_all()

    def _take(self, answer: pb.WatchResponse) -> None:
        steps = []
        for revision, events in groupby(answer.events, lambda event: int(event.kv.mod_revision)):
            steps.append(self._step(revision, events))
            if len(steps) == STEPS_AT_ONCE_MAX:
                self._apply(steps)
                steps = []
        self._apply(steps)
        if not answer.events and not answer.created:
            self._reached(answer.header.revision)

    def _apply(self, steps: list[Step]) -> None:
        if not steps:
            return
        changed = self._replica.add([step for step in steps if step.rows or step.clouds])
        self._reached(steps[-1].revision)
        if changed:
            self._changed()

    def _reached(self, revision: int) -> None:
        with self._news:
            self._applied = max(self._applied, revision)
            self._news.notify_all()

    def _step(self, revision: int, events: Iterable[Any]) -> Step:
        step = Step(revision)
        for event in events:
            deleted = event.type == event.DELETE
            try:
                self._note(step, event.kv, deleted)
            except ValueError as error:
                _unreadable(event.kv, error)
        return step

    def _note(self, step: Step, pair: Any, deleted: bool) -> None:
        name = pair.key
        if name.startswith(self._keys.records):
            row = Row(self._keys.record_key(name)) if deleted else self._row(pair)
            step.rows.append(row)
        elif name.startswith(self._keys.clouds):
            cloud_id = name.removeprefix(self._keys.clouds).decode()
            step.clouds[cloud_id] = None if deleted else cloud_of(pair)
        elif name.startswith(self._keys.leases):
            lease_id = name.removeprefix(self._keys.leases).decode()
            if deleted:
                self._leases.gone(lease_id)
            else:
                self._leases.seen(lease_id, lease_of(pair), pair.mod_revision)

    def _snapshot_when_possible(self, revision: int) -> None:
        try:
            self._snapshot(revision)
        except Compacted:
            return  # it was compacted again meanwhile: the next round finds out where to
        except errors.WatariError as error:
            _log.warning("no snapshot of etcd", problem=error.message)
            self._clock.wait(self._stopped, PAUSE_SECONDS)

    def _snapshot(self, revision: int) -> None:
        """All keys as they were at a revision of etcd; 0 is now."""
        found = self._etcd.range(pb.RangeRequest(key=self._keys.head, revision=revision))
        revision = revision or found.header.revision
        head = found.kvs[0].mod_revision if found.kvs else FIRST_REVISION
        leases = set()
        for name, pair, lease in self._read(revision, self._keys.leases, lease_of):
            self._leases.seen(name, lease, pair.mod_revision)
            leases.add(name)
        clouds = {
            name: cloud for name, _, cloud in self._read(revision, self._keys.clouds, cloud_of)
        }
        rows = [
            (int(pair.mod_revision), row)
            for _, pair, row in self._read(revision, self._keys.records, self._row)
        ]
        self._replica.reset(head, rows, clouds)
        self._leases.only(leases)
        with self._news:
            self._applied = revision
            self._news.notify_all()
        self._again = False
        _log.info("snapshot of etcd", revision=revision, records=len(rows), clouds=len(clouds))
        self._changed()

    def _read(
        self, revision: int, prefix: bytes, decode: Callable[[Any], _Value]
    ) -> Iterator[tuple[str, Any, _Value]]:
        """(rest of the key, pair, what it means) of all pairs under a prefix that can be read."""
        start, end = prefix, etcd.end_of(prefix)
        while True:
            request = pb.RangeRequest(
                key=start, range_end=end, revision=revision, limit=RANGE_RECORDS
            )
            answer = self._etcd.range(request)
            for pair in answer.kvs:
                try:
                    yield pair.key.removeprefix(prefix).decode(), pair, decode(pair)
                except ValueError as error:
                    _unreadable(pair, error)
            if not answer.more:
                return
            start = answer.kvs[-1].key + b"\0"

    def _row(self, pair: Any) -> Row:
        """A record's pair as the replica has it. Raises ValueError."""
        stored = Stored.decode(pair.value)
        record = stored.record
        record.generation = pair.version
        record.revision = pair.mod_revision
        record.stale = stored.stale_since is not None
        key, lease_id = self._keys.record_key(pair.key), stored.lease_id or None
        return Row(key, record.SerializeToString(), lease_id, stored.stale_since)


def lease_of(pair: Any) -> etcd_keys.Lease:
    """What a lease's pair means. Raises ValueError."""
    return etcd_keys.Lease.decode(pair.value)


def cloud_of(pair: Any) -> CloudKey:
    """A cloud's pair as the replica has it. Raises ValueError."""
    return CloudKey(etcd_keys.Cloud.decode(pair.value).owner, pair.mod_revision)


def _unreadable(pair: Any, error: ValueError) -> None:
    _log.warning("unreadable in etcd", key=repr(pair.key), problem=str(error))
