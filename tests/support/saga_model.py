"""A small model of two managers and two hosts that move one machine, for a search through all that
can happen to it.

What is decided is decided by the code itself: `steps.next_step`, `steps.after_failure`,
`steps.end_state`, `states.check`, `takeover.on_hand_over`, `takeover.gives_up` and the table of
reservations. The rest is the contract of the agents and the order of the managers' transactions.

A transaction is one step, so a crash lies between any two. A call is two: it is carried out, and
later its answer is heard. In between the caller may crash, which is also how an answer is lost; a
call that is sent and not carried out is lost on the way. Whatever was sent once may be carried out
again at any time (`sent`), however late. Time may run out whenever it matters.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from manager import takeover
from manager.reservation import TRANSITIONS
from manager.reservation import State as Room
from manager.saga import states, steps
from manager.saga.record import Record
from manager.saga.states import State
from manager.saga.steps import Back, Party, Step
from manager.settings.migrations import MigrationSettings
from manager.takeover import Answer
from watari import errors
from watari.v1 import common_pb2, manager_pb2

A, B = "A", "B"
OFF, RUNS, STOPPED, GONE = "off", "runs", "stopped for the migration", "retired"
HALF, DEFINED, PREPARED = "renamed", "defined", "prepared"
CALLS = (
    *("hold", "transfer", "unhold", "take_back", "retire"),
    *("reserve", "confirm", "release", "hand_over"),
    *("activate", "discard", "start"),
)
_BIT = {call: 1 << number for number, call in enumerate(CALLS)}
LIMITS = MigrationSettings()
AWAY = errors.Unavailable("PEER_UNAVAILABLE", "away")
UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "does not start here")
FOREVER = 1e12
NOBODY: frozenset[str] = frozenset()
_STEADY = frozenset({State.ROLLING_BACK})
"""States in which what was done within the step is remembered while the rest is tried again."""


class World(NamedTuple):
    """Everything that is on disk, in memory and on the way."""

    run: bool
    """Whether the machine ran when all began."""
    broken: bool = False
    """Whether the destination's host can make nothing of a machine that is off."""

    state: State = State.REQUESTED
    cancel: bool = False
    problem: bool = False
    asked: bool = False
    """The reserve request is on disk."""
    owner_a: tuple[int, str] = (1, A)
    owes_a: frozenset[str] = NOBODY
    done: str = ""
    """How far manager A is within a step; memory."""
    heard_a: tuple[str, str] | None = None
    """The answer to the call that manager A waits for; memory."""

    room: Room | None = None
    handed: bool = False
    owner_b: tuple[int, str] = (0, "")
    owes_b: frozenset[str] = NOBODY
    heard_b: str | None = None

    guest_a: str = OFF
    held: bool = False
    epoch: int = 1
    copy: str = ""
    guest_b: str = ""
    arrived: bool = False
    refused: bool = False
    sent: int = 0


Steps = Iterator[tuple[str, World]]


@cache
def record(state: State, cancel: bool = False, problem: bool = False) -> Record:
    """A migration as the decisions see it."""
    return Record(
        migration_id="00000000-0000-4000-8000-000000000001",
        vm_id="00000000-0000-4000-8000-000000000002",
        vm_name="web-1",
        tenant_domain="tokyo.example",
        tenant="acme",
        host_id="host1",
        to_cloud="osaka",
        to_manager="spiffe://osaka.example/manager/main",
        state=state,
        generation=1,
        source_epoch=1,
        requested_by="spiffe://tokyo.example/operator/main",
        request=manager_pb2.MigrateVmRequest(),
        created_at=0,
        state_changed_at=0,
        cancel_requested=cancel,
        problem=common_pb2.Problem() if problem else None,
    )


@cache
def next_step(state: State, cancel: bool) -> Step:
    """The real decision."""
    return steps.next_step(record(state, cancel))


@cache
def turns_back(state: State) -> bool:
    """Whether the real decision may be to roll back, however a step fails."""
    outcomes = [
        steps.after_failure(
            record(state), party, error, failures=1, waited_seconds=waited, limits=LIMITS
        )
        for party in Party
        for error in (AWAY, UNFIT)
        for waited in (0.0, FOREVER)
    ]
    return any(isinstance(outcome, Back) for outcome in outcomes)


class Model:
    """What can happen next. `rules` names the rules that are broken, to see the search notice."""

    def __init__(self, rules: frozenset[str] = NOBODY) -> None:
        self.rules = rules

    # ---- what is carried out where ----

    def carry_out(self, w: World, call: str) -> list[tuple[str, World]]:
        """The answers that a call may have, each with the world after it; the good one first."""
        handler: Callable[[World], list[tuple[str, World]]] = getattr(self, f"_{call}")
        return handler(w)

    def _hold(self, w: World) -> list[tuple[str, World]]:
        if w.guest_a == GONE:
            return [("refused", w)]
        return [("ok", w._replace(held=True)), ("refused", w)]

    def _transfer(self, w: World) -> list[tuple[str, World]]:
        if not w.held or w.guest_a == GONE:
            return [("refused", w)]
        if w.copy == "refused":
            return [("refused", w)]
        if w.copy in ("", "failed"):
            return [("copying", w._replace(copy="copying"))]
        return [(w.copy, w)]

    def _unhold(self, w: World) -> list[tuple[str, World]]:
        return self._end_hold(w, w.epoch)

    def _take_back(self, w: World) -> list[tuple[str, World]]:
        return self._end_hold(w, 3)

    def _end_hold(self, w: World, epoch: int) -> list[tuple[str, World]]:
        if not w.held:
            return [("ok", w._replace(copy="" if w.copy != "done" else "done"))]
        guest = RUNS if w.guest_a == STOPPED else w.guest_a
        ended = w._replace(held=False, epoch=epoch, guest_a=guest, copy="")
        return [("ok", ended), ("failed", w)]

    def _retire(self, w: World) -> list[tuple[str, World]]:
        if w.guest_a == GONE:
            return [("ok", w)]
        return [("ok", w._replace(guest_a=GONE, held=False))] if w.held else [("failed", w)]

    def _reserve(self, w: World) -> list[tuple[str, World]]:
        if w.room is None:
            return [("ok", w._replace(room=Room.PENDING)), ("refused", w)]
        return [("ok" if w.room in (Room.PENDING, Room.CONFIRMED) else "refused", w)]

    def _confirm(self, w: World) -> list[tuple[str, World]]:
        if w.room is Room.PENDING:
            return [("ok", self._move(w, Room.CONFIRMED))]
        return [("ok" if w.room in (Room.CONFIRMED, Room.USED) else "refused", w)]

    def _release(self, w: World) -> list[tuple[str, World]]:
        handed = w.handed and "release after the hand-over" not in self.rules
        if w.room in (Room.PENDING, Room.CONFIRMED) and not handed:
            freed = self._move(w, Room.RELEASED)
            return [("ok", freed._replace(owes_b=w.owes_b | {"discard"}))]
        return [("ok", w)]

    def _hand_over(self, w: World) -> list[tuple[str, World]]:
        if w.room is None:
            return [("refused", w)]
        recorded = b"hand-over" if w.handed else None
        match takeover.on_hand_over(w.room, recorded, b"hand-over"):
            case Answer.RECORD:
                w = w._replace(handed=True)
            case Answer.RELINQUISH:
                w = self._relinquish(w)
            case Answer.REFUSE:
                return [("refused", w)]
        if w.room is Room.RELINQUISHED:
            return [("relinquished", w)]
        if w.room is not Room.USED:
            return [("wait", w)]
        # Once the host has refused to start it the source is told, and the start stays owed.
        return [("wait", w), ("accepted", w)] if "start" in w.owes_b else [("accepted", w)]

    def _activate(self, w: World) -> list[tuple[str, World]]:
        if w.guest_b == "" and (not w.arrived or w.refused):
            return [("unfit", w)]
        if w.broken:  # before or after what is renamed first
            return [("unfit", w), ("unfit", w._replace(guest_b=HALF, arrived=False))]
        if w.guest_b == "":
            w = w._replace(guest_b=DEFINED, arrived=False)
        if w.guest_b != DEFINED or not w.run:
            return [("ok", w)]
        ready = RUNS if "prepare runs it" in self.rules else PREPARED
        return [("ok", w._replace(guest_b=ready)), ("unfit", w)]

    def _discard(self, w: World) -> list[tuple[str, World]]:
        w = w._replace(refused="a discard is forgotten" not in self.rules)
        if w.guest_b == RUNS or (w.guest_b == DEFINED and not w.run):
            return [("committed", w)]
        if w.guest_b == HALF and "half a machine counts as one" in self.rules:
            return [("committed", w)]
        return [("ok", w._replace(guest_b="", arrived=False))]

    def _start(self, w: World) -> list[tuple[str, World]]:
        if w.guest_b in (DEFINED, PREPARED):
            return [("ok", w._replace(guest_b=RUNS)), ("failed", w)]
        return [("ok", w)]

    # ---- transactions ----

    def _go(self, w: World, to: State) -> World:
        states.check(w.state, to)
        return w._replace(state=to, done="", heard_a=None)

    def _move(self, w: World, to: Room) -> World:
        assert w.room is not None
        assert self.rules or to in TRANSITIONS[w.room], (w.room, to)
        return w._replace(room=to)

    def _relinquish(self, w: World) -> World:
        owed = w.owes_b if "relinquish without discard" in self.rules else w.owes_b | {"discard"}
        given = self._move(w, Room.RELINQUISHED)
        return given._replace(handed=True, owner_b=(3, A), owes_b=owed)

    def _end(self, w: World, *owed: str) -> World:
        ended = self._go(w, steps.end_state(record(w.state, w.cancel, w.problem)))
        return ended._replace(owes_a=ended.owes_a | set(owed))

    # ---- manager A ----

    def manager_a(self, w: World, *, calm: bool) -> Steps:
        """What the source's manager does next."""
        if w.heard_a is not None:
            yield from self._hear_a(w)
            return
        match next_step(w.state, w.cancel):
            case Step.BEGIN:
                yield "A begins", self._go(w, State.RESERVING)
            case Step.END:
                yield "A ends it", self._end(w)
            case Step.GO_BACK:
                yield "A turns round", self._go(w, State.ROLLING_BACK)
            case Step.RESERVE:
                yield from self._ask(w, "reserve" if w.done else "hold", calm)
            case Step.COPY:
                yield from self._ask(w, "transfer", calm)
            case Step.COMMIT:
                yield from self._ask(w, "confirm", calm)
            case Step.HAND_OVER:
                yield from self._ask(w, "hand_over", calm)
            case Step.RETIRE:
                yield from self._ask(w, "retire", calm)
            case Step.TAKE_BACK:
                yield from self._ask(w, "take_back", calm)
            case Step.UNDO:
                yield from self._undo(w, calm)

    def _ask(self, w: World, call: str, calm: bool) -> Steps:
        asked = w._replace(sent=w.sent | _BIT[call])
        for answer, after in self.carry_out(asked, call):
            yield f"{call}: {answer}", after._replace(heard_a=(call, answer))
            if calm:
                return
        if asked != w:
            yield f"{call} is lost", asked

    def _undo(self, w: World, calm: bool) -> Steps:
        if not w.done:
            yield from self._ask(w, "unhold", calm)
            if not calm:
                yield "A owes unhold", w._replace(done="owes unhold")
            return
        owed = [w.done.removeprefix("owes ")] if w.done.startswith("owes") else []
        if not w.asked:
            yield "A ends it", self._end(w, *owed)
            return
        yield from self._ask(w, "release", calm)
        if not calm:
            yield "A ends it and owes release", self._end(w, *owed, "release")

    def _hear_a(self, w: World) -> Steps:
        assert w.heard_a is not None
        call, answer = w.heard_a
        w = w._replace(heard_a=None)
        if w.cancel and w.state in states.CANCELLABLE:
            yield "A finds it cancelled", w
            return
        match (call, answer):
            case ("hold", "ok"):
                yield "A asks for room", w._replace(done="held", asked=True)
            case ("reserve", "ok"):
                yield "A has a grant", self._go(w, State.COPYING)
            case ("transfer", "done"):
                yield "A has the receipt", self._go(w, State.CONFIRMING)
            case ("confirm", "ok"):
                yield "A commits", self._go(w, State.HANDED_OVER)._replace(owner_a=(2, B))
            case ("hand_over", "accepted"):
                yield "A retires", self._go(w, State.RETIRING)
            case ("hand_over", "relinquished"):
                taken = self._go(w, State.TAKING_BACK)
                yield "A takes it back", taken._replace(owner_a=(3, A), problem=True)
            case ("retire", "ok"):
                yield "A ends it", self._end(w)
            case ("take_back", "ok"):
                yield "A ends it", self._end(w)
            case ("unhold", "ok"):
                yield "A has it unheld", w._replace(done="unheld")
            case ("release", _):
                owed = [w.done.removeprefix("owes ")] if w.done.startswith("owes") else []
                yield "A ends it", self._end(w, *owed)
            case (_, "refused") if turns_back(w.state):
                yield "A is refused", self._go(w, State.ROLLING_BACK)._replace(problem=True)
            case _:
                yield "A tries again", w._replace(done=w.done if w.state in _STEADY else "")

    # ---- manager B ----

    def manager_b(self, w: World, *, calm: bool) -> Steps:
        """What the destination's manager does next, by itself or because it was asked again."""
        if w.heard_b is not None:
            yield from self._hear_b(w)
            return
        if w.room is not Room.CONFIRMED or not w.handed:
            return
        asked = w._replace(sent=w.sent | _BIT["activate"])
        if "start before it is owned" in self.rules and w.guest_b in (DEFINED, PREPARED):
            yield "B starts it early", w._replace(guest_b=RUNS)
        for answer, after in self.carry_out(asked, "activate"):
            yield f"activate: {answer}", after._replace(heard_b=answer)
            if calm:
                return
        if asked != w:
            yield "activate is lost", asked

    def _hear_b(self, w: World) -> Steps:
        answer, w = w.heard_b, w._replace(heard_b=None)
        if w.room is not Room.CONFIRMED:
            yield "B was here first", w
        elif answer == "ok":
            forgets = not w.run or "the start is not owed" in self.rules
            owed = w.owes_b if forgets else w.owes_b | {"start"}
            yield "B owns it", self._move(w, Room.USED)._replace(owner_b=(2, B), owes_b=owed)
        elif self._gives_up(w, UNFIT, 0):
            yield "B gives it back", self._relinquish(w)

    def _gives_up(self, w: World, error: errors.WatariError, waited: float) -> bool:
        return takeover.gives_up(
            error, run=w.run, kept=False, waited_seconds=waited, seconds_max=300
        )

    # ---- what is owed, and what time does ----

    def owed(self, w: World, *, calm: bool) -> Steps:
        """The janitors, and what the source's manager finds when it looks at its host."""
        for call in sorted(w.owes_a):
            yield from self._pay(w, call, calm, lambda x, c: x._replace(owes_a=x.owes_a - {c}))
        for call in sorted(w.owes_b):
            yield from self._pay(w, call, calm, lambda x, c: x._replace(owes_b=x.owes_b - {c}))
        live = w.room in (Room.PENDING, Room.CONFIRMED, Room.USED)
        if w.arrived and not live:
            yield from self._pay(w, "discard", calm, lambda x, _: x)
        ended = w.state in (State.FAILED, State.CANCELLED) and w.owner_a[1] == A
        vain = ended or ("unhold in HANDED_OVER" in self.rules and w.state is State.HANDED_OVER)
        if w.held and vain:
            call = "take_back" if w.owner_a[0] == 3 else "unhold"
            yield from self._pay(w, call, calm, lambda x, _: x)

    def _pay(self, w: World, call: str, calm: bool, settle: Callable[[World, str], World]) -> Steps:
        asked = w._replace(sent=w.sent | _BIT[call])
        for answer, after in self.carry_out(asked, call):
            kept = answer == "committed" and w.room is Room.RELINQUISHED
            if answer != "failed" and not kept:
                yield f"owed {call}: {answer}", settle(after, call)
            if calm:
                return
            yield f"owed {call}: {answer}, not heard", after

    def time(self, w: World) -> Steps:
        """What ends because it takes too long."""
        if w.room is Room.PENDING:
            expired = self._move(w, Room.EXPIRED)
            yield "room expires", expired._replace(owes_b=w.owes_b | {"discard"})
        waits = w.room is Room.CONFIRMED and w.handed and w.heard_b is None
        if waits and self._gives_up(w, AWAY, FOREVER):
            yield "B gives up waiting", self._relinquish(w)
        late = "relinquish after the start is owed" in self.rules
        if late and w.room is Room.USED and "start" in w.owes_b:
            yield "B gives up too late", self._relinquish(w)

    # ---- the hosts, and faults ----

    def hosts(self, w: World) -> Steps:
        """A transfer between the hosts goes on: the destination accepts the definition, only then
        is the machine stopped, only then does the rest arrive.
        """
        if w.copy == "copying":
            accepted = not w.refused and not w.guest_b
            stopped = STOPPED if w.guest_a == RUNS else w.guest_a
            yield (
                "the last round begins" if accepted else "the destination refuses",
                w._replace(copy="last", guest_a=stopped)
                if accepted
                else w._replace(copy="refused"),
            )
        elif w.copy == "last":
            gone = w.refused or bool(w.guest_b)
            moved = w._replace(copy="refused") if gone else w._replace(copy="done", arrived=True)
            yield "the copy ends", moved

    def faults(self, w: World) -> Steps:
        """What nobody wants and everybody must expect."""
        if w.heard_a is not None or w.done:
            yield "manager A crashes", w._replace(heard_a=None, done="")
        if w.heard_b is not None:
            yield "manager B crashes", w._replace(heard_b=None)
        if w.copy in ("copying", "last"):
            yield "agent A crashes", w._replace(copy="failed")
        if w.guest_b == PREPARED:
            yield "agent B and what it prepared crash", w._replace(guest_b=DEFINED)
        for call in CALLS:
            if w.sent & _BIT[call]:
                for answer, after in self.carry_out(w, call):
                    yield f"late {call}: {answer}", after

    def people(self, w: World) -> Steps:
        """Somebody cancels, the source loses patience, or the destination's operator gives up what
        was not handed over (`ResolveMigration`), which is always allowed.
        """
        if w.room in (Room.PENDING, Room.CONFIRMED):
            for _, after in self._release(w):
                if after != w:
                    yield "B's operator gives it up", after
        may = w.state in states.CANCELLABLE
        if "cancel after the commit" in self.rules and w.state is State.HANDED_OVER:
            yield "cancelled too late", w._replace(state=State.ROLLING_BACK, cancel=True, done="")
        if may and not w.cancel:
            yield "cancelled", w._replace(cancel=True)
        if w.state not in states.FINAL and turns_back(w.state):
            back = State.FAILED if w.state is State.REQUESTED else State.ROLLING_BACK
            yield "A rolls back", self._go(w, back)._replace(problem=True)

    def all_steps(self, w: World) -> Steps:
        """Everything that can happen."""
        yield from self.manager_a(w, calm=False)
        yield from self.manager_b(w, calm=False)
        yield from self.owed(w, calm=False)
        yield from self.time(w)
        yield from self.hosts(w)
        yield from self.faults(w)
        yield from self.people(w)

    def calm_round(self, w: World, order: int) -> list[World]:
        """What happens next when nothing goes wrong any more: everybody takes a step, or nobody has
        one. `order` says who is quicker.
        """
        groups: list[Callable[[World], Steps]] = [
            lambda x: self.manager_a(x, calm=True),
            lambda x: self.manager_b(x, calm=True),
            lambda x: self.owed(x, calm=True),
            self.hosts,
            self._late_expiry,
        ]
        quicker = [groups, groups[::-1], groups[2:] + groups[:2], groups[1::-1] + groups[2:]][order]
        passed = []
        for group in quicker:
            after = next((after for _, after in group(w)), w)
            if after._replace(sent=0) != w._replace(sent=0):
                passed.append(after)
                w = after
        return passed

    def _late_expiry(self, w: World) -> Steps:
        if w.state in states.FINAL and w.room is Room.PENDING:
            yield from self.time(w)
