"""Every method of the bench really moves an image, over a link and with the protection it says."""

from pathlib import Path

import pytest

from bench.images import build
from bench.link import Link, Shape
from bench.methods import casync, paper_part, paper_whole, watari
from bench.rows.context import METHODS
from tests.support.disks import noise

MIB = 1 << 20
IMAGE_BYTES = 24 * MIB
SHAPE = Shape(500e6, 0.004)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB that do not compress, between holes."""
    path = tmp_path / "image.raw"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
        file.seek(4 * MIB)
        file.write(noise(8 * MIB))
    return path


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_moves_an_image_whole_and_over_the_link(
    name: str, image: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with Link(SHAPE) as link:
        result = METHODS[name].run(link, image, folder)
    assert result.identical
    assert result.seconds > 0
    everything = name in ("paper_ipsec", "paper_plain", "paper_whole")
    least = IMAGE_BYTES if everything else 8 * MIB
    assert least <= result.wire_bytes < 2 * least, "with headers, and what TCP sends again"


def test_watari_moves_what_a_qcow2_image_shows(image: Path, tmp_path: Path) -> None:
    container = tmp_path / "image.qcow2"
    build.make_qcow2(container, image)
    folder = tmp_path / "work"
    folder.mkdir()
    with Link(SHAPE) as link:
        result = watari.run(link, container, folder)
    assert result.identical
    (arrived,) = folder.rglob("vda.raw")
    assert arrived.stat().st_size == IMAGE_BYTES


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        (paper_whole, ["encrypt", "copy", "decrypt"]),
        (casync, ["push", "extract"]),
        (paper_part, ["compress", "encrypt", "copy", "decrypt", "decompress"]),
    ],
    ids=["whole", "casync", "part"],
)
def test_steps_are_timed_one_by_one_and_are_all_of_the_time(
    method: object, stages: list[str], image: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with Link(SHAPE) as link:
        result = method.run(link, image, folder)  # type: ignore[attr-defined]
    assert list(result.stages) == stages
    assert sum(result.stages.values()) == pytest.approx(result.seconds, rel=0.05)
