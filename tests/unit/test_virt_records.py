"""What the libvirt driver keeps: records, saved memory, TPM state; hostile files too."""

import io
import struct
import tarfile
from pathlib import Path

import pytest

from agent.hypervisors.virt import records, saveimage, tpm
from agent.hypervisors.virt.records import Folder, Hold, Kept, Origin
from watari import errors
from watari.v1 import common_pb2

VM_ID = "5c2f2a3e-4bb5-4a5e-8d38-0d7b45f0a6c1"
MIGRATION = "0b0e7c53-8f54-4e83-9f0a-3c9a1b1f7f10"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "a")


def test_records_are_read_as_they_were_written(folder: Folder) -> None:
    hold = Hold(
        migration_id=MIGRATION,
        mode=common_pb2.MIGRATION_MODE_SUSPEND,
        stage="stopping",
        definition="<domain/>",
        was_running=True,
        saves=("a", "b"),
    )
    folder.put_hold(VM_ID, hold)
    assert folder.hold(VM_ID) == hold
    assert folder.holds() == {VM_ID: hold}
    kept = Kept(MIGRATION, VM_ID, "web", "acme", "", 3, 1.5, "<domain/>", (("vda", "/x", "raw"),))
    folder.put_kept(kept)
    assert folder.kept_by(MIGRATION) == kept
    folder.drop_kept(MIGRATION)
    folder.drop_kept(MIGRATION)
    assert folder.all_kept() == []
    for each in ("one.memory", "tpm"):
        (folder.held / f"{VM_ID}.{each}").touch()
    folder.drop_hold(VM_ID)
    assert list(folder.held.iterdir()) == []


def test_a_record_of_a_later_release_is_still_read(folder: Folder) -> None:
    (folder.held / f"{VM_ID}.json").write_text('{"migration_id": "x", "from_the_future": 1}')
    assert folder.hold(VM_ID) == Hold(migration_id="x")


def test_an_epoch_is_the_origins_where_there_is_one(folder: Folder) -> None:
    assert folder.epoch(VM_ID) == 0
    folder.put_epoch(VM_ID, 4)
    assert folder.epoch(VM_ID) == 4
    folder.machine(MIGRATION).mkdir()
    folder.put_origin(Origin(MIGRATION, VM_ID, epoch=7, provisional=True))
    assert folder.epoch(VM_ID) == 7
    folder.put_epoch(VM_ID, 8)
    assert folder.origin(VM_ID) == Origin(MIGRATION, VM_ID, epoch=8, provisional=True)
    folder.drop_origin(MIGRATION)
    folder.remove_machine(MIGRATION)
    folder.remove_machine(MIGRATION)
    assert folder.origin(VM_ID) is None


def test_a_folder_has_one_agent_and_can_be_passed(folder: Folder) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        Folder(folder.path)
    assert caught.value.reason == "CONFIG_INVALID"
    folder.close()
    (folder.machines / ".going-x").mkdir()
    again = Folder(folder.path)
    assert list(again.machines.iterdir()) == []
    assert folder.path.stat().st_mode & 0o777 == 0o711


def test_only_plain_files_are_plain_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to("file")
    assert records.plain_file(tmp_path / "file")
    for other in ("link", ".", "missing"):
        assert not records.plain_file(tmp_path / other)
    assert records.allocated_bytes(tmp_path / "file") >= 5000
    assert records.allocated_bytes(tmp_path / "link") == 0


@pytest.mark.parametrize(
    ("magic", "compressed", "expected"),
    [
        (b"LibvirtQemudSave", 0, saveimage.Image(complete=True, raw=True)),
        (b"LibvirtQemudPart", 0, saveimage.Image(complete=False, raw=True)),
        (b"LibvirtQemudSave", 3, saveimage.Image(complete=True, raw=False)),
        (b"libvirt-xml\n \0 \r", 0, saveimage.Image(complete=None, raw=True)),
        (b"SomethingElse...", 0, None),
    ],
)
def test_the_header_of_a_saved_memory_tells_whether_it_is_whole(
    magic: bytes, compressed: int, expected: saveimage.Image | None
) -> None:
    header = struct.pack("=16s5I", magic, 2, 100, 1, compressed, 0).ljust(92, b"\0")
    assert saveimage.parse(header) == expected
    assert saveimage.parse(header[:91]) is None


def test_the_state_of_a_tpm_comes_back_as_it_was(tmp_path: Path) -> None:
    state = tmp_path / "swtpm"
    (state / "tpm2").mkdir(parents=True)
    (state / "tpm2" / "tpm2-00.permall").write_bytes(b"secret" * 100)
    (state / "tpm2" / ".lock").touch()
    tpm.pack(state, tmp_path / "tpm.raw")
    assert (tmp_path / "tpm.raw").stat().st_size == tpm.STATE_BYTES_MAX
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    for _ in range(2):
        tpm.unpack(tmp_path / "tpm.raw", tmp_path / "there")
        found = [each for each in (tmp_path / "there").rglob("*") if each.is_file()]
        assert [each.relative_to(tmp_path / "there").as_posix() for each in found] == [
            "tpm2/tpm2-00.permall"
        ]
        assert found[0].read_bytes() == b"secret" * 100
    tpm.pack(tmp_path / "none", tmp_path / "empty.raw")
    tpm.unpack(tmp_path / "empty.raw", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/cron.d/x"),
        member("../x"),
        member("a/../../x"),
        member("x", tarfile.SYMTYPE, "/etc"),
        member("x", tarfile.LNKTYPE, "/etc/passwd"),
        member("x", tarfile.CHRTYPE),
        member("x", tarfile.BLKTYPE),
        member("x", tarfile.FIFOTYPE),
        member("x", tarfile.DIRTYPE),
        member("good/x"),
    ],
    ids=lambda each: f"{each.name}-{each.type!r}",
)
def test_a_hostile_archive_changes_nothing(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(member("good"))
        archive.addfile(bad)
    check_refused(tmp_path, content.getvalue())


@pytest.mark.parametrize("content", [b"x" * 2000, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_archive_changes_nothing(tmp_path: Path, content: bytes) -> None:
    check_refused(tmp_path, content)


def test_an_archive_is_bounded(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for number in range(tpm.MEMBERS_MAX + 1):
            archive.addfile(member(str(number)))
    check_refused(tmp_path, content.getvalue())
    check_refused(tmp_path, bytes(tpm.STATE_BYTES_MAX + 1))
    promised = member("x")
    promised.size = 1 << 40
    check_refused(tmp_path, promised.tobuf() + bytes(1024))


def check_refused(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "state"
    target.mkdir(exist_ok=True)
    (target / "old").write_text("kept")
    (tmp_path / "tpm.raw").write_bytes(content)
    with pytest.raises(errors.FailedPrecondition) as caught:
        tpm.unpack(tmp_path / "tpm.raw", target)
    assert caught.value.reason == "IMAGE_UNREADABLE"
    assert (target / "old").read_text() == "kept"
