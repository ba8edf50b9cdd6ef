"""Calls that share a write: who leads serves all that wait, and nobody pays for another's fault."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager.groups import Group
from manager.statements import Ask, Statement, Told
from watari import errors

CALLS = 40
WAIT_SECONDS = 20.0
QUESTION = Statement(sa.select(sa.bindparam("number")))


class Writes:
    """A database that answers every call with itself, and can be told to fail."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = threading.Event()
        self.begin: Exception | None = None
        self.commit: Exception | None = None
        self.spoilt: set[int] = set()
        self._one = threading.Lock()

    @contextmanager
    def write(
        self, asking: Callable[[], Sequence[Ask]]
    ) -> Iterator[tuple[Connection, Sequence[Told]]]:
        """One at a time, once it is open."""
        with self._one:
            assert self.open.wait(WAIT_SECONDS)
            if self.begin is not None:
                raise self.begin
            told = [Told([(ask,)], 0) for ask in asking()]
            yield None, told  # type: ignore[misc]
            if self.commit is not None:
                raise self.commit

    def asking(self, asked: Sequence[int]) -> list[Ask]:
        """One question for each."""
        return [Ask(QUESTION, {"number": each}) for each in asked]

    def together(
        self, _: Connection, asked: Sequence[int], told: Sequence[Told]
    ) -> list[int | errors.WatariError]:
        """Numbers below zero are refused, spoilt ones take everything back."""
        assert told == [Told([(ask,)], 0) for ask in self.asking(asked)]
        self.groups.append(list(asked))
        if self.spoilt & set(asked):
            raise ZeroDivisionError
        return [
            errors.FailedPrecondition("RESERVATION_STATE", str(each)) if each < 0 else each
            for each in asked
        ]


@pytest.fixture
def writes() -> Writes:
    return Writes()


def call_all(writes: Writes, numbers: Sequence[int], calls_max: int = 64) -> list[object]:
    """The answer or the error of each, called at once while the first write stands still."""
    group = Group(writes.write, writes.asking, writes.together, calls_max)

    def one(number: int) -> object:
        try:
            return group.do(number)
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            return error

    with ThreadPoolExecutor(len(numbers)) as pool:
        pending = [pool.submit(one, number) for number in numbers]
        while len(group.waiting) < len(numbers):
            threading.Event().wait(0.005)
        writes.open.set()
        return [each.result(WAIT_SECONDS) for each in pending]


def test_who_comes_alone_is_served_at_once(writes: Writes) -> None:
    writes.open.set()
    group = Group(writes.write, writes.asking, writes.together, 64)
    assert [group.do(1), group.do(2)] == [1, 2]
    assert writes.groups == [[1], [2]]


def test_all_that_wait_share_one_write_and_get_their_own_answers(writes: Writes) -> None:
    assert call_all(writes, range(CALLS)) == list(range(CALLS))
    assert [sorted(each) for each in writes.groups] == [list(range(CALLS))]


def test_no_group_is_larger_than_it_may_be(writes: Writes) -> None:
    assert call_all(writes, range(CALLS), calls_max=16) == list(range(CALLS))
    assert [len(each) for each in writes.groups] == [16, 16, 8]


def test_who_is_refused_is_so_alone(writes: Writes) -> None:
    answers = call_all(writes, [1, -2, 3])
    assert answers[0] == 1
    assert answers[2] == 3
    assert isinstance(answers[1], errors.FailedPrecondition)
    assert len(writes.groups) == 1


def test_a_group_that_fails_is_done_again_call_by_call(writes: Writes) -> None:
    writes.spoilt = {2}
    answers = call_all(writes, [1, 2, 3])
    assert answers[0] == 1
    assert answers[2] == 3
    assert isinstance(answers[1], ZeroDivisionError)
    assert sorted(map(sorted, writes.groups[1:])) == [[1], [2], [3]]


def test_nobody_is_told_that_it_is_done_when_the_commit_is_not_known(writes: Writes) -> None:
    writes.commit = errors.Unavailable("SERVER_UNAVAILABLE", "away")
    answers = call_all(writes, range(CALLS))
    assert {type(each) for each in answers} == {errors.Unavailable}
    assert len(writes.groups) == 1, "and nothing is repeated by itself"


def test_a_write_that_cannot_begin_is_refused_and_the_next_one_leads(writes: Writes) -> None:
    writes.begin = errors.Unavailable("SERVER_UNAVAILABLE", "busy")
    answers = call_all(writes, range(5))
    assert {type(each) for each in answers} == {errors.Unavailable}
    assert writes.groups == []
    writes.begin = None
    assert Group(writes.write, writes.asking, writes.together, 64).do(7) == 7
