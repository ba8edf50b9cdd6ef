"""Extents that begin and end anywhere become extents on multiples, and no data is called a hole."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.disks.extents import Extent, aligned

RUNS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=12)


def laid_out(runs: list[tuple[int, bool]]) -> list[Extent]:
    at, found = 0, []
    for length, hole in runs:
        found.append(Extent(at, at + length, hole))
        at += length
    return found


@given(RUNS, st.integers(1, 16), st.integers(0, 20))
def test_the_disk_is_covered_on_multiples_and_holes_stay_inside_holes(
    runs: list[tuple[int, bool]], granularity: int, beyond: int
) -> None:
    given_ = laid_out(runs)
    size = max(1, given_[-1].end - beyond)
    holes = {at for each in given_ if each.hole for at in range(each.start, each.end)}
    found = list(aligned(given_, size, granularity))
    assert found[0].start == 0
    assert found[-1].end == size
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(each.start < each.end and each.start % granularity == 0 for each in found)
    for each in found:
        assert not each.hole or holes.issuperset(range(each.start, each.end))


@given(RUNS, st.integers(1, 16))
def test_every_granule_that_is_all_hole_is_told_as_one(
    runs: list[tuple[int, bool]], granularity: int
) -> None:
    given_ = laid_out(runs)
    size = given_[-1].end
    data = {at for each in given_ if not each.hole for at in range(each.start, each.end)}
    told = set()
    for each in aligned(given_, size, granularity):
        if each.hole:
            told.update(range(each.start, each.end))
    for start in range(0, size, granularity):
        granule = range(start, min(size, start + granularity))
        assert (granule[0] in told) == data.isdisjoint(granule)


def test_a_disk_of_no_bytes_has_no_extents() -> None:
    assert list(aligned([], 0, 8)) == []
