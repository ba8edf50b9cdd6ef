"""Group commit: nothing is acknowledged before disk and journal are stable."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.disks.raw import RawWriter
from agent.transfer.flow import Failure
from agent.transfer.frames import REJECTS_MAX, Ack
from agent.transfer.geometry import LEAF_BYTES
from agent.transfer.journal import Journal
from agent.transfer.settling import GROUP_FRAMES_MAX, Settler, Written
from agent.transfer.target import Record, Target
from tests.support.arriving import StandingClock
from tests.support.leaves import KEYS
from watari import errors

LEAVES = 64
SECONDS_MAX = 30
DIGEST = b"d" * 32
BROKEN = errors.DataLoss("DISK_IO", "broken")


def nothing() -> None:
    """What happens at a step unless a test says otherwise."""


@dataclass
class Host:
    """A settler over real disks that tell of every step, and what is done at it."""

    folder: Path
    settler: Settler = field(init=False)
    failure: Failure = field(default_factory=Failure)
    clock: StandingClock = field(default_factory=StandingClock)
    steps: list[tuple[str, bool]] = field(default_factory=list)
    """What was done, and whether anything was to be acknowledged by then."""
    at: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settler = Settler(self.failure, self.clock)

    def step(self, name: str) -> None:
        self.steps.append((name, bool(self.settler._due)))
        self.at.get(name, nothing)()

    def target(self, name: str = "vda") -> Target:
        """A disk whose steps are told."""
        host = self

        class Disk(RawWriter):
            def flush(self) -> None:
                super().flush()
                host.step(f"flush {name}")

        class Entries(Journal):
            def record(self, leaf: int, digests: bytes) -> None:
                super().record(leaf, digests)
                host.step(f"record {name}")

            def sync(self) -> None:
                super().sync()
                host.step(f"sync {name}")

        size = LEAVES * LEAF_BYTES
        disk = Disk(self.folder / f"{name}.raw", size)
        journal = Entries(self.folder / f"{name}.journal", LEAVES, keep=False)
        return Target(0, size, KEYS, (disk, journal), resumed=False)

    def add(
        self,
        count: int,
        *records: Record,
        stream: int = 1,
        final: bool = False,
        rejected: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """The frame of that number on a stream, 100 bytes each."""
        self.settler.add(Written(stream, count, 100 * count, final, 0.0, records, rejected))

    def told(self, stream: int = 1) -> list[Ack]:
        """All acknowledgements of a stream, until its final one."""
        return list(self.settler.acknowledgements(stream, threading.Event()))

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Within the block the settler has come to a step and stays there."""
        there, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            there.set()
            assert go_on.wait(SECONDS_MAX)
            self.at.pop(name, None)

        self.at[name] = wait
        self.add(1, Record(self.target("held"), 0, DIGEST))
        assert there.wait(SECONDS_MAX)
        try:
            yield
        finally:
            go_on.set()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.settler.close()


def test_content_then_entries_are_stable_before_a_frame_is_acknowledged(host: Host) -> None:
    host.add(7, Record(host.target(), 3, DIGEST), final=True)
    assert host.told() == [Ack(7, 700, final=True)]
    order = ["flush vda", "record vda", "sync vda"]
    assert host.steps == [(step, False) for step in order]


def test_all_disks_of_a_group_are_stable_before_any_entry_of_it_is_written(host: Host) -> None:
    one, other = host.target("vda"), host.target("vdb")
    with host.held("flush held"):
        host.add(2, Record(one, 0, DIGEST), Record(other, 0, DIGEST))
        host.add(3, Record(other, 1, DIGEST), final=True)
    assert host.told()[-1] == Ack(3, 300, final=True)
    steps = [step for step, _ in host.steps if "held" not in step]
    assert sorted(steps[:2]) == ["flush vda", "flush vdb"]
    assert sorted(steps[2:5]) == ["record vda", "record vdb", "record vdb"]
    assert sorted(steps[5:]) == ["sync vda", "sync vdb"]


def test_what_comes_while_one_group_is_synced_is_the_next_group(host: Host) -> None:
    target = host.target()
    with host.held("sync held"):
        for count in range(2, 22):
            host.add(count, Record(target, count, DIGEST), final=count == 21)
    assert host.told()[-1] == Ack(21, 2100, final=True)
    steps = [step for step, _ in host.steps]
    assert (steps.count("flush vda"), steps.count("sync vda")) == (1, 1)
    assert target._journal is not None
    assert target._journal.read(2, 20) == [DIGEST] * 20


def test_frames_that_left_nothing_to_record_sync_nothing(host: Host) -> None:
    host.target()
    host.add(1)
    host.add(2, final=True)
    assert host.told()[-1] == Ack(2, 200, final=True)
    assert host.steps == []


def test_each_stream_is_told_its_own_totals(host: Host) -> None:
    target = host.target()
    with host.held("flush held"):
        host.add(5, Record(target, 0, DIGEST), stream=2, final=True)
        host.add(2, Record(target, 1, DIGEST), stream=1, final=True)
    assert host.told(2) == [Ack(5, 500, final=True)]
    assert host.told(1)[-1] == Ack(2, 200, final=True)


def test_totals_never_count_back_and_end_with_the_final_frame(host: Host) -> None:
    target = host.target()
    told: list[Ack] = []
    listening = threading.Thread(target=lambda: told.extend(host.told()))
    listening.start()
    for count in range(1, LEAVES):
        host.add(count, Record(target, count, DIGEST), final=count == LEAVES - 1)
    listening.join(SECONDS_MAX)
    assert not listening.is_alive()
    assert [ack.frames for ack in told] == sorted({ack.frames for ack in told})
    assert [ack.final for ack in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].frames == LEAVES - 1


@pytest.mark.parametrize(("arrived", "held"), [(98.5, 1_500_000), (101.0, 0), (-1e9, 2**32 - 1)])
def test_an_acknowledgement_tells_how_long_its_last_frame_was_here(
    host: Host, arrived: float, held: int
) -> None:
    host.clock.advance(100)
    host.settler.add(Written(1, 1, 100, True, arrived))
    assert host.told() == [Ack(1, 100, final=True, held_microseconds=held)]


def test_rejected_leaves_beyond_what_one_may_name_go_before(host: Host) -> None:
    rejected = tuple((0, leaf) for leaf in range(2 * REJECTS_MAX + 5))
    host.add(1, rejected=rejected, final=True)
    first, second, last = host.told()
    assert first == Ack(0, 0, rejected=rejected[:REJECTS_MAX])
    assert second == Ack(0, 0, rejected=rejected[REJECTS_MAX : 2 * REJECTS_MAX])
    assert last == Ack(1, 100, final=True, rejected=rejected[2 * REJECTS_MAX :])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0, 1, REJECTS_MAX - 1, REJECTS_MAX, 5000]), max_size=8))
def test_a_rejected_leaf_is_told_no_later_than_the_count_of_its_frame(
    tmp_path_factory: pytest.TempPathFactory, rejects: list[int]
) -> None:
    """Once each, and in messages of bounded size."""
    host = Host(tmp_path_factory.mktemp("rejects"))
    for count, number in enumerate(rejects, 1):
        host.add(count, rejected=tuple((count, leaf) for leaf in range(number)))
    host.add(len(rejects) + 1, final=True)
    seen: list[tuple[int, int]] = []
    counted = 0
    for ack in host.told():
        assert len(ack.rejected) <= REJECTS_MAX
        assert ack.frames >= counted
        assert all(frame > counted for frame, _ in ack.rejected)
        seen += ack.rejected
        counted = ack.frames
        assert len(seen) >= sum(rejects[:counted])
    assert seen == [(count, leaf) for count, of in enumerate(rejects, 1) for leaf in range(of)]
    host.settler.close()


@pytest.mark.parametrize("where", ["flush vda", "record vda", "sync vda"])
def test_an_error_while_settling_is_everyones_and_acknowledges_nothing(
    host: Host, where: str
) -> None:
    def fail() -> None:
        raise BROKEN

    host.at[where] = fail
    host.add(1, Record(host.target(), 0, DIGEST), final=True)
    for stream in (1, 2):
        with pytest.raises(errors.DataLoss) as caught:
            host.told(stream)
        assert caught.value is BROKEN
    with pytest.raises(errors.DataLoss):
        host.add(2)
    assert host.failure.error is BROKEN


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_settler_itself_is_everyones_too(host: Host) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    host.at["flush vda"] = fail
    host.add(1, Record(host.target(), 0, DIGEST), final=True)
    with pytest.raises(errors.Internal):
        host.told()


def test_an_error_elsewhere_ends_whoever_waits_for_an_acknowledgement(host: Host) -> None:
    host.failure.fail(BROKEN)
    with pytest.raises(errors.DataLoss):
        host.told()


def test_a_stream_that_is_gone_is_told_what_is_stable_and_no_more(host: Host) -> None:
    gone = threading.Event()
    gone.set()
    assert list(host.settler.acknowledgements(1, gone)) == []
    host.add(1)
    host.settler.close()
    assert list(host.settler.acknowledgements(1, gone)) == [Ack(1, 100)]


def test_what_was_handed_over_is_stable_when_closing_returns(host: Host) -> None:
    target = host.target()
    with host.held("flush held"):
        for count in range(2, 10):
            host.add(count, Record(target, count, DIGEST))
    host.settler.close()
    assert [step for step, _ in host.steps][-1] == "sync vda"
    with pytest.raises(errors.Cancelled):
        host.add(10)


def test_whoever_hands_over_more_than_a_group_waits_until_it_is_taken(host: Host) -> None:
    with host.held("flush held"):
        for count in range(2, GROUP_FRAMES_MAX + 2):
            host.add(count)
        last = GROUP_FRAMES_MAX + 2
        more = threading.Thread(target=host.add, args=(last,), kwargs={"final": True})
        more.start()
        more.join(0.1)
        assert more.is_alive()
    assert host.told()[-1].frames == last
    more.join(SECONDS_MAX)
    assert not more.is_alive()
