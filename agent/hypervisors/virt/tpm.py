"""State of an emulated TPM as one disk: a tar of swtpm's folder for a machine, of a fixed size."""

import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from agent import files
from agent.disks.images import disk_error, unreadable

STATE_BYTES_MAX = 4 * 1024 * 1024
"""Size of the disk "tpm": swtpm keeps some KiB, and libtpms bounds its NVRAM at 176 KiB."""

MEMBERS_MAX = 32
"""Files of one machine; swtpm makes two or three."""


def pack(folder: Path, target: Path) -> None:
    """Writes the regular files below `folder` as a tar of exactly STATE_BYTES_MAX, durably; a
    folder that is not there gives an empty one. Raises FailedPrecondition IMAGE_UNREADABLE.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for each in sorted(folder.rglob("*")):
            if not each.is_symlink() and each.is_file() and not each.name.startswith("."):
                _add(archive, each, folder)
    if content.tell() > STATE_BYTES_MAX:
        raise unreadable(target, f"its TPM's state is larger than {STATE_BYTES_MAX} bytes")
    files.write_bytes(target, content.getvalue().ljust(STATE_BYTES_MAX, b"\0"))


def unpack(source: Path, folder: Path, owner: tuple[int, int] | None = None) -> None:
    """Replaces `folder` by what a stranger's tar holds: regular files only, below it, bounded.

    `owner` (user and group ids) is whom swtpm runs as. Raises FailedPrecondition IMAGE_UNREADABLE,
    and then `folder` is as before.
    """
    content = _read(source)
    partial = folder.with_name(f".{folder.name}.partial")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(partial)
    for path, data in content.items():
        files.ensure_folder((partial / path).parent)
        files.write_bytes(partial / path, data)
    files.ensure_folder(partial)
    if owner is not None:
        for each in (partial, *partial.rglob("*")):
            os.chown(each, *owner, follow_symlinks=False)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    files.rename(partial, folder)


def _add(archive: tarfile.TarFile, path: Path, folder: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise disk_error(error, path) from error
    member = tarfile.TarInfo(path.relative_to(folder).as_posix())
    member.size, member.mode = len(data), 0o600
    archive.addfile(member, io.BytesIO(data))


def _read(source: Path) -> dict[str, bytes]:
    with source.open("rb") as file:
        content = file.read(STATE_BYTES_MAX + 1)
    if len(content) > STATE_BYTES_MAX:
        raise unreadable(source, f"it is larger than {STATE_BYTES_MAX} bytes")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = _name(member)
                found[name] = _data(archive, member)
                if len(found) > MEMBERS_MAX:
                    raise ValueError("it has too many files")  # noqa: TRY301
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise unreadable(source, f"it is no archive of a TPM: {error}") from error
    parents = {each.as_posix() for name in found for each in PurePosixPath(name).parents}
    if parents & found.keys():
        raise unreadable(source, "a file in it is a folder too")
    return found


def _name(member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise ValueError(f"{member.name[:64]!r} is no regular file")
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in member.name:
        raise ValueError(f"{member.name[:64]!r} is outside its folder")
    return path.as_posix()


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = file.read(STATE_BYTES_MAX) if file is not None else b""
    if len(data) != member.size:
        raise ValueError(f"{member.name[:64]!r} is cut short")
    return data
