"""One machine, one owner, whatever happens: a search through every interleaving.

`tests.support.saga_model` says what can happen: crashes of both managers and both agents at any
step, calls and answers that are lost, calls that are carried out again at any later time,
cancellation, expiry, a destination's operator who gives up, machines that the destination cannot
start. The search goes on until there is
no new state. For each rule that matters there is a mutant without it, and the search finds what is
wrong with it.
"""

from collections import deque
from dataclasses import dataclass, field

import pytest

from manager.reservation import State as Room
from manager.saga import states
from manager.saga.states import State
from tests.support.saga_model import GONE, OFF, RUNS, A, B, Model, World
from watari import errors

DEPTH_MAX = 80
"""Steps from the beginning that are followed; the search ends long before by itself."""

ROUNDS_MAX = 60
"""Rounds within which everything has ended once nothing goes wrong any more."""

BEGINNINGS = {
    "a machine that runs": World(run=True, guest_a=RUNS),
    "a machine that is off": World(run=False, guest_a=OFF),
    "a machine that is off, and unfit for the destination": World(
        run=False, guest_a=OFF, broken=True
    ),
}

RUNNING, UNFIT = "a machine that runs", "a machine that is off, and unfit for the destination"
MUTANTS = {
    "start before it is owned": RUNNING,
    "prepare runs it": RUNNING,
    "unhold in HANDED_OVER": RUNNING,
    "relinquish after the start is owed": RUNNING,
    "release after the hand-over": RUNNING,
    "cancel after the commit": RUNNING,
    "the start is not owed": RUNNING,
    "relinquish without discard": RUNNING,
    "a discard is forgotten": RUNNING,
    "half a machine counts as one": UNFIT,
}


class Wrong(AssertionError):
    """A rule does not hold."""


@dataclass
class Search:
    """Every state that can be reached, breadth first."""

    model: Model
    came_from: dict[World, tuple[World | None, str]] = field(default_factory=dict)
    ends: set[World] = field(default_factory=set)
    depth: int = 0
    steps: int = 0

    def run(self, start: World) -> None:
        """Raises Wrong, with all that led to it."""
        self.came_from = {start: (None, "it begins")}
        todo = deque([(start, 0)])
        while todo:
            world, depth = todo.popleft()
            self.depth = max(self.depth, depth)
            assert depth < DEPTH_MAX, "the search does not end"
            try:
                check(world)
                self._ends_well(world)
                for what, after in self.model.all_steps(world):
                    self.steps += 1
                    if after not in self.came_from:
                        self.came_from[after] = (world, what)
                        todo.append((after, depth + 1))
            except (AssertionError, errors.WatariError) as error:
                raise Wrong(f"{error}\n{self._story(world)}") from error

    def _ends_well(self, start: World) -> None:
        """If nothing goes wrong any more, whoever is quicker."""
        for order in range(4):
            self._calms_down(start, order)

    def _calms_down(self, start: World, order: int) -> None:
        world, path = start, []
        while (world, order) not in self.ends:
            path.append((world, order))
            assert len(path) < ROUNDS_MAX, "it never ends"
            passed = self.model.calm_round(world, order)
            for each in passed:
                check(each)
            if not passed:
                check_end(world)
                break
            world = passed[-1]
        self.ends.update(path)

    def _story(self, world: World) -> str:
        lines: list[str] = [str(world)]
        at: World | None = world
        while at is not None:
            at, what = self.came_from[at]
            lines.append(what)
        return "\n".join(reversed(lines))


def check(w: World) -> None:
    """What holds in every state."""
    at_a = w.guest_a == RUNS or (w.guest_a != GONE and not w.held)
    at_b = w.guest_b == RUNS or (w.guest_b != "" and w.room is Room.USED)
    assert not (at_a and at_b), "two copies may run"
    assert not (w.owner_a[1] == A and w.owner_b[1] == B), "both clouds believe to own it"
    if w.owner_a[0] == w.owner_b[0]:
        assert w.owner_a == w.owner_b, "two owners at one epoch"
    owner = max(w.owner_a, w.owner_b)[1]
    if at_a:
        assert w.owner_a[1] == owner == A, "it may run at the source, which does not own it"
    if at_b:
        assert w.owner_b[1] == owner == B, "it may run at the destination, which does not own it"
        assert w.state in states.COMMITTED, "it may run at the destination before the commit"


def check_end(w: World) -> None:
    """What holds once nothing is left to do."""
    assert w.state in states.FINAL, "it has not ended"
    assert not w.owes_a, "the source still owes a call"
    assert not w.owes_b, "the destination still owes a call"
    assert w.room not in (Room.PENDING, Room.CONFIRMED), "room is held for nothing"
    if w.state is State.SUCCEEDED:
        assert w.owner_a == w.owner_b == (2, B), "it moved and the clouds do not agree"
        assert w.guest_a == GONE, "a copy is left at the source"
        assert w.guest_b == RUNS or (w.guest_b and not w.run), "it does not run at the destination"
        return
    assert w.owner_a[1] == A, "it stayed and the source does not own it"
    assert w.guest_a == (RUNS if w.run else OFF), "it is not at the source as it was"
    assert not w.held, "it is still held"
    assert w.epoch == w.owner_a[0], "the host has another epoch than its manager"
    assert not w.guest_b, "a copy is left at the destination"
    assert not w.arrived, "data is left at the destination"


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_whatever_happens_there_is_one_owner_and_one_copy_that_can_run(
    beginning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(Model())
    search.run(BEGINNINGS[beginning])
    found = len(search.came_from)
    seen = {world.state for world in search.came_from}
    rooms = {world.room for world in search.came_from}
    with capsys.disabled():
        print(
            f"\nsaga model, {beginning}: {found:,} states, {search.steps:,} steps between them, "
            f"all within {search.depth} of the beginning"
        )
    never = {Room.USED, State.RETIRING, State.SUCCEEDED} if "unfit" in beginning else set()
    # A migration claims what is booked and takes over what is held, if at all.
    never |= {Room.BOOKED, Room.HELD}
    assert seen == set(State) - never, "the search came everywhere"
    assert rooms == {None, *Room} - never


@pytest.mark.parametrize("rule", MUTANTS)
def test_the_search_finds_what_is_wrong_without_a_rule(rule: str) -> None:
    with pytest.raises(Wrong):
        Search(Model(frozenset({rule}))).run(BEGINNINGS[MUTANTS[rule]])
