"""An image that is only looked at can be opened by a hypervisor meanwhile."""

import subprocess
from pathlib import Path

import pytest

from agent.disks import open_reader, open_seed, open_writer
from tests.support.disks import noise
from watari import errors

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A comma in its name would be one between options."""
    path = tmp_path / "disk,file.qcow2"
    writer = open_writer(path, "qcow2", 4 * MIB, keep=False)
    writer.write(MIB, noise(MIB))
    writer.flush()
    writer.close()
    return path


def open_to_write(path: Path) -> subprocess.CompletedProcess[str]:
    """As QEMU does it for a machine that starts: with a lock."""
    command = ["qemu-io", "-f", "qcow2", "-c", "write 0 4096", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_machine_starts_while_its_disk_is_looked_at_as_a_seed(image: Path) -> None:
    with open_seed(image, "qcow2") as reader:
        assert reader.read(MIB, 4096) == noise(MIB)[:4096]
        assert open_to_write(image).returncode == 0
        with pytest.raises(errors.DataLoss, match="SOURCE_CHANGED"):
            reader.check_unchanged()


def test_what_is_moved_is_not_opened_by_others_meanwhile(image: Path) -> None:
    with open_reader(image, "qcow2"):
        done = open_to_write(image)
        assert done.returncode != 0
        assert "lock" in done.stderr
