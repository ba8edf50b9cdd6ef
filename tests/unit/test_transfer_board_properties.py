"""Whatever a receiver answers in whatever order, a board loses and repeats nothing."""

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.board import Board, Look, Offered, Open, Send, Task
from agent.transfer.flow import Failure
from agent.transfer.frames import Answer, Verdict
from agent.transfer.geometry import LEAF_BYTES, WHOLE_LEAF
from tests.support.offers import offered, parent, whole


class Course:
    """A transfer of which every step is drawn: what the receiver lacks, and what was sent of it."""

    def __init__(self, draw: st.DataObject) -> None:
        lengths = draw.draw(st.lists(st.integers(1, 3 * LEAF_BYTES), max_size=5), "parents")
        self.units = [parent(number, length) for number, length in enumerate(lengths)]
        self.board = Board(Failure(), iter(self.units))
        self.draw = draw
        self.unseen = len(self.units)
        self.due = 0
        """Tasks that follow from what the receiver said."""
        self.begun: list[Task] = []
        self.unanswered: list[Offered] = []
        self.opened: set[int] = set()
        self.lacking: dict[int, int] = {}
        """Blocks that the receiver waits for, by leaf."""
        self.under_way: list[tuple[Offered, int, int]] = []

    def run(self) -> None:
        while steps := self.steps():
            assert not self.board.finished
            self.draw.draw(st.sampled_from(steps), "step")()
        assert self.board.next() is None
        assert self.board.finished
        assert not any(self.lacking.values())

    def steps(self) -> list[Callable[[], None]]:
        possible = {
            self.begin: self.unseen or self.due,
            self.end: self.begun,
            self.answer: self.unanswered,
            self.arrive: self.under_way,
        }
        return [step for step, there_is in possible.items() if there_is]

    def begin(self) -> None:
        task = self.board.next()
        assert task is not None
        assert isinstance(task, Look) != bool(self.due)
        if self.due:
            self.due -= 1
        else:
            self.unseen -= 1
        self.begun.append(task)

    def end(self) -> None:
        task = self.begun.pop(self.draw.draw(st.integers(0, len(self.begun) - 1), "task"))
        match task:
            case Look():
                zeros = self.draw.draw(st.sets(st.integers(0, 2)), "zeros")
                found = offered(task.unit, *zeros)
                self.board.offer(found)
                self.unanswered.append(found)
            case Open():
                self.unanswered.append(task.offered)
            case Send():
                self.sent(task.offered, task.masks)
        self.board.done()

    def sent(self, of: Offered, masks: Sequence[int]) -> None:
        for index, mask in enumerate(masks):
            leaf = of.offset // LEAF_BYTES + index
            if mask:
                assert self.lacking.pop(leaf) == mask, "sent twice, or not what was asked for"
                self.under_way.append((of, index, mask))

    def answer(self) -> None:
        of = self.unanswered.pop(0)
        verdicts = [Verdict.WANT] if of.offset in self.opened else list(Verdict)
        verdict = self.draw.draw(st.sampled_from(verdicts), "verdict")
        masks: list[int] = []
        if verdict is Verdict.OPEN:
            self.opened.add(of.offset)
            self.due += 1
        elif verdict is Verdict.WANT:
            blocks = self.draw.draw(st.tuples(*(st.integers(0, WHOLE_LEAF) for _ in of.digests)))
            masks = [mask & limit for mask, limit in zip(blocks, whole(of), strict=True)]
            first = of.offset // LEAF_BYTES
            self.lacking |= {first + index: mask for index, mask in enumerate(masks) if mask}
            self.due += any(masks)
        assert self.board.answered(Answer(0, of.offset, verdict, tuple(masks))) == (of, verdict)

    def arrive(self) -> None:
        of, index, mask = self.under_way.pop(0)
        leaf, limit = of.offset // LEAF_BYTES + index, whole(of)[index]
        if mask != limit and self.draw.draw(st.booleans(), "rejected"):
            assert self.board.rejected(0, leaf) == (of, mask)
            self.lacking[leaf] = limit
            self.due += 1
        self.board.settled(0, [leaf])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_order_of_answers_loses_or_repeats_a_block(draw: st.DataObject) -> None:
    Course(draw).run()
