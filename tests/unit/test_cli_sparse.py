"""watari.cli.sparse: copies keep holes, comparisons miss no byte."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watari.cli import sparse

KIB = 1024
WRITES = st.lists(
    st.tuples(st.integers(0, 512 * KIB), st.binary(min_size=1, max_size=8 * KIB)), max_size=6
)
ON_DISK = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def make(path: Path, size_bytes: int, writes: list[tuple[int, bytes]]) -> Path:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        for offset, content in writes:
            file.seek(offset)
            file.write(content)
        file.truncate(size_bytes)
    return path


@given(WRITES, st.integers(0, 600 * KIB))
@ON_DISK
def test_a_copy_has_the_same_bytes(
    tmp_path: Path, writes: list[tuple[int, bytes]], size_bytes: int
) -> None:
    source, target = make(tmp_path / "source", size_bytes, writes), tmp_path / "target"
    target.unlink(missing_ok=True)
    sparse.copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert sparse.first_difference(source, target) is None


@given(WRITES, WRITES, st.integers(0, 600 * KIB), st.integers(0, 600 * KIB))
@ON_DISK
def test_the_first_difference_is_where_the_bytes_say(
    tmp_path: Path,
    one: list[tuple[int, bytes]],
    two: list[tuple[int, bytes]],
    size_one: int,
    size_two: int,
) -> None:
    left, right = make(tmp_path / "left", size_one, one), make(tmp_path / "right", size_two, two)
    a, b = left.read_bytes(), right.read_bytes()
    expected = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if expected is None and len(a) != len(b):
        expected = min(len(a), len(b))
    assert sparse.first_difference(left, right) == expected


def test_a_copy_of_a_hole_stays_a_hole(tmp_path: Path) -> None:
    source = make(tmp_path / "source", 64 * KIB * KIB, [(32 * KIB * KIB, b"x" * 4096)])
    sparse.copy(source, tmp_path / "target")
    assert sparse.allocated_bytes(tmp_path / "target") <= 64 * KIB


def test_data_against_a_hole_is_compared(tmp_path: Path) -> None:
    hole = make(tmp_path / "hole", 4 * KIB * KIB, [])
    zeros = make(tmp_path / "zeros", 4 * KIB * KIB, [(KIB * KIB, bytes(2 * KIB * KIB))])
    assert sparse.first_difference(hole, zeros) is None
    data = make(tmp_path / "data", 4 * KIB * KIB, [(4 * KIB * KIB - 1, b"x")])
    assert sparse.first_difference(hole, data) == 4 * KIB * KIB - 1


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source", 8, []), make(tmp_path / "target", 4, [(0, b"mine")])
    with pytest.raises(FileExistsError):
        sparse.copy(source, target)
    assert target.read_bytes() == b"mine"
