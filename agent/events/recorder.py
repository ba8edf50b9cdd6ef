"""Writes down what happens on the host: what is told, what is found, and what transfers moved.

```
hypervisor --- told ---> queue --+
calls of the manager  ------------+--> compare with what the log knows --> EventLog
a look every few seconds ---------+
```

All three go through the same comparison, so whichever notices a change first records it, and the
others find nothing left to record.
"""

import contextlib
import datetime
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from agent.events import comparing
from agent.events.comparing import Machine
from agent.events.log import EventLog
from agent.hypervisors import Change, Hypervisor, Retained
from watari import clock, errors, logs
from watari.v1 import agent_pb2

CHANGES_MAX = 4096
"""Changes that wait to be recorded; what comes beyond them is left to the next look."""

LOOK_SAVED_SECONDS = 60.0
"""How often it is noted that a look found nothing: what the instant of a change that came about
while the agent was away is bounded by.
"""

REASON_CHARS_MAX = 64

BUSY_SECONDS_MAX = 0.2
"""How long a call waits for what is being recorded, before it leaves its own to the recorder."""

JOIN_SECONDS_MAX = 10.0
"""How long stopping waits for what is being recorded."""

_TURNS = frozenset({agent_pb2.HOST_EVENT_KIND_STARTED, agent_pb2.HOST_EVENT_KIND_STOPPED})

_log = logs.get(__name__)


@dataclass(frozen=True)
class _Seen:
    """How something was noticed."""

    at: datetime.datetime
    reason: str = ""
    inferred: bool = False
    looked_before: datetime.datetime | None = None


class Recorder:
    """One a host. As a context manager: looks, and records what is told, within the block. What
    it is told never raises: nothing is kept from a machine because the log cannot be written.
    """

    def __init__(
        self, log: EventLog, hypervisor: Hypervisor, look_seconds: float, time: clock.Clock
    ) -> None:
        self._event_log = log
        self._hypervisor = hypervisor
        self._look_seconds = look_seconds
        self._clock = time
        self._recording = threading.Lock()
        self._wake = threading.Condition()
        self._queue: deque[Change] = deque()
        self._touched: set[str] = set()
        self._stopping = False
        self._looked_at = log.looked_at
        self._thread = threading.Thread(target=self._run, name="agent-events", daemon=True)

    def __enter__(self) -> Self:
        """The first look is over when it returns: what is served afterwards comes on top of it."""
        self._hypervisor.follow(self.told)
        with _harmless():
            self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(JOIN_SECONDS_MAX)

    def told(self, change: Change) -> None:
        """The hypervisor tells of a change. Returns at once."""
        with self._wake:
            # Even where the queue is full: what a look that is under way has seen is old by now.
            self._touched.add(change.vm_id)
            if len(self._queue) < CHANGES_MAX:
                self._queue.append(change)
            self._wake.notify_all()

    def noticed(self, vm_id: str) -> None:
        """A call has just made a machine come, go or change hands."""
        change = Change(vm_id, self._clock.now())
        with _harmless():
            # A hypervisor that does not answer somebody else keeps no machine from starting.
            if not self._recording.acquire(timeout=BUSY_SECONDS_MAX):
                self.told(change)
                return
            try:
                self._compare(change)
            finally:
                self._recording.release()

    def discarded(self, migration_id: str) -> None:
        """A call has just made what a migration had brought go."""
        known = self._event_log.machines.items()  # of this moment: the log replaces it as a whole
        for vm_id in [vm_id for vm_id, each in known if each.arrived_in == migration_id]:
            self.noticed(vm_id)

    def moved(self, event: agent_pb2.HostEvent) -> None:
        """A transfer, or a session of one, has ended."""
        event.reason = event.reason[:REASON_CHARS_MAX]
        event.occurred_at.FromDatetime(self._clock.now())
        with _harmless(), self._recording:
            known = self._event_log.machines.get(event.vm_id)
            if known is not None:
                event.vm_name, event.tenant = known.name, known.tenant
                event.state = known.state
                event.resources.CopyFrom(known.resources)
            self._append([event], {})

    def look(self) -> None:
        """Records what has changed since the log was written, but for what is being told."""
        with self._wake:
            self._touched.clear()
        self._record_told()
        at = self._clock.now()
        try:
            guests = self._hypervisor.guests()
            retained = _by_stay(self._hypervisor.retained())
        except errors.WatariError as error:
            _log.debug("machines cannot be looked at", reason=error.reason)
            return
        found = {each.vm_id: comparing.machine(each) for each in guests if each.vm_id}
        with self._recording:
            with self._wake:
                touched = set(self._touched)
            new_log = self._event_log.looked_at is None
            seen = _Seen(at, inferred=True, looked_before=None if new_log else self._looked_at)
            events, machines = list[agent_pb2.HostEvent](), dict[str, Machine | None]()
            for vm_id in sorted({*found, *self._event_log.machines} - touched):
                known = self._event_log.machines.get(vm_id)
                left = _left(known, retained)
                # One whose definition cannot be read any more may be the one that is missing.
                if vm_id not in found and not left and len(found) < len(guests):
                    continue
                steps, now = comparing.compare(
                    known, found.get(vm_id), departed_in=left, new_log=new_log
                )
                events += [_dated(each, seen) for each in steps]
                if now != known:
                    machines[vm_id] = now
            saved = self._event_log.looked_at
            due = saved is None or (at - saved).total_seconds() >= LOOK_SAVED_SECONDS
            if events or machines or due:
                self._append(events, machines, at)
            self._looked_at = at

    def _run(self) -> None:
        due = self._clock.monotonic() + self._look_seconds
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._queue or self._stopping, max(0.0, due - self._clock.monotonic())
                )
                if self._stopping:
                    return
            with _harmless():
                self._record_told()
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + self._look_seconds
                    self.look()

    def _record_told(self) -> None:
        while True:
            with self._wake:
                if not self._queue:
                    return
                change = self._queue.popleft()
            self._record(change)

    def _record(self, change: Change) -> None:
        with self._recording:
            self._compare(change)

    def _compare(self, change: Change) -> None:
        """One machine as it is now; whether it runs is what was told, or stays as it is known."""
        with self._wake:
            self._touched.add(change.vm_id)
        known = self._event_log.machines.get(change.vm_id)
        try:
            found = self._found(change.vm_id)
            retained = {} if found else _by_stay(self._hypervisor.retained())
        except errors.WatariError as error:
            _log.debug("machine cannot be looked at", reason=error.reason)
            return
        steps, now = comparing.compare(
            known,
            _as_told(change, known, found),
            departed_in=_left(known, retained),
            new_log=self._event_log.looked_at is None,
        )
        seen = _Seen(change.at, change.reason[:REASON_CHARS_MAX])
        if now != known:
            self._append([_dated(each, seen) for each in steps], {change.vm_id: now})

    def _found(self, vm_id: str) -> Machine | None:
        try:
            return comparing.machine(self._hypervisor.guest(vm_id))
        except errors.NotFound:
            return None

    def _append(
        self,
        events: list[agent_pb2.HostEvent],
        machines: Mapping[str, Machine | None],
        looked_at: datetime.datetime | None = None,
    ) -> None:
        try:
            self._event_log.append(events, machines, looked_at)
        except errors.WatariError as error:
            _log.error("events are not recorded", reason=error.reason, problem=error.message)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - logged, and the next look finds what is missing
        _log.exception("recording events failed")


def _as_told(change: Change, known: Machine | None, found: Machine | None) -> Machine | None:
    """A machine as it was when that was told: what it did since is told next."""
    if found is None:
        # It is gone already, which is told by itself. Until then it only stopped.
        return None if change.runs is None or known is None else _running(known, change.runs)
    before = known.runs if known is not None else False
    return _running(found, before if change.runs is None else change.runs)


def _running(machine: Machine, runs: bool) -> Machine:
    if machine.runs == runs:
        return machine
    return replace(machine, state=agent_pb2.GUEST_STATE_RUNNING if runs else comparing.OFF)


def _by_stay(retained: Sequence[Retained]) -> dict[tuple[str, int], str]:
    return {(each.vm_id, each.epoch): each.migration_id for each in retained}


def _left(known: Machine | None, retained: Mapping[tuple[str, int], str]) -> str:
    """The migration that took a machine away. What is retained of an earlier stay has a lower
    epoch than the one that it came back with.
    """
    if known is None:
        return ""
    copies = [key for key in retained if key[0] == known.vm_id and key[1] >= known.epoch]
    return retained[max(copies)] if copies else ""


def _dated(event: agent_pb2.HostEvent, seen: _Seen) -> agent_pb2.HostEvent:
    event.occurred_at.FromDatetime(seen.at)
    event.inferred = seen.inferred
    if seen.looked_before is not None:
        event.looked_before_at.FromDatetime(seen.looked_before)
    if event.kind in _TURNS:
        event.reason = seen.reason
    return event
