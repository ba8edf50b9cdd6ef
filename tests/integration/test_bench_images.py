"""The bench's images have what is said of them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.images import build
from tests.support.disks import noise

LEAF = build.LEAF_BYTES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight leaves, of which three are not zero."""
    path = tmp_path / "root.raw"
    with path.open("wb") as file:
        file.truncate(8 * LEAF)
        for leaf in (0, 3, 7):
            file.seek(leaf * LEAF)
            file.write(noise(LEAF // 2, leaf) * 2)
    return path


def test_a_full_image_has_no_zero_leaf_and_nothing_twice(root: Path, tmp_path: Path) -> None:
    full = tmp_path / "full.raw"
    build.make_full(full, root, 10 * LEAF, seed=1)
    content = full.read_bytes()
    leaves = [content[at : at + LEAF] for at in range(0, len(content), LEAF)]
    assert len(leaves) == len(set(leaves)) == 10
    assert all(any(leaf) for leaf in leaves)
    assert full.stat().st_blocks * 512 >= len(content)


def test_a_qcow2_image_has_the_same_content(root: Path, tmp_path: Path) -> None:
    container = tmp_path / "root.qcow2"
    build.make_qcow2(container, root)
    qemu_img = shutil.which("qemu-img")
    assert qemu_img is not None
    told = subprocess.run(
        [qemu_img, "info", "--output=json", str(container)], check=True, capture_output=True
    )
    assert json.loads(told.stdout)["format"] == "qcow2"
    subprocess.run([qemu_img, "compare", str(container), str(root)], check=True)
