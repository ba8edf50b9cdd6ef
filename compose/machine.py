"""Puts disk images on a container's shelf as a new, powered-off machine.

`python -m compose.machine --cloud tokyo --name db-1 disk.raw`, like `watari vm import`, which knows
the local federation's shelves only.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from watari import errors, validate
from watari.cli import shelf

STATE = Path(__file__).parent / "state"

VCPUS, MEMORY_BYTES = 1, 1024**3


def put(
    state: Path, cloud_id: str, name: str, images: Sequence[Path], *, move: bool = False
) -> str:
    """Makes the machine; returns its UUID. The agent finds it by itself.

    Raises FailedPrecondition CONFIG_INVALID when there is no such shelf, InvalidArgument, NotFound
    and OSError.
    """
    shelf.check_images(images)
    vms = state / "shelves" / cloud_id / "vms"
    if not vms.is_dir():
        raise errors.FailedPrecondition(
            "CONFIG_INVALID", f"there is no {vms}", hint="make compose-up, or name another --cloud"
        )
    machine = shelf.Machine(
        validate.require_name(name, "name"), VCPUS, MEMORY_BYTES, "default", tuple(images)
    )
    # Apart from the shelf, whose agent must not see a machine whose files are not its own yet.
    with tempfile.TemporaryDirectory(dir=state, prefix=".machine-") as folder:
        vm_id = shelf.put(Path(folder), machine, move=move)
        made = Path(folder, "vms", vm_id)
        give(made, vms.stat().st_uid)
        made.rename(vms / vm_id)
    return vm_id


def give(folder: Path, owner: int) -> None:
    """Makes a folder and all in it another user's, which only root may do; else it stays."""
    if os.geteuid() == owner:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def main() -> None:
    """Makes one and prints its UUID."""
    parser = argparse.ArgumentParser(
        prog="python -m compose.machine", description="Makes a machine of raw disk images."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="FILE", help="one for each disk")
    parser.add_argument("--cloud", required=True, metavar="CLOUD")
    parser.add_argument("--name", required=True, metavar="NAME")
    parser.add_argument("--state", type=Path, default=STATE, metavar="DIR", help="see prepare")
    arguments = parser.parse_args()
    try:
        vm_id = put(arguments.state, arguments.cloud, arguments.name, arguments.images)
    except errors.WatariError as error:
        sys.exit(f"{error.message}\n  Next: {error.hint}")
    print(vm_id)


if __name__ == "__main__":
    main()
