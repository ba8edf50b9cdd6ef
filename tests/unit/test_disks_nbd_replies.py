"""The NBD client believes a server nothing: right answers are taken exactly, others end it."""

import errno
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.disks.nbd import BASE_ALLOCATION, Pool, Status, blocks, dirty_bitmap, wire
from tests.support import nbd_script as script
from watari import errors

CONTENT = bytes(range(256)) * 64
OFFSET = 4096


def test_a_read_may_come_in_parts_and_holes_in_any_order() -> None:
    said = script.data(OFFSET + 100, CONTENT[100:200], done=False)
    said += script.hole(OFFSET + 200, 56, done=False)
    said += script.data(OFFSET, CONTENT[:100], done=False)
    said += script.chunk(wire.Chunk.NONE)
    with script.connected(said) as connection:
        assert connection.read(OFFSET, 256) == CONTENT[:200] + bytes(56)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_read_is_put_together_from_any_division(draw: st.DataObject) -> None:
    length = draw.draw(st.integers(1, 3000))
    cuts = draw.draw(st.sets(st.integers(1, length - 1), max_size=8)) if length > 1 else set()
    bounds = [0, *sorted(cuts), length]
    parts = draw.draw(st.permutations(list(itertools.pairwise(bounds))))
    expected, said = bytearray(length), b""
    for number, (start, end) in enumerate(parts):
        done = number == len(parts) - 1
        if draw.draw(st.booleans()):
            said += script.hole(OFFSET + start, end - start, done=done)
        else:
            expected[start:end] = CONTENT[start:end]
            said += script.data(OFFSET + start, CONTENT[start:end], done=done)
    with script.connected(said) as connection:
        assert connection.read(OFFSET, length) == expected


HUGE = wire.U32.pack(wire.CHUNK_MAGIC) + wire.CHUNK.pack(1, 1, 1, 0xFFFF_FFFF)

WRONG_READS = {
    "too short": script.data(OFFSET, CONTENT[:99]),
    "too long": script.data(OFFSET, CONTENT[:101]),
    "huge": HUGE,
    "huge hole": script.hole(OFFSET, 0xFFFF_FFFF),
    "before": script.data(OFFSET - 1, CONTENT[:100]),
    "behind": script.data(OFFSET + 1, CONTENT[:100]),
    "far": script.hole(0xFFFF_FFFF_FFFF_FFFF, 100),
    "overlap": script.data(OFFSET, CONTENT[:60], done=False) + script.hole(OFFSET + 20, 40),
    "twice": script.data(OFFSET, CONTENT[:50], done=False) + script.data(OFFSET, CONTENT[:50]),
    "overlap and gap": script.data(OFFSET, CONTENT[:50], done=False)
    + script.hole(OFFSET + 25, 25, done=False)
    + script.hole(OFFSET + 75, 25),
    "no data": script.data(OFFSET, b""),
    "no hole": script.hole(OFFSET, 0, done=False) + script.data(OFFSET, CONTENT[:100]),
    "nothing": script.chunk(0),
    "not done": script.chunk(0, done=False),
    "not empty": script.chunk(0, b"x"),
    "other cookie": script.data(OFFSET, CONTENT[:100], cookie=2),
    "other kind": script.status(7, (100, 0)),
    "unknown kind": script.chunk(99, b"abc"),
    "unknown error kind": script.chunk(0x8099, b"abc"),
    "short hole": script.chunk(2, b"1234567"),
    "no error": script.failed(0),
    "error cut short": script.chunk(0x8001, b"\0\0\0"),
    "error overlong": script.chunk(0x8001, wire.ERROR.pack(5, 60_000)),
    "error huge": wire.U32.pack(wire.CHUNK_MAGIC) + wire.CHUNK.pack(1, 0x8001, 1, 1 << 31),
    "simple": script.simple() + CONTENT[:100],
    "magic": b"\0" * 64,
    "end": b"",
    "end in head": script.data(OFFSET, CONTENT[:100])[:9],
    "end in data": script.data(OFFSET, CONTENT[:100])[:-1],
}
ENDED_EARLY = [said for name, said in WRONG_READS.items() if name.startswith("end")]


@pytest.mark.parametrize("said", WRONG_READS.values(), ids=WRONG_READS.keys())
def test_a_read_that_is_not_as_specified_ends_the_connection(said: bytes) -> None:
    with script.connected(said) as connection:
        for _ in range(2):
            with pytest.raises(errors.DataLoss) as caught:
                connection.read(OFFSET, 100)
            assert caught.value.reason == "DISK_IO"
            assert connection.broken is caught.value
            ended_early = said in ENDED_EARLY
            assert ("broke" if ended_early else "answered wrongly") in caught.value.message


WRONG_STATUS = {
    "none": script.chunk(0),
    "no runs": script.status(7),
    "half a run": script.chunk(5, bytes(4 + 5)),
    "no context": script.chunk(5, b"ab"),
    "other context": script.status(8, (100, 0)),
    "twice": script.status(7, (100, 0), done=False) + script.status(7, (100, 0)),
    "empty run": script.status(7, (50, 0), (0, 1), (50, 0)),
    "huge": wire.U32.pack(wire.CHUNK_MAGIC) + wire.CHUNK.pack(1, 5, 1, 0xFFFF_FFFC),
    "data": script.data(OFFSET, CONTENT[:100]),
}


@pytest.mark.parametrize("said", WRONG_STATUS.values(), ids=WRONG_STATUS.keys())
def test_a_block_status_that_is_not_as_specified_ends_the_connection(said: bytes) -> None:
    with script.connected(said) as connection, pytest.raises(errors.DataLoss) as caught:
        connection.block_status(OFFSET, 100, BASE_ALLOCATION)
    assert caught.value.reason == "DISK_IO"


def test_block_status_is_told_for_the_context_that_was_asked_and_cut_to_the_range() -> None:
    bitmap = dirty_bitmap("backup-vda")
    said = b""
    for cookie in (1, 2):
        said += script.status(7, (60, 3), (1000, 0), done=False, cookie=cookie)
        said += script.status(8, (10, 0), (20, 1), cookie=cookie)
    with script.connected(said, contexts=(BASE_ALLOCATION, bitmap)) as connection:
        found = connection.block_status(OFFSET, 100, BASE_ALLOCATION)
        assert found == [Status(60, 3), Status(40, 0)]
        assert connection.block_status(OFFSET, 100, bitmap) == [Status(10, 0), Status(20, 1)]
        with pytest.raises(errors.DataLoss):
            connection.block_status(OFFSET, 100, dirty_bitmap("other"))


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "DISK_FULL"), (errno.EIO, "DISK_IO"), (errno.EINVAL, "DISK_IO")],
)
def test_what_the_server_reports_is_raised_and_the_connection_goes_on(
    number: int, reason: str
) -> None:
    said = script.failed(number, b"no\nluck") + script.simple(number, cookie=2)
    said += script.failed(number, done=False, cookie=3)
    said += script.data(OFFSET, CONTENT[:100], cookie=3)
    said += script.chunk(0, cookie=4) + script.simple(cookie=5)
    with script.connected(said) as connection:
        for call in (
            lambda: connection.read(OFFSET, 100),
            lambda: connection.write(OFFSET, b"content"),
            lambda: connection.read(OFFSET, 100),
        ):
            with pytest.raises(errors.WatariError) as caught:
                call()
            assert caught.value.reason == reason
            assert "vda" in caught.value.message
            assert "\n" not in caught.value.message
        connection.zero(0, 100)
        connection.flush()


def test_only_what_reads_as_zeros_is_a_hole_for_us() -> None:
    """The protocol lets a range without room hold anything."""
    hole, zero = wire.STATE_HOLE, wire.STATE_ZERO
    said = script.status(7, (4096, hole), (4096, zero), (4096, hole | zero), (4096, 0))
    with script.connected(said + script.status(7, (1 << 20, 3), cookie=2)) as connection:
        found = list(itertools.islice(blocks.allocation(Pool([connection])), 5))
    assert [each.hole for each in found] == [False, True, True, False, True]


def test_a_server_that_is_silent_is_given_up() -> None:
    with script.connected(b"", ends=False, seconds_max=0.2) as connection:
        with pytest.raises(errors.DataLoss) as caught:
            connection.read(0, 10)
        assert "within 0.2 s" in caught.value.message


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_more_than_end_the_connection(said: bytes) -> None:
    with script.connected(said) as connection, pytest.raises(errors.DataLoss):
        connection.read(OFFSET, 100)
    with script.connected(said) as connection, pytest.raises(errors.DataLoss):
        connection.block_status(OFFSET, 100, BASE_ALLOCATION)


PARTS = st.one_of(
    st.builds(
        lambda kind, payload, done, cookie: script.chunk(kind, payload, done=done, cookie=cookie),
        st.sampled_from([0, 1, 2, 5, 0x8001, 0x8002, 77]),
        st.binary(max_size=60),
        st.booleans(),
        st.sampled_from([1, 1, 1, 2]),
    ),
    st.builds(
        lambda at, length, done: script.hole(at, length, done=done),
        st.integers(OFFSET - 2, OFFSET + 102),
        st.integers(0, 110),
        st.booleans(),
    ),
    st.builds(
        lambda at, content, done: script.data(at, content, done=done),
        st.integers(OFFSET - 2, OFFSET + 102),
        st.binary(max_size=110),
        st.booleans(),
    ),
    st.builds(
        lambda context, runs, done: script.status(context, *runs, done=done),
        st.sampled_from([7, 8]),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3)), max_size=3),
        st.booleans(),
    ),
    st.builds(script.simple, st.integers(0, 200)),
)


@given(st.lists(PARTS, max_size=5).map(b"".join), st.sampled_from(["read", "status", "plain"]))
@settings(max_examples=300, deadline=None)
def test_likely_bytes_give_an_exact_answer_or_an_error(said: bytes, what: str) -> None:
    reason = ""
    with script.connected(said) as connection:
        try:
            if what == "read":
                assert len(connection.read(OFFSET, 100)) == 100
            elif what == "status":
                runs = connection.block_status(OFFSET, 100, BASE_ALLOCATION)
                assert 0 < sum(run.length for run in runs) <= 100
            else:
                connection.write(OFFSET, b"content")
        except (errors.DataLoss, errors.Exhausted) as error:
            reason = error.reason
    assert reason in {"", "DISK_IO", "DISK_FULL"}


def test_memory_is_taken_only_for_lengths_that_can_be_right() -> None:
    for said in (WRONG_READS["huge"], WRONG_READS["huge hole"], WRONG_READS["error huge"]):
        with script.connected(said, ends=False) as connection:
            tracemalloc.start()
            try:
                with pytest.raises(errors.DataLoss) as caught:
                    connection.read(OFFSET, 100)
                assert "answered wrongly" in caught.value.message
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()
