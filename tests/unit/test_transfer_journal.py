"""The journal: what it says was stable, and it never says more than it was told."""

import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.geometry import DIGEST_BYTES
from agent.transfer.journal import Journal
from watari import errors

LEAVES = 200
SCANNED = 1 << 15
"""Leaves that `unknown` looks at in one read."""

DIGESTS = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES).filter(any)
Folders = pytest.TempPathFactory


def digest(leaf: int) -> bytes:
    """What only this leaf has, with zeros in it."""
    return (leaf + 1).to_bytes(DIGEST_BYTES, "little")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vda.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path, LEAVES, keep=False)) as made:
        yield made


def test_a_new_journal_knows_nothing_and_is_private_and_sparse(
    journal: Journal, path: Path
) -> None:
    assert journal.read(0, LEAVES) == [None] * LEAVES
    assert list(journal.unknown()) == [(0, LEAVES)]
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (status.st_size, status.st_blocks) == (LEAVES * DIGEST_BYTES, 0)


def test_a_disk_without_leaves_has_an_empty_journal(path: Path) -> None:
    with closing(Journal(path, 0, keep=False)) as empty:
        assert list(empty.unknown()) == []


@given(st.dictionaries(st.integers(0, LEAVES - 1), DIGESTS))
def test_what_is_recorded_is_read_back_also_after_it_was_opened_again(
    tmp_path_factory: Folders, entries: dict[int, bytes]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "vda.journal"
    expected = [entries.get(leaf) for leaf in range(LEAVES)]
    with closing(Journal(path, LEAVES, keep=False)) as journal:
        for leaf, entry in entries.items():
            journal.record(leaf, entry)
        assert journal.read(0, LEAVES) == expected
    with closing(Journal(path, LEAVES, keep=True)) as journal:
        assert journal.read(0, LEAVES) == expected
        assert [journal.read(leaf, 1) for leaf in range(LEAVES)] == [[each] for each in expected]


def test_the_file_has_the_digests_in_order_of_their_leaves(journal: Journal, path: Path) -> None:
    journal.record(3, digest(3) + digest(4))
    expected = bytes(3 * DIGEST_BYTES) + digest(3) + digest(4)
    assert path.read_bytes() == expected.ljust(LEAVES * DIGEST_BYTES, b"\0")


def test_clearing_forgets_just_what_it_was_told_to(journal: Journal) -> None:
    journal.record(0, b"".join(digest(leaf) for leaf in range(10)))
    journal.clear(2, 3)
    kept = [digest(leaf) if leaf not in {2, 3, 4} else None for leaf in range(10)]
    assert journal.read(0, 10) == kept
    assert list(journal.unknown()) == [(2, 5), (10, LEAVES)]


def test_clearing_is_durable_before_it_returns_and_recording_needs_a_sync(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    real: Callable[[int], None] = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        synced.append(path.read_bytes()[:DIGEST_BYTES])
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    journal.record(0, digest(0))
    assert synced == []
    journal.sync()
    journal.clear(0, 1)
    assert synced == [digest(0), bytes(DIGEST_BYTES)]


@st.composite
def entries_near_borders(draw: st.DrawFn) -> tuple[int, set[int]]:
    """(leaves, those with an entry): a few, in runs, around the borders of what is read at once."""
    leaves = draw(st.sampled_from([1, 7, SCANNED - 1, SCANNED, SCANNED + 1, 2 * SCANNED + 3]))
    near = [0, 1, leaves // 2, leaves, *range(SCANNED, leaves + 1, SCANNED)]
    starts = st.builds(lambda at, by: at + by, st.sampled_from(near), st.integers(-3, 3))
    runs = draw(st.lists(st.tuples(starts, st.integers(1, 5)), max_size=5))
    known = {leaf for start, count in runs for leaf in range(start, start + count)}
    return leaves, {leaf for leaf in known if 0 <= leaf < leaves}


@settings(max_examples=60, deadline=None)
@given(entries_near_borders())
def test_the_unknown_runs_are_just_the_leaves_without_an_entry(
    tmp_path_factory: Folders, made: tuple[int, set[int]]
) -> None:
    leaves, known = made
    path = tmp_path_factory.mktemp("journal") / "vda.journal"
    with closing(Journal(path, leaves, keep=False)) as journal:
        for leaf in known:
            journal.record(leaf, digest(leaf))
        runs = list(journal.unknown())
    covered = [leaf for start, end in runs for leaf in range(start, end)]
    assert covered == [leaf for leaf in range(leaves) if leaf not in known]
    borders = [border for run in runs for border in run]
    assert borders == sorted(set(borders)), "runs are not empty and do not touch"


@given(DIGESTS, DIGESTS, st.integers(1, DIGEST_BYTES - 1))
def test_an_entry_that_was_torn_equals_neither_digest_and_is_not_unknown(
    tmp_path_factory: Folders, new: bytes, old: bytes, torn_at: int
) -> None:
    """Its leaf may hold anything, and is nobody's hole."""
    torn = new[:torn_at] + old[torn_at:]
    if torn in {new, old}:
        return
    path = tmp_path_factory.mktemp("journal") / "vda.journal"
    with closing(Journal(path, 2, keep=False)) as journal:
        journal.record(0, old)
    with path.open("r+b") as file:
        file.write(new[:torn_at])
    with closing(Journal(path, 2, keep=True)) as journal:
        assert journal.read(0, 1) == [torn]
        assert list(journal.unknown()) == [(1, 2)]


def test_a_journal_that_is_not_kept_is_emptied_and_made_private(path: Path) -> None:
    path.write_bytes(digest(0) * LEAVES)
    path.chmod(0o644)
    with closing(Journal(path, LEAVES, keep=False)) as journal:
        assert journal.read(0, LEAVES) == [None] * LEAVES
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kept_journal_that_was_cut_off_knows_nothing_of_the_rest(path: Path) -> None:
    path.write_bytes(digest(0) + digest(1)[:5])
    with closing(Journal(path, 4, keep=True)) as journal:
        cut = digest(1)[:5].ljust(DIGEST_BYTES, b"\0")
        assert journal.read(0, 4) == [digest(0), cut, None, None]
        assert list(journal.unknown()) == [(2, 4)]


@pytest.mark.parametrize("harm", ["link", "folder", "nowhere"])
def test_what_is_no_file_of_its_own_is_no_journal(tmp_path: Path, path: Path, harm: str) -> None:
    if harm == "link":
        (tmp_path / "precious").write_bytes(b"precious")
        path.symlink_to(tmp_path / "precious")
    elif harm == "folder":
        path.mkdir()
    else:
        path = tmp_path / "missing" / "vda.journal"
    with pytest.raises(errors.DataLoss) as caught:
        Journal(path, LEAVES, keep=True)
    assert caught.value.reason == "DISK_IO"
    if harm == "link":
        assert (tmp_path / "precious").read_bytes() == b"precious"


def test_an_entry_that_does_not_fit_on_the_disk_is_an_error_and_not_half_a_clearing(
    journal: Journal,
) -> None:
    journal.record(150, digest(150))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * DIGEST_BYTES + 16, hard))
    try:
        with pytest.raises(errors.WatariError):
            journal.clear(0, LEAVES)
        with pytest.raises(errors.WatariError):
            journal.record(99, digest(99) + digest(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
