"""Where the files of a machine that arrives lie on this host, and its definition with them."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import files
from agent.hypervisors import domain
from agent.hypervisors.shelved import staged_disk, staged_format
from agent.hypervisors.virt import definition, policy, stamps
from agent.hypervisors.virt.host import Host

DEFINITION = "domain.xml"
MEMORY, NVRAM, TPM = (staged_disk(each) for each in ("memory", "nvram", "tpm"))


def adapted(
    host: Host,
    xml: str,
    lies_in: Path,
    folder: Path,
    *,
    nvram: bool,
    memory: bool,
    variables: Path | None = None,
) -> policy.Adapted:
    """The definition for disks that lie in `lies_in` now, and in `folder` then."""
    target = host.target(folder, _disks(host, xml, lies_in, folder), nvram=nvram, memory=memory)
    return policy.adapted(xml, replace(target, variables=variables))


def stamped(host: Host, xml: str, lies_in: Path, folder: Path) -> Mapping[str, str]:
    """What tells the disks as they lie in `lies_in`, by the path that they will have."""
    found = _disks(host, xml, lies_in, folder).values()
    return {str(each.path): stamps.of(lies_in / each.path.name) for each in found}


def variables(host: Host, folder: Path) -> Path | None:
    """Where libvirt will look for variables that arrived, if it decides that."""
    if not (folder / NVRAM).is_file():
        return None
    xml = (folder / DEFINITION).read_text("utf-8")
    if not definition.chosen_firmware(xml):
        return None
    return definition.default_variables(xml, host.options.nvram_folder)


def lay_out(staging: Path) -> None:
    """Gives saved state the name that the definition has for it."""
    if (staging / NVRAM).is_file():
        copy(staging / NVRAM, staging / policy.VARIABLES)


def copy(source: Path, target: Path) -> None:
    """Replaces a file as a whole, durably."""
    partial_copy = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial_copy)
    partial_copy.chmod(files.FILE_MODE)
    with partial_copy.open("rb") as file:
        os.fsync(file.fileno())
    files.rename(partial_copy, target)


def _disks(host: Host, xml: str, lies_in: Path, folder: Path) -> dict[str, domain.DiskFile]:
    arrived_in = partial(staged_format, lies_in, default=host.options.disk_format)
    found = {}
    for each in domain.parse(xml).disks:
        disk_format = arrived_in(each.disk_id)
        found[each.disk_id] = domain.DiskFile(
            folder / staged_disk(each.disk_id, disk_format), disk_format
        )
    return found
