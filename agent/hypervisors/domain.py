"""Libvirt domain XML: what a transfer has to know of it, and the little it may change. Pure.

Format: https://libvirt.org/formatdomain.html. A definition may come from a stranger: it is size
limited, may have no document type (so no entities), and never decides a path on this host.
"""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from watari import errors

DEFINITION_BYTES_MAX = 1024 * 1024
"""Bytes of one definition."""

NESTING_MAX = 64
"""Elements within elements; writing XML takes a frame of the stack for each."""

DISKS_MAX = 64
NAME_CHARACTERS_MAX = 255
METADATA_NAMESPACE = "https://watari.dev/ns/domain/1"
"""Namespace of `<watari:vm tenant="..."/>` in the domain's metadata."""

_CHAIN = {"backingStore", "mirror"}
"""Further files of a disk. Content travels flat, and a stranger names no files of this host."""

_SOURCE_KEPT = {"encryption"}
"""What is in a source and true of its content anywhere; slices and data files are not, nor is whose
the file is to be.
"""

_SINGLE = {
    "bootloader", "clock", "cpu", "currentMemory", "devices", "features", "iothreads", "maxMemory",
    "memory", "memoryBacking", "metadata", "name", "os", "uuid", "vcpu",
}  # fmt: skip
_SINGLE_IN_OS = {
    "bios", "bootmenu", "cmdline", "dtb", "firmware", "initrd", "kernel", "loader", "nvram",
    "smbios", "type",
}  # fmt: skip
_SINGLE_IN_DEVICE = {
    "address", "backend", "backingStore", "driver", "log", "mac", "mirror", "model", "protocol",
    "source", "target",
}  # fmt: skip

_UNITS = {
    "b": 1,
    "bytes": 1,
    "kb": 10**3,
    "k": 2**10,
    "kib": 2**10,
    "mb": 10**6,
    "m": 2**20,
    "mib": 2**20,
    "gb": 10**9,
    "g": 2**30,
    "gib": 2**30,
    "tb": 10**12,
    "t": 2**40,
    "tib": 2**40,
}


@dataclass(frozen=True)
class DomainDisk:
    """A disk as the definition names it."""

    disk_id: str
    source: str
    format: str


@dataclass(frozen=True)
class DiskFile:
    """Where a disk is on this host, and in which format."""

    path: Path
    format: str


@dataclass(frozen=True)
class Domain:
    """What a definition says."""

    vm_id: str
    name: str
    tenant: str
    vcpus: int
    memory_bytes: int
    disks: tuple[DomainDisk, ...]


def parse(xml: str) -> Domain:
    """Reads a definition. Raises FailedPrecondition VM_DEFINITION_INVALID, saying what is wrong."""
    root = _root(xml)
    metadata = root.find(f"metadata/{{{METADATA_NAMESPACE}}}vm")
    tenant = metadata.get("tenant", "") if metadata is not None else ""
    return Domain(
        vm_id=_uuid(_text(root, "uuid")),
        name=_name(_text(root, "name")),
        tenant=tenant or "default",
        vcpus=_vcpus(root),
        memory_bytes=_memory(root),
        disks=_disks(root),
    )


def with_disks(xml: str, files: Mapping[str, DiskFile]) -> str:
    """The definition with every disk's source replaced by `files[disk_id]`, and nothing else
    changed but what belongs to another source or format. Raises FailedPrecondition
    VM_DEFINITION_INVALID.
    """
    ET.register_namespace("watari", METADATA_NAMESPACE)
    root = _root(xml)
    for element in _disk_elements(root):
        file = files[_target(element)]
        element.set("type", "file")
        _drop(element, _CHAIN)
        _set_source(element, file.path)
        _set_format(element, file.format)
    return ET.tostring(root, encoding="unicode")


def tree(xml: str) -> ET.Element:
    """The definition as elements, within this module's limits; to be written again with `text`.
    Raises FailedPrecondition VM_DEFINITION_INVALID.
    """
    return _root(xml)


def text(root: ET.Element) -> str:
    """The definition of these elements."""
    ET.register_namespace("watari", METADATA_NAMESPACE)
    return ET.tostring(root, encoding="unicode")


def _set_source(disk: ET.Element, path: Path) -> None:
    source = disk.find("source")
    if source is None:
        source = ET.SubElement(disk, "source")
    source.attrib.clear()
    source.set("file", str(path))
    _drop(source, {child.tag for child in source} - _SOURCE_KEPT)


def _set_format(disk: ET.Element, disk_format: str) -> None:
    driver = disk.find("driver")
    if driver is None:  # a hypervisor must never guess a format from a guest's own bytes
        driver = ET.SubElement(disk, "driver")
    driver.set("type", disk_format)
    if disk_format != "qcow2":
        driver.attrib.pop("discard_no_unref", None)
        _drop(driver, {"metadata_cache"})


def _drop(parent: ET.Element, tags: Set[str]) -> None:
    for child in [child for child in parent if child.tag in tags]:
        parent.remove(child)


def _root(xml: str) -> ET.Element:
    if len(xml.encode()) > DEFINITION_BYTES_MAX:
        raise invalid(f"the definition is larger than {DEFINITION_BYTES_MAX} bytes")
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise invalid("the definition has a document type declaration, which libvirt never writes")
    try:
        # Without a document type expat knows the five standard entities only.
        root = ET.fromstring(xml)  # noqa: S314
    except ET.ParseError as error:
        raise invalid(f"the definition is no XML: {error}") from error
    if root.tag != "domain":
        raise invalid(f"the definition's root is <{root.tag}>, not <domain>")
    _check_nesting(root)
    _check_unmixed(root)
    _check_single(root)
    return root


def _check_unmixed(element: ET.Element) -> None:
    """No element but the metadata has text beside elements: libvirt reads all text within an
    element as one, this module what comes first, and a definition must mean the same to both.
    """
    for child in element:
        if child.tag != "metadata":
            _check_unmixed(child)
        if (child.tail or "").strip():
            raise invalid(f"there is text after <{child.tag}>")
    if len(element) and (element.text or "").strip():
        raise invalid(f"<{element.tag}> has both text and elements")


def _check_single(root: ET.Element) -> None:
    """Nothing stands twice that there can be one of: two readers might choose differently."""
    groups = [(root, _SINGLE), *((each, _SINGLE_IN_OS) for each in root.findall("os"))]
    groups += [(each, _SINGLE_IN_DEVICE) for each in root.findall("devices/*")]
    for parent, single in groups:
        tags = [child.tag for child in parent if child.tag in single]
        twice = next((tag for tag in tags if tags.count(tag) > 1), None)
        if twice is not None:
            raise invalid(f"<{twice}> stands twice in <{parent.tag}>")


def _check_nesting(root: ET.Element) -> None:
    level = list(root)
    for _ in range(NESTING_MAX):
        level = [child for element in level for child in element]
        if not level:
            return
    raise invalid(f"elements are nested more than {NESTING_MAX} deep")


def _disks(root: ET.Element) -> tuple[DomainDisk, ...]:
    disks = []
    for element in _disk_elements(root):
        source = element.find("source")
        path = source.get("file") or source.get("dev") if source is not None else None
        if not path:
            raise invalid(f"disk {_target(element)} is backed by no file or device")
        driver = element.find("driver")
        kind = driver.get("type", "raw") if driver is not None else "raw"
        disks.append(DomainDisk(_target(element), path, kind))
    names = [disk.disk_id for disk in disks]
    if len(set(names)) != len(names):
        raise invalid("two disks have the same target")
    return tuple(sorted(disks, key=lambda disk: disk.disk_id))


def _disk_elements(root: ET.Element) -> list[ET.Element]:
    elements = [
        element
        for element in root.findall("devices/disk")
        if element.get("device", "disk") in {"disk", "lun"}
    ]
    if len(elements) > DISKS_MAX:
        raise invalid(f"{len(elements)} disks, at most {DISKS_MAX} can be moved")
    return elements


def _target(element: ET.Element) -> str:
    target = element.find("target")
    name = target.get("dev", "") if target is not None else ""
    if not name.isalnum() or not name.isascii() or len(name) > 32:
        raise invalid(f"a disk has the target {name!r}; it takes 1 to 32 letters and digits")
    return name


def _vcpus(root: ET.Element) -> int:
    text = _text(root, "vcpu", "1")
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise invalid(f"<vcpu> is {text!r}")
    return int(text)


def _memory(root: ET.Element) -> int:
    """All that it can come to: cells take the place of what is said, and modules come on top."""
    said = _bytes(root.find("memory"))
    cells = sum(
        _bytes_of(each.get("memory", "0"), each.get("unit", "KiB"), "cell")
        for each in root.findall("cpu/numa/cell")
    )
    modules = sum(_bytes(each) for each in root.findall("devices/memory/target/size"))
    return max(said, cells + modules)


def _bytes(element: ET.Element | None) -> int:
    if element is None:
        raise invalid("<memory> is missing")
    found = _bytes_of((element.text or "").strip(), element.get("unit", "KiB"), element.tag)
    if not found:
        raise invalid(f"<{element.tag}> is {element.text!r}")
    return found


def _bytes_of(text: str, unit_name: str, tag: str) -> int:
    unit = _UNITS.get(unit_name.lower())
    if not text.isdecimal() or unit is None or not 0 <= int(text) * unit < 1 << 60:
        raise invalid(f"<{tag}> is {text[:64]!r}")
    return int(text) * unit


def _name(text: str) -> str:
    if not 0 < len(text) <= NAME_CHARACTERS_MAX or "/" in text or not text.isprintable():
        raise invalid(f"<name> is {text[:NAME_CHARACTERS_MAX]!r}")
    return text


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid(f"<uuid> is {text!r}") from None


def _text(root: ET.Element, tag: str, default: str = "") -> str:
    return (root.findtext(tag) or default).strip()


def invalid(what: str) -> errors.FailedPrecondition:
    """The error of a definition that cannot be used."""
    return errors.FailedPrecondition(
        "VM_DEFINITION_INVALID", what, hint="correct the machine's domain XML"
    )
