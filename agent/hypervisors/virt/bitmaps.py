"""Dirty bitmaps that are kept in qcow2 images, by `qemu-img`, while nobody has the image open."""

import json
import subprocess
from pathlib import Path

from agent.disks.nbd import tools
from watari import logs

SECONDS_MAX = 60.0
_VERSION_WITH_BITMAPS = 3
_log = logs.get(__name__)


def supported(path: Path) -> bool:
    """Whether an image can hold any; it may be in use."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(8)[4:], "big") >= _VERSION_WITH_BITMAPS


def remove(path: Path, prefix: str) -> None:
    """Removes those whose name begins with `prefix`, as far as that goes: a bitmap that stays takes
    room and does no harm.
    """
    for name in _names(path):
        if name.startswith(prefix):
            command = ["qemu-img", "bitmap", "--remove", "-f", "qcow2", str(path), name]
            try:
                status, said = tools.run(command, path, SECONDS_MAX)
            except tools.ToolError as error:
                status, said = 1, str(error)
            if status:
                _log.warning("a bitmap stays", disk=path.name, bitmap=name, error=said)


def _names(path: Path) -> list[str]:
    command = ["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=SECONDS_MAX, check=True, env=tools.environment()
        )
        data = json.loads(done.stdout)["format-specific"]["data"]
        return [str(each["name"]) for each in data.get("bitmaps", [])]
    except (subprocess.SubprocessError, OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("an image's bitmaps are not known", disk=path.name, error=str(error))
        return []
