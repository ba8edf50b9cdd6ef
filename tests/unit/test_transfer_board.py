"""The board of a transfer: every block is sent as often as it is asked for, and work ends."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from agent.transfer.board import Board, Look, Offered, Open, Send, Task
from agent.transfer.flow import Failure
from agent.transfer.frames import Answer, Verdict
from agent.transfer.geometry import LEAF_BYTES, OFFERS_PENDING_MAX, PARENT_BYTES, WHOLE_LEAF
from agent.transfer.plan import Hole, Parent
from tests.support.offers import offered, parent, whole
from watari import errors

SHORT = 5_000
"""The last leaf of a disk, of two blocks."""


def board_of(*units: Parent | Hole, dry_run: bool = False) -> Board:
    return Board(Failure(), iter(units), dry_run=dry_run)


def offer(board: Board, *zeros: int) -> Offered:
    """Does the next task, which is to look at a parent."""
    task = board.next()
    assert isinstance(task, Look)
    found = offered(task.unit, *zeros)
    board.offer(found)
    board.done()
    return found


def want(board: Board, of: Offered, masks: Sequence[int]) -> None:
    board.answered(Answer(of.disk, of.offset, Verdict.WANT, tuple(masks)))


def only(of: Offered, index: int, mask: int) -> list[int]:
    """The masks of a parent of which only some blocks of one leaf are wanted."""
    return [mask if each == index else 0 for each in range(len(of.digests))]


def do(board: Board) -> Task | None:
    """The next task, which is done at once."""
    task = board.next()
    if task is not None:
        board.done()
    return task


@contextmanager
def waiting(board: Board) -> Iterator["Future[Task | None]"]:
    """A worker asks for a task; there is none until something in the block happens."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(board.next)
        with pytest.raises(TimeoutError):
            asked.result(0.1)
        yield asked
        asked.result(30)


def test_a_board_of_nothing_is_finished_once_somebody_has_looked() -> None:
    board = board_of()
    assert not board.finished
    assert board.next() is None
    assert board.finished
    assert board.next() is None


def test_units_come_in_order_and_what_the_receiver_asks_for_comes_first() -> None:
    units = (parent(0), Hole(0, PARENT_BYTES, PARENT_BYTES), parent(2))
    board = board_of(*units)
    first = offer(board)
    board.answered(Answer(0, 0, Verdict.OPEN))
    assert do(board) == Open(first)
    assert do(board) == Look(units[1])
    want(board, first, whole(first))
    assert do(board) == Send(first, tuple(whole(first)))
    assert do(board) == Look(units[2])
    assert do(board) is None


def test_looking_further_stops_while_so_many_parents_are_unanswered() -> None:
    board = board_of(*(parent(number) for number in range(OFFERS_PENDING_MAX + 2)))
    found = [offer(board) for _ in range(OFFERS_PENDING_MAX)]
    with waiting(board) as asked:
        board.answered(Answer(0, found[7].offset, Verdict.HAVE))
    assert asked.result() == Look(parent(OFFERS_PENDING_MAX))
    board.offer(offered(parent(OFFERS_PENDING_MAX)))
    board.done()
    board.answered(Answer(0, found[9].offset, Verdict.OPEN))
    assert do(board) == Open(found[9])
    with waiting(board) as asked:  # a parent that was opened is not answered yet
        want(board, found[9], only(found[9], 0, WHOLE_LEAF))
    assert isinstance(asked.result(), Send)


@pytest.mark.parametrize("where", [(0, PARENT_BYTES), (1, 0)], ids=["offset", "disk"])
@pytest.mark.parametrize("verdict", [Verdict.HAVE, Verdict.OPEN])
def test_an_answer_to_no_offer_ends_the_transfer(where: tuple[int, int], verdict: Verdict) -> None:
    board = board_of(parent())
    offer(board)
    with pytest.raises(errors.DataLoss) as caught:
        board.answered(Answer(*where, verdict))
    assert caught.value.reason == "FRAME_INVALID"


@pytest.mark.parametrize("again", [Verdict.OPEN, Verdict.HAVE])
def test_a_parent_is_opened_once(again: Verdict) -> None:
    board = board_of(parent())
    offer(board)
    board.answered(Answer(0, 0, Verdict.OPEN))
    with pytest.raises(errors.DataLoss) as caught:
        board.answered(Answer(0, 0, again))
    assert caught.value.reason == "FRAME_INVALID"


@pytest.mark.parametrize("first", [Verdict.HAVE, Verdict.WANT])
@pytest.mark.parametrize("again", list(Verdict))
def test_nothing_is_answered_twice(first: Verdict, again: Verdict) -> None:
    board = board_of(parent())
    found = offer(board)
    masks = {Verdict.WANT: tuple(whole(found))}
    board.answered(Answer(0, 0, first, masks.get(first, ())))
    with pytest.raises(errors.DataLoss) as caught:
        board.answered(Answer(0, 0, again, masks.get(again, ())))
    assert caught.value.reason == "FRAME_INVALID"


@pytest.mark.parametrize(
    "masks",
    [(WHOLE_LEAF,), (0, 0, 0, 0), (0, 1, 0), (0, 0, 0b100), (0, 0, WHOLE_LEAF)],
    ids=["too few", "too many", "of a zero leaf", "one beyond the end", "all beyond the end"],
)
def test_an_answer_that_asks_for_what_there_is_not_changes_nothing(masks: tuple[int, ...]) -> None:
    board = board_of(parent(length=2 * LEAF_BYTES + SHORT))
    found = offer(board, 1)
    assert found.zeros == 0b010
    with pytest.raises(errors.DataLoss) as caught:
        want(board, found, masks)
    assert caught.value.reason == "FRAME_INVALID"
    want(board, found, (WHOLE_LEAF, 0, 0b11))
    assert do(board) == Send(found, (WHOLE_LEAF, 0, 0b11))
    assert do(board) is None


def test_an_answer_that_wants_nothing_settles_the_parent() -> None:
    board = board_of(parent())
    found = offer(board)
    want(board, found, [0] * len(found.digests))
    assert board.next() is None


@pytest.mark.parametrize("index", [0, 1])
def test_a_rejected_leaf_is_sent_again_whole_and_once(index: int) -> None:
    board = board_of(parent(0), parent(1, LEAF_BYTES + SHORT))
    offer(board)
    found = offer(board)
    want(board, found, only(found, index, 0b10))
    do(board)
    leaf = PARENT_BYTES // LEAF_BYTES + index
    assert board.rejected(0, leaf) == (found, 0b10)
    board.settled(0, [leaf])  # the frame in which the blocks were that did not fit
    assert do(board) == Send(found, tuple(only(found, index, whole(found)[index])))
    with pytest.raises(errors.DataLoss) as caught:
        board.rejected(0, leaf)
    assert caught.value.reason == "FRAME_INVALID"
    board.answered(Answer(0, 0, Verdict.HAVE))
    assert board.next() is None


def test_only_a_leaf_of_which_a_part_was_sent_and_not_settled_can_be_rejected() -> None:
    board = board_of(parent(length=3 * LEAF_BYTES + SHORT))
    found = offer(board)
    want(board, found, (WHOLE_LEAF, 0, 1, 0b11))
    board.settled(0, [2])
    for disk, leaf in ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 2)):
        with pytest.raises(errors.DataLoss) as caught:
            board.rejected(disk, leaf)
        assert caught.value.reason == "FRAME_INVALID"


def test_it_is_finished_only_when_nothing_can_come_back() -> None:
    board = board_of(parent())
    found = offer(board)
    with waiting(board) as asked:  # an answer can come back
        want(board, found, only(found, 5, 0b111))
        assert not board.finished
    assert isinstance(asked.result(), Send)
    with waiting(board) as asked:  # what somebody is busy with may need more
        board.rejected(0, 5)
    assert isinstance(asked.result(), Send)
    board.done()
    assert not board.finished
    board.done()
    assert board.finished
    assert board.next() is None


def test_it_waits_for_blocks_that_can_be_rejected_until_they_are_settled() -> None:
    board = board_of(parent())
    found = offer(board)
    want(board, found, only(found, 5, 1))
    do(board)
    with waiting(board) as asked:
        board.settled(1, [5])
        board.settled(0, [4, 6])
        assert not board.finished
        board.settled(0, range(4, 7))
    assert asked.result() is None


def test_a_dry_run_waits_for_no_rejection() -> None:
    board = board_of(parent(), dry_run=True)
    found = offer(board)
    want(board, found, only(found, 5, 1))
    do(board)
    assert board.next() is None


def test_workers_that_wait_get_the_transfers_first_error() -> None:
    failure = Failure()
    board = Board(failure, iter([parent()]))
    offer(board)
    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(board.next) for _ in range(3)]
        failure.fail(errors.Cancelled("CANCELLED", "first"))
        failure.fail(errors.DataLoss("DISK_IO", "later"))
        for each in workers:
            with pytest.raises(errors.Cancelled):
                each.result(30)
    with pytest.raises(errors.Cancelled):
        board.next()


def test_many_workers_share_the_units_and_end_together() -> None:
    units = [parent(number) for number in range(200)]
    board, looked, lock = board_of(*units), list[int](), threading.Lock()

    def work() -> None:
        while (task := board.next()) is not None:
            if isinstance(task, Look):
                with lock:
                    looked.append(task.unit.offset)
                board.offer(found := offered(task.unit))
                want(board, found, only(found, 3, 1))
            elif isinstance(task, Send):
                board.settled(0, [task.offered.offset // LEAF_BYTES + 3])
            board.done()

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(work) for _ in range(6)]:
            each.result(60)
    assert sorted(looked) == [unit.offset for unit in units]
    assert board.finished
