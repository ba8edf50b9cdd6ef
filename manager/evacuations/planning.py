"""What an evacuation does next: functions of values, so that all of them can be tested.

Everything follows from the rows, from how the migrations stand and from the time, which is why an
evacuation that was cut off anywhere goes on. Who goes first: whom the request names, in its order;
then the smallest. Small ones first bring the most machines to safety early, whenever the work has
to be broken off, and show on cheap ones what keeps machines from arriving at all. It takes up to
one large machine longer to the very end than the other way round; who wants that names the large
ones in `first`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from manager.evacuations.rows import OPEN, Evacuation, Machine, Stage
from manager.saga.states import FINAL, State
from manager.settings.migrations import EvacuationSettings
from watari import errors
from watari.v1 import common_pb2, manager_pb2

ELSEWHERE = frozenset(
    {
        "INSUFFICIENT_CAPACITY",
        "QUOTA_EXCEEDED",
        "BUDGET_EXCEEDED",
        "NO_CANDIDATE",
        "DISK_FULL",
        "CLOUD_NOT_FOUND",
        "PROVIDER_UNKNOWN",
        "CERTIFICATE_DENIED",
        "HOST_INCOMPATIBLE",
        "NETWORK_UNKNOWN",
        "VM_RELINQUISHED",
    }
)
"""Problems of one destination: another one may have room, or run what this one cannot."""

NOT_YET = frozenset({"VM_BUSY", "VM_NOT_FOUND", "SERVER_UNAVAILABLE", "TOO_MANY_TRANSFERS"})
"""Refusals of a migration that say nothing about it: looked at again later, however often."""


@dataclass(frozen=True)
class Present:
    """A machine that the cloud owns where the evacuation is."""

    vm_id: str
    name: str
    disk_bytes: int = 0
    migration_id: str = ""
    """What moves it."""


@dataclass(frozen=True)
class Standing:
    """How a migration stands."""

    state: State
    problem: common_pb2.Problem | None = None


@dataclass(frozen=True)
class Situation:
    """All that a plan depends on."""

    evacuation: Evacuation
    machines: Mapping[str, Machine]
    """By UUID."""

    present: Mapping[str, Present]
    """By UUID."""

    migrations: Mapping[str, Standing]
    """By id: the last ones of machines that are RUNNING, as far as they were recorded."""

    now: int
    """Microseconds since 1970."""

    minute: int
    """Minutes since midnight, in the manager's local time."""


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    changed: Sequence[Machine] = ()
    """Rows to be written first."""

    begin: Sequence[Machine] = ()
    """RUNNING, and their migrations are to be started after that."""

    ended: bool = False
    waiting_for: common_pb2.Problem | None = None


@dataclass
class _Draft:
    machines: dict[str, Machine]
    before: Mapping[str, Machine]
    now: int
    running: list[Machine] = field(default_factory=list)

    def put(self, machine: Machine) -> Machine:
        changed = replace(machine, changed_at=self.now)
        self.machines[machine.vm_id] = changed
        return changed

    def changes(self) -> list[Machine]:
        return [each for each in self.machines.values() if self.before.get(each.vm_id) != each]


def plan(situation: Situation, limits: EvacuationSettings) -> Plan:
    """What to do now. Doing it, and planning again, leads to the end."""
    evacuation, now = situation.evacuation, situation.now
    draft = _Draft(dict(situation.machines), situation.machines, now)
    for machine in situation.machines.values():
        _look_at(draft, machine, situation, limits)
    undiscovered = 0 if evacuation.cancelled else _discover(draft, situation, limits)
    running = [each for each in draft.machines.values() if each.stage is Stage.RUNNING]
    waiting = [each for each in draft.machines.values() if each.stage is Stage.WAITING]
    begin = [each for each in running if each.migration_id not in situation.migrations]
    open_now = not evacuation.cancelled and in_window(evacuation.request, situation.minute)
    if open_now:
        room = evacuation.request.concurrency - len(running)
        ready = [each for each in waiting if _ready(each, situation)]
        for machine in ranked(ready, list(evacuation.request.first))[: max(room, 0)]:
            begun = replace(
                machine,
                stage=Stage.RUNNING,
                tries=machine.tries + 1,
                attempts=machine.attempts + 1,
            )
            begin.append(draft.put(begun))
    idle = not running and not begin
    ended = idle and (evacuation.cancelled or not (waiting or undiscovered))
    reason = _waits_for(waiting, situation) if idle and not ended else None
    return Plan(draft.changes(), begin, ended, reason)


def after_refusal(
    machine: Machine, error: errors.WatariError, situation: Situation, limits: EvacuationSettings
) -> Machine:
    """The machine's row after its migration could not even be recorded, which is no attempt."""
    back = replace(
        machine,
        stage=Stage.WAITING,
        tries=machine.tries - 1,
        attempts=machine.attempts - 1,
        changed_at=situation.now,
    )
    problem = errors.to_problem(error)
    elsewhere = problem.reason in ELSEWHERE
    if problem.reason in NOT_YET or (error.retryable and not elsewhere):
        due = situation.now + _micros(limits.retry_initial_seconds)
        return replace(back, due_at=due, problem=problem)
    return _judge(back, problem, situation, limits)


def ranked(machines: Iterable[Machine], first: Sequence[str]) -> list[Machine]:
    """Who goes first."""
    places = {key: place for place, key in reversed(list(enumerate(first)))}
    last = len(first)

    def place(machine: Machine) -> tuple[int, int, str, str]:
        named = min(places.get(machine.vm_id, last), places.get(machine.vm_name, last))
        return named, machine.disk_bytes, machine.vm_name, machine.vm_id

    return sorted(machines, key=place)


def in_window(request: manager_pb2.StartEvacuationRequest, minute: int) -> bool:
    """Whether migrations may be started at this minute of the day."""
    if not request.HasField("window"):
        return True
    begins, ends = request.window.from_minute, request.window.to_minute
    if begins < ends:
        return begins <= minute < ends
    return minute >= begins or minute < ends


def _look_at(
    draft: _Draft, machine: Machine, situation: Situation, limits: EvacuationSettings
) -> None:
    """Bring one machine's row up to date."""
    here = machine.vm_id in situation.present
    match machine.stage:
        case Stage.RUNNING:
            standing = situation.migrations.get(machine.migration_id)
            if standing is not None and standing.state in FINAL:
                draft.put(_after(machine, standing, situation, limits))
        case Stage.WAITING | Stage.FAILED if not here:
            draft.put(replace(machine, stage=Stage.GONE))
        case Stage.ARRIVED | Stage.GONE if here and not situation.evacuation.cancelled:
            # It came back: the ids of its next migrations go on from those that it has had.
            back = replace(machine, stage=Stage.WAITING, destination=0, tries=0, due_at=0)
            draft.put(replace(back, problem=None))


def _after(
    machine: Machine, standing: Standing, situation: Situation, limits: EvacuationSettings
) -> Machine:
    """The machine's row after its migration has ended."""
    if standing.state is State.SUCCEEDED:
        return replace(machine, stage=Stage.ARRIVED, problem=None)
    if standing.state is State.CANCELLED or standing.problem is None:
        # Whoever did knew why: starting it again would be to and fro.
        problem = errors.to_problem(
            errors.Cancelled(
                "CANCELLED",
                "its migration was cancelled",
                hint="migrate it by itself, or start another evacuation",
            )
        )
        return replace(machine, stage=Stage.FAILED, problem=problem)
    return _judge(machine, standing.problem, situation, limits)


def _judge(
    machine: Machine,
    problem: common_pb2.Problem,
    situation: Situation,
    limits: EvacuationSettings,
) -> Machine:
    """Again, to the next cloud, or not at all."""
    waiting = replace(machine, stage=Stage.WAITING, problem=problem)
    elsewhere = problem.reason in ELSEWHERE
    again = (problem.retryable or problem.reason in NOT_YET) and not elsewhere
    if again and machine.tries < limits.attempts_max:
        return replace(waiting, due_at=situation.now + _backoff(machine.tries, limits))
    more = machine.destination + 1 < len(situation.evacuation.to_clouds)
    if more and (elsewhere or again):
        onward = machine.destination + 1
        return replace(waiting, destination=onward, tries=0, due_at=situation.now)
    return replace(waiting, stage=Stage.FAILED)


def _discover(draft: _Draft, situation: Situation, limits: EvacuationSettings) -> int:
    """Take up machines that have no row yet; how many are left for later."""
    taken = sum(machine.stage in OPEN for machine in draft.machines.values())
    fresh = ranked(
        (
            Machine(situation.evacuation.evacuation_id, each.vm_id, each.name, each.disk_bytes)
            for each in situation.present.values()
            if each.vm_id not in situation.machines
        ),
        list(situation.evacuation.request.first),
    )
    room = max(limits.machines_max - taken, 0)
    for machine in fresh[:room]:
        draft.put(machine)
    return len(fresh[room:])


def _ready(machine: Machine, situation: Situation) -> bool:
    here = situation.present.get(machine.vm_id)
    return here is not None and not here.migration_id and machine.due_at <= situation.now


def _waits_for(waiting: Collection[Machine], situation: Situation) -> common_pb2.Problem | None:
    """Why nothing runs, of an evacuation that has not ended."""
    request = situation.evacuation.request
    if not in_window(request, situation.minute):
        return errors.to_problem(_outside(request.window))
    busy = [each for each in waiting if situation.present[each.vm_id].migration_id]
    for machine in busy[:1]:
        moving = situation.present[machine.vm_id].migration_id
        return errors.to_problem(
            errors.FailedPrecondition(
                "VM_BUSY",
                f"machine {machine.vm_name} is in migration {moving}",
                hint="it is waited for; watch or cancel that one",
                migration_id=moving,
            )
        )
    soonest = min(waiting, key=lambda machine: machine.due_at, default=None)
    return None if soonest is None else soonest.problem


def _outside(window: manager_pb2.MaintenanceWindow) -> errors.Unavailable:
    begins, ends = (
        f"{minute // 60:02}:{minute % 60:02}" for minute in (window.from_minute, window.to_minute)
    )
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        f"it is outside of the window {begins}-{ends}",
        hint="it goes on by itself then, in the local time of the manager's host",
    )


def _backoff(tries: int, limits: EvacuationSettings) -> int:
    """Microseconds until another try; doubles with each up to its limit."""
    delay = limits.retry_initial_seconds * 2.0 ** min(max(tries - 1, 0), 32)
    return _micros(min(delay, limits.retry_max_seconds))


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
