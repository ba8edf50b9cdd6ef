"""What becomes of a definition that comes from elsewhere: kept, replaced, dropped or refused. Pure.

Only what is listed here and in `devices` is kept. Whatever could name a file, a device, a socket or
a service of this host is replaced by the host's own, dropped with a warning, or refused. At the end
all that remains is searched for paths once more: one that this host did not put there is refused.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agent.hypervisors import domain
from agent.hypervisors.virt import devices, notes
from agent.hypervisors.virt.notes import Note

IOTHREADS_MAX = 64
"""I/O threads of one machine."""

VARIABLES = "nvram.fd"
"""File of the firmware's variables in a machine's folder."""

_KEPT = {
    "blockiotune", "clock", "cpu", "currentMemory", "description", "features", "genid",
    "iothreadids", "iothreads", "maxMemory", "memory", "metadata", "name", "on_crash",
    "on_lockfailure", "on_poweroff", "on_reboot", "pm", "title", "uuid", "vcpu", "vcpus",
}  # fmt: skip
_SILENT = {"seclabel", "resource", "keywrap"}
"""True of a host, not of a machine."""

_DROPPED = {"blkiotune", "cputune", "idmap", "memtune", "numatune", "perf", "throttlegroups"}
_REFUSED = {"launchSecurity": "its memory is bound to the host's processor"}
_OS_KEPT = {"bios", "boot", "bootmenu", "cmdline", "firmware", "smbios", "type"}
_BOOT_FILES = ("kernel", "initrd", "dtb")
_LOADER_KEPT = {"format", "readonly", "secure", "stateless", "type"}
_PATHS = {"dev", "dir", "file", "path", "socket"}
"""Attributes of a source that name something of the host."""
_FREE_TEXT = {"cmdline", "description", "metadata", "title"}
"""Elements whose text names nothing to the hypervisor."""

_VIRT_TYPES = {"kvm", "qemu", "xen"}


@dataclass(frozen=True)
class Target:
    """What a host has for a machine. `anything` asks about the machine alone, not about a host."""

    folder: Path
    disks: Mapping[str, domain.DiskFile]
    nvram: bool = False
    """Whether the firmware's variables arrive too. Where libvirt chooses the firmware it also names
    their file, and no definition may."""
    variables: Path | None = None
    """Their file, where it is not in the machine's folder."""
    memory: bool = False
    """Whether its memory arrives, so that it must go on as it was."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """Local counterpart of a source's network, "bridge:NAME" or "network:NAME"; "*" is any."""
    boot_files: Mapping[str, Path] = field(default_factory=dict)
    """Kernels and initial file systems that machines may boot from, by name."""
    loaders: frozenset[str] = frozenset()
    """Firmware images of this host, as its libvirt lists them."""
    emulator: str = ""
    virt_types: tuple[str, ...] = ("qemu",)
    """Of `<domain type=...>`, the best first."""
    anything: bool = False


@dataclass(frozen=True)
class Adapted:
    """A definition for this host, and what is to be said about it; usable when nothing is fatal."""

    xml: str
    notes: tuple[Note, ...]


def adapted(xml: str, target: Target) -> Adapted:
    """The definition as this host may have it. Raises FailedPrecondition VM_DEFINITION_INVALID for
    one that cannot be read.
    """
    domain.parse(xml)
    root = domain.tree(xml if target.anything else domain.with_disks(xml, target.disks))
    found: list[Note] = [*_type(root, target)]
    root.attrib = {"type": root.get("type", "")}
    for element in list(root):
        keep = True
        if element.tag == "os":
            found += _os(element, target)
        elif element.tag == "devices":
            found += devices.adapt(element, _place(target))
        elif element.tag == "memoryBacking":
            found += _backing(element)
        elif element.tag in {"iothreads", "vcpu"}:
            found += _amount(element, target)
        elif element.tag == "on_crash" and (element.text or "").startswith("coredump-"):
            element.text = (element.text or "").removeprefix("coredump-")
            found.append(notes.dropped("core dumps", "they would fill its host"))
        elif element.tag == "sysinfo":
            keep = element.get("type", "smbios") == "smbios"
            found += [] if keep else [notes.dropped("sysinfo", "it may name files")]
        elif element.tag in _REFUSED:
            found.append(notes.unmovable(element.tag, _REFUSED[element.tag]))
        elif element.tag not in _KEPT:
            keep = False
            found += _left_out(element)
        if not keep:
            root.remove(element)
    found += _strange(root, target)
    return Adapted(domain.text(root), tuple(found))


def base_name(path: str) -> str:
    """The last part of a stranger's path; empty when it is none that could be a file's name."""
    name = PurePosixPath(path.strip()).name
    return "" if name in {"", ".", ".."} or "\0" in name else name


def _place(target: Target) -> devices.Place:
    return devices.Place(target.folder, target.networks, target.emulator, target.anything)


def _type(root: ET.Element, target: Target) -> Iterator[Note]:
    kind = root.get("type", "")
    if target.anything or kind in target.virt_types:
        return
    if kind not in _VIRT_TYPES or (kind == "xen") != ("xen" in target.virt_types):
        yield notes.incompatible(
            "hypervisor",
            f"the machine is one of {notes.shown(kind)!r}, this host runs"
            f" {' and '.join(target.virt_types)}",
            "choose a cloud with the same hypervisor",
        )
        return
    best = target.virt_types[0]
    root.set("type", best)
    yield notes.incompatible(
        "virtualization",
        f"the machine uses {kind}, this host runs it with {best}",
        "choose a host with the same acceleration" if target.memory else "it may be slower",
        fatal=target.memory,
    )


def _os(element: ET.Element, target: Target) -> Iterator[Note]:
    for child in list(element):
        if child.tag in _BOOT_FILES:
            yield from _boot_file(child, target)
        elif child.tag == "loader":
            yield from _loader(child, target)
        elif child.tag == "nvram":
            element.remove(child)
        elif child.tag == "smbios" and child.get("mode") == "host" and not target.anything:
            element.remove(child)
            yield notes.dropped("os/smbios", "it would tell the host's serial numbers")
        elif child.tag not in _OS_KEPT:
            element.remove(child)
            if child.tag != "acpi" or len(child):
                yield notes.dropped(f"os/{child.tag}")
    if target.nvram and element.get("firmware") != "efi":
        ET.SubElement(element, "nvram").text = str(target.variables or target.folder / VARIABLES)


def _boot_file(child: ET.Element, target: Target) -> Iterator[Note]:
    if target.anything:
        return
    name = base_name(child.text or "")
    path = target.boot_files.get(name)
    child.text = str(path or "")
    if path is None:
        yield notes.incompatible(
            child.tag,
            f"the machine boots the {child.tag} {notes.shown(name)!r}, which this host does not"
            " offer",
            "put it into the folder boot_files of the host, or let the machine boot from its disk",
        )


def _loader(child: ET.Element, target: Target) -> Iterator[Note]:
    path = (child.text or "").strip()
    child.attrib = {key: each for key, each in child.items() if key in _LOADER_KEPT}
    if path and not target.anything:
        child.set("readonly", "yes")  # it is every machine's
    if not target.anything and path and path not in target.loaders:
        yield notes.incompatible(
            "loader",
            f"this host has no firmware {notes.shown(path)}",
            "install the same firmware (ovmf) at the host, or choose another cloud",
        )
        child.text = ""


def _amount(element: ET.Element, target: Target) -> Iterator[Note]:
    """What is no more than the machine needs, and nothing about where on its host."""
    if element.tag == "vcpu":
        element.attrib = {key: each for key, each in element.items() if key == "current"}
    elif element.tag == "iothreads" and not target.anything:
        text = (element.text or "").strip()
        if not text.isdecimal() or int(text) > IOTHREADS_MAX:
            yield notes.unmovable("iothreads", f"more than {IOTHREADS_MAX} are refused")


def _backing(element: ET.Element) -> Iterator[Note]:
    source = element.find("source")
    if source is not None and source.get("type") == "file":
        yield notes.unmovable("memoryBacking", "its memory is a file of its host")
    for child in list(element):
        anonymous = child.tag == "source" and child.get("type") in {"memfd", "anonymous"}
        if child.tag not in {"access", "nosharepages", "discard"} and not anonymous:
            element.remove(child)
            yield notes.dropped(f"memoryBacking/{child.tag}")


def _left_out(element: ET.Element) -> Iterator[Note]:
    if element.tag.startswith("{"):
        name = element.tag.rpartition("}")[2]
        yield notes.unmovable(name, "it hands options past libvirt")
    elif element.tag in _SILENT:
        return
    elif element.tag in {"bootloader", "bootloader_args"}:
        yield notes.unmovable(element.tag, "it is a program of its host")
    else:
        why = "it is about its host" if element.tag in _DROPPED else "it is not known here"
        yield notes.dropped(element.tag, why)


def _strange(root: ET.Element, target: Target) -> Iterator[Note]:
    """Paths that nothing above has put there."""
    if target.anything:
        return
    own = {str(target.folder), target.emulator, *target.loaders, *devices.HARMLESS_PATHS}
    own |= {str(each) for each in target.boot_files.values()} | {str(target.variables)}
    own |= {str(each.path) for each in target.disks.values()}
    yield from _sources(root, own, target.folder)
    for element, value in _values(root):
        text = value.strip()
        inside = text.startswith(f"{target.folder}/") and ".." not in PurePosixPath(text).parts
        strange = text not in own and not inside
        if strange and "/" in text and text.startswith(("/", ".", "~")):
            yield notes.unmovable(element.tag, f"it names {notes.shown(text)} of its host")


def _sources(root: ET.Element, own: Set[str], folder: Path) -> Iterator[Note]:
    """A source may name what this host has put there, whatever its path begins with."""
    for element in root.iter("source"):
        for key in _PATHS & set(element.attrib):
            text = element.get(key, "")
            if text not in own and not text.startswith(f"{folder}/"):
                yield notes.unmovable("source", f"it names {notes.shown(text)} of its host")


def _values(element: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    if element.tag in _FREE_TEXT:
        return
    for value in (element.text or "", element.tail or "", *element.attrib.values()):
        yield element, value
    for child in element:
        yield from _values(child)
