"""What the workers of a transfer have to do next, and when there is nothing left.

```
            +-> Look (a parent, or a hole) ---- no seeds ----> frames
 units -----|                    \\-- offer --> pending --> answer
            |                                               |- HAVE
  workers <-+-- Open (offer the leaves) <-------------------|- OPEN
            +-- Send (blocks that are wanted) <-------------+- WANT
                       ^---- leaves that the receiver rejected
```

What the receiver asks for goes before looking further, and looking further stops while
OFFERS_PENDING_MAX parents are unanswered, so what is remembered stays small.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.transfer import frames, plan
from agent.transfer.flow import WAIT_SECONDS_MAX, Failure
from agent.transfer.frames import Verdict
from agent.transfer.geometry import (
    LEAF_BYTES,
    OFFERS_PENDING_MAX,
    leaf_bytes,
    masked_bytes,
    whole_mask,
)


@dataclass(frozen=True)
class Offered:
    """A parent that was looked at: the digest of each leaf, None for a zero one. Of one that is
    known to be what it was there are none, until the receiver wants to see them.
    """

    disk: int
    offset: int
    length: int
    digests: tuple[bytes | None, ...]

    @property
    def zeros(self) -> int:
        """A bit for each zero leaf."""
        return sum(1 << index for index, digest in enumerate(self.digests) if digest is None)


@dataclass(frozen=True)
class Look:
    """Read and hash a parent, or pass over a hole."""

    unit: plan.Unit


@dataclass(frozen=True)
class Open:
    """Offer the leaves of a parent."""

    offered: Offered


@dataclass(frozen=True)
class Send:
    """Read, compress and send blocks."""

    offered: Offered
    masks: tuple[int, ...]


Task = Look | Open | Send


class Board:
    """Shared by workers and streams; every wait ends with the transfer's first error."""

    def __init__(
        self,
        failure: Failure,
        units: Iterator[plan.Unit],
        *,
        dry_run: bool = False,
    ) -> None:
        self._failure = failure
        self.dry_run = dry_run
        """Whether wanted blocks are not sent."""

        self._units = units
        self._units_lock = threading.Lock()
        self._exhausted = False
        self._urgent: deque[Task] = deque()
        self._busy = 0
        self._pending: dict[tuple[int, int], Offered] = {}
        self._opened: set[tuple[int, int]] = set()
        self._partial: dict[tuple[int, int], tuple[Offered, int]] = {}

    def next(self) -> Task | None:
        """The next task, to be ended with `done`; None when there will be none. Raises the first
        error.
        """
        while True:
            with self._failure.changed:
                task = self._await()
            if task is not None:
                return task
            with self._units_lock:
                unit = None if self._exhausted else next(self._units, None)
                self._exhausted = self._exhausted or unit is None
            if unit is not None:
                return Look(unit)
            self.done()
            if self._exhausted and self.finished:
                return None

    def done(self) -> None:
        """A task has ended, with all that follows from it on the board."""
        with self._failure.changed:
            self._busy -= 1
            self._failure.changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do, and nothing can come back."""
        with self._failure.changed:
            return self._exhausted and not (
                self._urgent or self._busy or self._pending or self._partial
            )

    def offer(self, offered: Offered) -> None:
        """Remembers a parent until it is answered; before the offer is sent."""
        with self._failure.changed:
            self._pending[offered.disk, offered.offset] = offered

    def reveal(self, offered: Offered) -> None:
        """The leaves of a parent that was offered without them."""
        with self._failure.changed:
            self._pending[offered.disk, offered.offset] = offered

    def answered(self, answer: frames.Answer) -> tuple[Offered, Verdict]:
        """Takes an answer: what it was about, and its verdict. Raises DataLoss FRAME_INVALID for
        one to no offer, or one that asks for what there is not.
        """
        key = answer.disk, answer.offset
        with self._failure.changed:
            offered = self._pending.get(key)
            if offered is None:
                raise frames.invalid(f"an answer about {answer.offset}, which was not offered")
            if answer.verdict is not Verdict.WANT and key in self._opened:
                raise frames.invalid(f"a second answer about the parent at {answer.offset}")
            if answer.verdict is Verdict.OPEN:
                self._opened.add(key)
                self._urgent.append(Open(offered))
            else:
                _check_masks(offered, answer.masks)
                del self._pending[key]
                self._opened.discard(key)
                if any(answer.masks):
                    self._remember_partial(offered, answer.masks)
                    self._urgent.append(Send(offered, answer.masks))
            self._failure.changed.notify_all()
        return offered, answer.verdict

    def rejected(self, disk: int, leaf: int) -> tuple[Offered, int]:
        """Sends a leaf again as a whole: its blocks did not fit what the receiver had. Returns its
        parent and the mask that was sent. Raises DataLoss FRAME_INVALID when none was.
        """
        with self._failure.changed:
            offered, mask = self._partial.pop((disk, leaf), (None, 0))
            if offered is None:
                raise frames.invalid(f"leaf {leaf} is rejected, of which no blocks were sent")
            index = leaf - offered.offset // LEAF_BYTES
            masks = [0] * len(offered.digests)
            masks[index] = whole_mask(_leaf_bytes(offered, index))
            self._urgent.append(Send(offered, tuple(masks)))
            self._failure.changed.notify_all()
        return offered, mask

    def settled(self, disk: int, leaves: Sequence[int]) -> int:
        """Leaves of which blocks were sent are complete at the receiver; after `rejected`. Returns
        the bytes of their other blocks, which it had.
        """
        if not self._partial:
            return 0
        found = 0
        with self._failure.changed:
            for leaf in leaves:
                offered, mask = self._partial.pop((disk, leaf), (None, 0))
                if offered is not None:
                    length = _leaf_bytes(offered, leaf - offered.offset // LEAF_BYTES)
                    found += length - masked_bytes(mask, length)
            self._failure.changed.notify_all()
        return found

    def _await(self) -> Task | None:
        """Something urgent, or None for "take a unit"; either counts as begun."""
        while True:
            self._failure.check()
            if self._urgent:
                self._busy += 1
                return self._urgent.popleft()
            # A task under way may become one more offer.
            if not self._exhausted and len(self._pending) + self._busy < OFFERS_PENDING_MAX:
                self._busy += 1
                return None
            if self._exhausted and not (self._busy or self._pending or self._partial):
                self._busy += 1  # `next` takes it back and sees that all is finished
                return None
            self._failure.changed.wait(WAIT_SECONDS_MAX)

    def _remember_partial(self, offered: Offered, masks: Sequence[int]) -> None:
        first = offered.offset // LEAF_BYTES
        for index, mask in enumerate(masks):
            whole = whole_mask(_leaf_bytes(offered, index))
            if mask not in {0, whole} and not self.dry_run:
                self._partial[offered.disk, first + index] = offered, mask


def _check_masks(offered: Offered, masks: Sequence[int]) -> None:
    if masks and len(masks) != len(offered.digests):
        raise frames.invalid(f"{len(masks)} masks for {len(offered.digests)} leaves")
    for index, mask in enumerate(masks):
        wanted = 0 if offered.digests[index] is None else whole_mask(_leaf_bytes(offered, index))
        if mask & ~wanted:
            raise frames.invalid(f"blocks {mask:#06x} are wanted of leaf {index}")


def _leaf_bytes(offered: Offered, index: int) -> int:
    return leaf_bytes(offered.length, index * LEAF_BYTES)
