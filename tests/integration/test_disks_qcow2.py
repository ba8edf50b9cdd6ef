"""qcow2 through a real qemu-nbd: what is refused, and what QEMU and we make of one image."""

import os
import shutil
import time
from pathlib import Path

import pytest

from agent.disks import measure, open_reader, open_writer
from tests.support.disks import KIB, MIB, loop_device, new_image, run
from watari import errors


def test_images_that_need_other_files_are_refused_before_any_tool_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    backed, split = tmp_path / "backed.qcow2", tmp_path / "split.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", backed)
    options = f"data_file={tmp_path / 'data'}"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, split, "1M")
    locked = tmp_path / "locked.qcow2"
    secrets = ["--object", "secret,id=s,data=x"]
    options = "encrypt.format=aes,encrypt.key-secret=s"
    run("qemu-img", "create", "-q", *secrets, "-f", "qcow2", "-o", options, locked, "1M")
    monkeypatch.setattr("agent.disks.nbd.server.start", None)
    for path, why in [(backed, "backing"), (split, "another file"), (locked, "encrypted")]:
        for call in (lambda p=path: open_reader(p, "qcow2"), lambda p=path: measure(p, "qcow2")):
            with pytest.raises(errors.FailedPrecondition) as caught:
                call()
            assert caught.value.reason == "IMAGE_UNREADABLE"
            assert why in caught.value.message
    with pytest.raises(errors.FailedPrecondition) as caught:
        open_reader(backed, "qcow2")
    assert "qemu-img convert" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"no image" * 1000])
def test_a_file_that_is_no_image_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(content)
    with pytest.raises(errors.FailedPrecondition) as caught:
        open_reader(path, "qcow2")
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_a_damaged_image_is_unreadable_and_its_folder_is_not_told(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2")
    with path.open("r+b") as image:
        image.seek(20)
        image.write((60).to_bytes(4, "big"))  # clusters of 2^60 bytes
    with pytest.raises(errors.FailedPrecondition) as caught:
        open_reader(path, "qcow2")
    assert caught.value.reason == "IMAGE_UNREADABLE"
    assert "luster size" in caught.value.message
    assert str(tmp_path) not in str(caught.value)


def test_an_image_that_is_written_to_elsewhere_is_waited_for_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.disks.nbd.tools.LOCK_SECONDS_MAX", 0.5)
    path = tmp_path / "disk.qcow2"
    writer = open_writer(path, "qcow2", MIB, keep=False)
    began = time.monotonic()
    try:
        with pytest.raises(errors.FailedPrecondition) as caught:
            open_reader(path, "qcow2")
        assert time.monotonic() - began >= 0.5
        assert caught.value.reason == "IMAGE_UNREADABLE"
        assert "lock" in caught.value.message
        assert "shut down" in caught.value.hint
    finally:
        writer.close()
    with open_reader(path, "qcow2") as reader:
        assert reader.size == MIB


@pytest.mark.parametrize("tool", ["qemu-nbd", "qemu-img"])
def test_a_host_without_the_tools_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    path = new_image(tmp_path / "disk.qcow2")
    tools = tmp_path / "bin"
    tools.mkdir()
    for each in {"sh", "qemu-nbd", "qemu-img"} - {tool}:
        (tools / each).symlink_to(shutil.which(each) or "")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(errors.FailedPrecondition) as caught:
        open_writer(tmp_path / "new.qcow2", "qcow2", MIB, keep=False)
    assert caught.value.reason == "CONFIG_INVALID"
    assert "qemu-utils" in caught.value.hint
    assert not (tmp_path / "new.qcow2").exists()
    if tool == "qemu-nbd":
        with pytest.raises(errors.FailedPrecondition):
            open_reader(path, "qcow2")
    assert measure(path, "qcow2").size_bytes == MIB


def test_qemu_itself_finds_what_was_written_and_we_find_what_qemu_wrote(tmp_path: Path) -> None:
    raw, image, back = tmp_path / "a.raw", tmp_path / "a.qcow2", tmp_path / "b.raw"
    content = os.urandom(200_000) + bytes(3 * MIB) + os.urandom(70_000)
    raw.write_bytes(content.ljust(-(-len(content) // 512) * 512, b"\0"))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, image)
    with open_reader(image, "qcow2") as reader:
        assert reader.read(0, reader.size) == raw.read_bytes()
    new_image(image, len(content), content)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, back)
    assert back.read_bytes() == raw.read_bytes()


def test_a_compressed_or_zeroed_cluster_is_told_apart(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 4 * MIB, os.urandom(2 * MIB))
    run("qemu-io", "-f", "qcow2", "-c", "write -z 0 1M", path)
    with open_reader(path, "qcow2") as reader:
        found = list(reader.extents(64 * KIB, full_read=False))
    holes = [(each.start, each.end) for each in found if each.hole]
    assert holes == [(0, MIB), (2 * MIB, 4 * MIB)]


def test_an_image_is_measured_without_a_process(tmp_path: Path) -> None:
    path = new_image(tmp_path / "disk.qcow2", 1 << 40)
    measured = measure(path, "qcow2")
    assert measured.size_bytes == 1 << 40
    assert 0 < measured.allocated_bytes < 2 * MIB
    assert measure(path, "raw").size_bytes == path.stat().st_size


def test_a_block_device_is_not_replaced_by_an_image(tmp_path: Path) -> None:
    with loop_device(tmp_path / "behind", MIB) as device:
        with pytest.raises(errors.FailedPrecondition) as caught:
            open_writer(device, "qcow2", MIB, keep=False)
        assert caught.value.reason == "CONFIG_INVALID"
        assert device.is_block_device()
