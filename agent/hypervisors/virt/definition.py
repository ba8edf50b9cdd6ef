"""What the driver reads from the definitions of this host's own machines. Pure."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from agent.hypervisors import domain
from agent.hypervisors.virt import notes, policy
from agent.hypervisors.virt.notes import Note
from watari import errors

MIB = 1024 * 1024
DEVICE_STATE_BYTES = 256 * MIB
"""What devices, page headers and the definition may add to the memory in a saved image."""

AGENT_CHANNEL = "org.qemu.guest_agent.0"


@dataclass(frozen=True)
class State:
    """What of a machine travels beside its disks."""

    nvram: Path | None
    """File of the firmware's variables."""
    tpm: bool
    """Whether it has an emulated TPM."""
    memory_bytes: int
    """Upper bound of its saved memory, a multiple of 1 MiB."""


def require_same_machine(saved: str, defined: str) -> None:
    """Raises FailedPrecondition VM_DEFINITION_INVALID unless the definition inside of a saved
    memory is that of the machine which was admitted: nobody looked at the other one before.
    """
    both = [domain.parse(each) for each in (saved, defined)]
    told = [
        (one.vm_id, one.tenant, one.vcpus, one.memory_bytes, [disk.disk_id for disk in one.disks])
        for one in both
    ]
    cards = [len(domain.tree(each).findall("devices/interface")) for each in (saved, defined)]
    if told[0] != told[1] or cards[0] != cards[1]:
        raise domain.invalid("the saved memory is another machine's, or one of another size")


def chosen_firmware(xml: str) -> bool:
    """Whether libvirt chooses the firmware, and then the file of its variables as well."""
    os = domain.tree(xml).find("os")
    return os is not None and os.get("firmware") == "efi"


def default_variables(xml: str, nvram_folder: Path) -> Path:
    """Where libvirt's QEMU driver keeps the variables of a firmware that it chose."""
    return nvram_folder / f"{domain.parse(xml).name}_VARS.fd"


def state(xml: str, nvram_folder: Path) -> State:
    """`nvram_folder` is libvirt's. Raises FailedPrecondition VM_DEFINITION_INVALID."""
    root = domain.tree(xml)
    nvram = (root.findtext("os/nvram") or "").strip()
    if not nvram and (source := root.find("os/nvram/source")) is not None:
        nvram = source.get("file", "")
    if not nvram and chosen_firmware(xml):
        nvram = str(default_variables(xml, nvram_folder))
    video_kib = sum(
        int(model.get(name, "0"))
        for model in root.findall("devices/video/model")
        for name in ("ram", "vram", "vgamem", "vram64")
        if model.get(name, "0").isdecimal()
    )
    most = domain.parse(xml).memory_bytes + video_kib * 1024 + DEVICE_STATE_BYTES
    return State(
        nvram=Path(nvram) if nvram else None,
        tpm=root.find("devices/tpm/backend[@type='emulator']") is not None,
        memory_bytes=-(-most // MIB) * MIB,
    )


def has_guest_agent(live_xml: str) -> bool:
    """Whether QEMU's guest agent is connected in a running machine."""
    found = domain.tree(live_xml).iterfind("devices/channel/target")
    return any(
        each.get("name") == AGENT_CHANNEL and each.get("state") == "connected" for each in found
    )


def targets(xml: str) -> tuple[str, ...]:
    """Every drive, removable ones too."""
    found = domain.tree(xml).iterfind("devices/disk/target")
    return tuple(each.get("dev", "") for each in found)


def obstacles(xml: str) -> list[Note]:
    """What of the definition keeps its machine from moving anywhere, by the destination's rules."""
    target = policy.Target(Path("/"), {}, anything=True)
    return [each for each in policy.adapted(xml, target).notes if each.fatal]


def attached_live(persistent_xml: str, live_xml: str) -> list[Note]:
    """Disks of a machine that runs which its persistent definition does not have, or has from
    elsewhere: only the persistent one moves, so their content would stay behind.
    """
    try:
        defined, live = (domain.parse(each).disks for each in (persistent_xml, live_xml))
    except errors.WatariError as error:  # such as one of another host
        return [Note(fatal=True, error=error)]
    known = {(each.disk_id, each.source) for each in defined}
    return [
        notes.unmovable(
            f"disk {each.disk_id}",
            "it was attached while the machine ran, and its definition does not know it",
            "add it for good (virsh attach-disk --config), or detach it (virsh detach-disk --live)",
        )
        for each in live
        if (each.disk_id, each.source) not in known
    ]


def in_the_way(*, snapshots: int, managed_save: bool) -> list[Note]:
    """The same for what libvirt keeps beside it."""
    found = []
    if snapshots:
        found.append(
            notes.unmovable(
                "snapshots",
                f"the machine has {snapshots}, which do not travel",
                "delete them: virsh snapshot-delete",
            )
        )
    if managed_save:
        found.append(
            notes.unmovable(
                "managed save",
                "its memory is saved by libvirt and would not fit its disks any more",
                "start the machine, or drop it: virsh managedsave-remove",
            )
        )
    return found


def backup(targets_: dict[str, str | None], socket: Path, scratch: Path) -> str:
    """The XML of a pull-mode backup: of each drive the checkpoint since which it tells changes, ""
    for all of it, None for none of it.

    Format: https://libvirt.org/formatbackup.html
    """
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    disks = ET.SubElement(root, "disks")
    for name, since in targets_.items():
        if since is None:
            ET.SubElement(disks, "disk", name=name, backup="no")
            continue
        disk = ET.SubElement(disks, "disk", name=name, backup="yes", type="file")
        disk.set("backupmode", "incremental" if since else "full")
        if since:
            disk.set("incremental", since)
        ET.SubElement(disk, "scratch", file=str(scratch / f"{name}.scratch"))
    return ET.tostring(root, encoding="unicode")


def checkpoint(name: str, marked: dict[str, bool]) -> str:
    """The XML of a checkpoint with a bitmap on the marked drives.

    Format: https://libvirt.org/formatcheckpoint.html
    """
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    disks = ET.SubElement(root, "disks")
    for target, with_bitmap in marked.items():
        ET.SubElement(disks, "disk", name=target, checkpoint="bitmap" if with_bitmap else "no")
    return ET.tostring(root, encoding="unicode")


def marked(checkpoint_xml: str) -> set[str]:
    """The drives on which a checkpoint has a bitmap."""
    root = ET.fromstring(checkpoint_xml)  # noqa: S314  libvirt's own
    found = root.iterfind("disks/disk")
    return {each.get("name", "") for each in found if each.get("checkpoint") == "bitmap"}
