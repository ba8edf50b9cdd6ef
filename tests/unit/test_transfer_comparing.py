"""Answers to offers: what is here is taken and verified, and only what lacks is asked for."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.hypervisors import Disk
from agent.transfer.arriving import Known, open_disks
from agent.transfer.frames import LeavesOffer, ParentOffer, Verdict
from agent.transfer.geometry import (
    BLOCK_BYTES,
    LEAF_BYTES,
    OFFERS_PENDING_MAX,
    PARENT_BYTES,
    WHOLE_LEAF,
)
from tests.support.arriving import place
from tests.support.comparing import (
    CONTENT,
    KEY,
    LAST,
    SHIFTED,
    SIZE,
    Host,
    changed,
    leaves,
    parent,
    root,
)
from watari import errors
from watari.v1 import common_pb2

SHORT = 0x0003
"""The mask of the last leaf."""


def test_a_parent_that_an_earlier_copy_has_is_taken_from_it(tmp_path: Path) -> None:
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(parent(CONTENT)) is Verdict.HAVE
        assert host.answer(parent(CONTENT, LAST)) is Verdict.HAVE
        assert host.disk == CONTENT
        assert host.comparing.target.tree.root() == root(CONTENT)
    with Host(tmp_path, keep=True) as host:
        assert all(host.comparing.target.recorded(LAST, 4)), "it is in the journal"


def test_of_a_parent_that_differs_only_the_leaves_that_differ_are_wanted(tmp_path: Path) -> None:
    now = changed(CONTENT, 5 * LEAF_BYTES + 77)
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(parent(now)) is Verdict.OPEN
        masks = host.answer(leaves(now))
        assert masks == tuple(WHOLE_LEAF if index == 5 else 0 for index in range(64))
        assert host.answer(parent(changed(CONTENT, SIZE - 1), LAST)) is Verdict.OPEN
        assert host.answer(leaves(changed(CONTENT, SIZE - 1), LAST)) == (0, 0, 0, SHORT)
        assert host.disk[: 5 * LEAF_BYTES] == now[: 5 * LEAF_BYTES]
        assert host.disk[5 * LEAF_BYTES : 6 * LEAF_BYTES] == bytes(LEAF_BYTES)


def test_zeros_are_wanted_from_nobody_whatever_the_earlier_copy_has(tmp_path: Path) -> None:
    now = bytes(2 * LEAF_BYTES) + CONTENT[2 * LEAF_BYTES : -5000] + bytes(5000)
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.transfer(now) == 0
        assert host.disk == now
        assert host.comparing.target.tree.root() == root(now)


def test_leaves_that_are_offered_without_their_parent_are_all_wanted(tmp_path: Path) -> None:
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(leaves(CONTENT, LAST)) == (WHOLE_LEAF,) * 3 + (SHORT,)
        assert host.disk == bytes(SIZE)


def test_so_many_parents_that_differ_are_remembered_and_the_oldest_is_sent_whole(
    tmp_path: Path,
) -> None:
    """A sender that has more offers under way costs itself time."""
    with Host(tmp_path, earlier=CONTENT) as host:
        host.answer(parent(changed(CONTENT, LAST), LAST))
        for _ in range(OFFERS_PENDING_MAX - 1):
            host.comparing._differing[PARENT_BYTES * (2 + len(host.comparing._differing))] = []
        host.answer(parent(changed(CONTENT, 0)))
        assert len(host.comparing._differing) == OFFERS_PENDING_MAX
        assert host.answer(leaves(changed(CONTENT, LAST), LAST)) == (WHOLE_LEAF,) * 3 + (SHORT,)


HARMS: dict[str, Callable[[Path], object]] = {
    "written to": lambda path: path.write_bytes(changed(CONTENT, LAST + LEAF_BYTES + 5)),
    "shorter": lambda path: os.truncate(path, LAST + LEAF_BYTES),
    "emptied": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("harm", HARMS)
def test_an_earlier_copy_that_changes_after_it_was_compared_is_never_trusted(
    tmp_path: Path, harm: str
) -> None:
    now = changed(CONTENT, LAST + 3)
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(parent(now, LAST)) is Verdict.OPEN
        HARMS[harm](host.earlier_path)
        masks = host.ask(leaves(now, LAST)).masks
        assert masks[1] == WHOLE_LEAF
        host.send(now, LAST, masks)
        assert host.disk[LAST:] == now[LAST:]


@pytest.mark.parametrize("length", [0, 1, LEAF_BYTES, LAST, LAST + 3 * LEAF_BYTES, SIZE - 1])
def test_an_earlier_copy_that_is_shorter_gives_what_it_has(tmp_path: Path, length: int) -> None:
    with Host(tmp_path, earlier=CONTENT[:length]) as host:
        sent = host.transfer(CONTENT)
        assert host.disk == CONTENT
        kept = length // LEAF_BYTES * 16
        assert sent == 16 * (SIZE // LEAF_BYTES) + 2 - kept


def test_a_digest_of_what_a_shorter_copy_has_is_no_digest_of_the_parent(tmp_path: Path) -> None:
    there = CONTENT[: LAST + 2 * LEAF_BYTES]
    with Host(tmp_path, earlier=there) as host:
        assert host.answer(parent(there, LAST)) is Verdict.OPEN
        assert host.disk == bytes(SIZE)


def test_an_earlier_copy_that_is_longer_counts_as_far_as_the_disk_goes(tmp_path: Path) -> None:
    with Host(tmp_path, earlier=CONTENT + b"more") as host:
        assert host.transfer(CONTENT) == 0
        assert host.disk == CONTENT


def test_an_earlier_copy_that_cannot_be_opened_is_no_copy(tmp_path: Path) -> None:
    known = Known({"vda": Disk("vda", tmp_path / "missing", "raw", SIZE, 0)}, None)
    spec = common_pb2.DiskSpec(disk_id="vda", size_bytes=SIZE)
    (comparing,) = open_disks([spec], KEY, place(tmp_path), known)
    assert not comparing.same_offset
    comparing.target.close()


def test_an_earlier_copy_that_was_cut_is_not_used_any_more_and_the_rest_is_sent(
    tmp_path: Path,
) -> None:
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(parent(CONTENT)) is Verdict.HAVE
        os.truncate(host.earlier_path, LAST + 5)
        assert host.answer(parent(CONTENT, LAST)) is Verdict.OPEN
        assert not host.comparing.same_offset
        masks = host.ask(leaves(CONTENT, LAST)).masks
        assert masks == (WHOLE_LEAF,) * 3 + (SHORT,)
        host.send(CONTENT, LAST, masks)
        assert host.disk == CONTENT


def test_a_leaf_is_found_by_its_blocks_at_another_place_of_another_image(tmp_path: Path) -> None:
    images = [SHIFTED + CONTENT[LAST : LAST + 2 * LEAF_BYTES], b"x" * 9000]
    with Host(tmp_path, images=images) as host:
        assert (host.comparing.same_offset, host.comparing.any_offset) == (False, True)
        masks = host.ask(leaves(CONTENT, LAST, blocks=True)).masks
        assert masks == (0, 0, WHOLE_LEAF, SHORT)
        assert host.disk[LAST : LAST + 2 * LEAF_BYTES] == CONTENT[LAST : LAST + 2 * LEAF_BYTES]


def test_of_a_leaf_that_is_found_in_part_only_the_lacking_blocks_are_wanted(tmp_path: Path) -> None:
    """A short block that ends the disk is found where it ends an image too."""
    there = CONTENT[LAST : LAST + BLOCK_BYTES] + CONTENT[LAST + 3 * BLOCK_BYTES :]
    with Host(tmp_path, images=[there]) as host:
        masks = host.ask(leaves(CONTENT, LAST, blocks=True)).masks
        assert masks == (0x0006, 0, 0, 0)
        assert host.send(CONTENT, LAST, masks) == []
        assert host.disk[LAST:] == CONTENT[LAST:]


def test_fingerprints_that_lie_are_found_out_by_the_digest(tmp_path: Path) -> None:
    """Whole: it is not taken. In part: it is rejected when the rest comes, and sent whole."""
    other = random.Random(4).randbytes(SIZE)
    with Host(tmp_path, images=[other[LAST : LAST + LEAF_BYTES + BLOCK_BYTES]]) as host:
        true, lies = (leaves(each, LAST, blocks=True) for each in (CONTENT, other))
        offer = LeavesOffer(0, LAST, 0, true.digests, lies.fingerprints)
        masks = host.ask(offer).masks
        assert masks == (WHOLE_LEAF, WHOLE_LEAF & ~1, WHOLE_LEAF, SHORT)
        assert host.send(CONTENT, LAST, masks) == [LAST // LEAF_BYTES + 1]
        assert host.disk[LAST:] == CONTENT[LAST:]


def test_an_image_that_changed_after_it_was_indexed_is_never_trusted(tmp_path: Path) -> None:
    with Host(tmp_path, images=[CONTENT]) as host:
        host.image_path(0).write_bytes(changed(CONTENT, LAST + 9))
        assert host.answer(leaves(CONTENT, LAST, blocks=True)) == (WHOLE_LEAF,) * 3 + (SHORT,)


def test_a_change_that_the_images_times_do_not_tell_is_found_out_by_the_digest(
    tmp_path: Path,
) -> None:
    """As within one step of the kernel's clock."""
    with Host(tmp_path, images=[CONTENT[: LAST + 2 * LEAF_BYTES - BLOCK_BYTES]]) as host:
        host.unnoticed(0, changed(changed(CONTENT, LAST + 9), LAST + LEAF_BYTES))
        masks = host.ask(leaves(CONTENT, LAST, blocks=True)).masks
        assert masks == (WHOLE_LEAF, 0x8000, WHOLE_LEAF, SHORT)
        assert host.send(CONTENT, LAST, masks) == [LAST // LEAF_BYTES + 1]
        assert host.disk[LAST:] == CONTENT[LAST:]


@pytest.mark.parametrize(
    "offer",
    [
        ParentOffer(0, 2 * PARENT_BYTES, bytes(32)),
        LeavesOffer(0, 2 * PARENT_BYTES, 0, (bytes(32),)),
        LeavesOffer(0, LAST, 0, (bytes(32),) * 3),
        LeavesOffer(0, LAST, 0, (bytes(32),) * 5),
        LeavesOffer(0, LAST, 0b0001, (bytes(32),) * 4),
        LeavesOffer(0, LAST, 0b10000, (bytes(32),) * 3),
        LeavesOffer(0, LAST, 0b10001, (bytes(32),) * 3),
        LeavesOffer(0, 0, 0, ()),
    ],
)
def test_an_offer_off_the_disk_or_with_another_number_of_leaves_is_refused(
    tmp_path: Path, offer: ParentOffer | LeavesOffer
) -> None:
    with Host(tmp_path, earlier=CONTENT) as host:
        with pytest.raises(errors.DataLoss) as caught:
            host.ask(offer)
        assert caught.value.reason == "FRAME_INVALID"
        assert not host.comparing.target.tree.has(LAST)


def test_what_was_answered_have_cannot_be_offered_again(tmp_path: Path) -> None:
    with Host(tmp_path, earlier=CONTENT) as host:
        assert host.answer(parent(CONTENT, LAST)) is Verdict.HAVE
        for offer in (parent(CONTENT, LAST), leaves(bytes(SIZE), LAST)):
            with pytest.raises(errors.DataLoss) as caught:
                host.ask(offer)
            assert caught.value.reason == "FRAME_INVALID"
        assert host.disk[LAST:] == CONTENT[LAST:]


def test_a_dry_run_gives_the_same_answers_and_writes_nothing(tmp_path: Path) -> None:
    now = changed(CONTENT, 3 * LEAF_BYTES)
    answers = []
    for dry_run in (False, True):
        folder = tmp_path / str(dry_run)
        folder.mkdir()
        with Host(folder, earlier=CONTENT, images=[now[: 4 * LEAF_BYTES]], dry_run=dry_run) as host:
            offers = parent(now), leaves(now, blocks=True), parent(now, LAST)
            answers.append([host.answer(offer) for offer in offers])
            assert (folder / "vda.raw").exists() != dry_run
    assert answers[0] == answers[1]
