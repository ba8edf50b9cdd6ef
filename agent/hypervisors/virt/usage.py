"""Which files of this host its machines use: by their definitions, and by what runs now.

A machine that cannot be moved or read uses its files all the same, so definitions are taken as
libvirt has them, and every path in them counts. What lies behind an image is in the image.
"""

import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from agent.disks.nbd import tools
from agent.hypervisors.virt.machines import Machines, live_xml, shown_xml
from watari import errors

CHAIN_SECONDS_MAX = 60.0
"""How long it may take to read what lies behind one image."""

_RAW = "raw"


@dataclass(frozen=True)
class Image:
    """A disk's file that may have others behind it."""

    path: Path
    format: str


def in_use(found: Machines) -> set[Path]:
    """All of them, links followed. Raises FailedPrecondition VM_BUSY while it is not known what a
    machine uses, Unavailable HYPERVISOR_UNAVAILABLE.
    """
    paths: set[Path] = set()
    for vm, xml, volumes in _definitions(found):
        root = ET.fromstring(xml)  # noqa: S314  libvirt's own
        paths |= {_resolved(each) for each in [*named(root), *volumes]}
        for image in images(root):
            if image.path.exists():
                paths |= {_resolved(each) for each in _behind(vm, image)}
    return paths


def named(root: ET.Element) -> set[Path]:
    """Every path in a definition."""
    values = (value for each in root.iter() for value in (each.text or "", *each.attrib.values()))
    return {Path(value.strip()) for value in values if value.strip().startswith("/")}


def images(root: ET.Element) -> list[Image]:
    """The disks that may be a chain of files; the hypervisor takes what has no format for raw."""
    found = []
    for disk in root.iterfind("devices/disk"):
        driver, source = disk.find("driver"), disk.find("source")
        kind = driver.get("type", _RAW) if driver is not None else _RAW
        path = source.get("file") or source.get("dev") if source is not None else None
        if path and kind != _RAW:
            found.append(Image(Path(path), kind))
    return found


def chain(entries: Iterable[Mapping[str, Any]]) -> set[Path]:
    """The files that `qemu-img info --backing-chain` tells: images, what is behind them, files of
    data and extents. Raises ValueError for what is not understood.
    """
    found: set[Path] = set()
    for entry in entries:
        own = _local(str(entry["filename"]))
        folder = min(own).parent if own else Path("/")
        for name in _names(entry):
            found |= {folder / each for each in _local(name)}
    return found


def _local(name: str) -> set[Path]:
    """The files that QEMU means by a name; none where it is not on this host."""
    if name.startswith("json:"):
        return {Path(each) for each in _names(json.loads(name.removeprefix("json:")))}
    scheme, colon, rest = name.partition(":")
    if scheme == "file" and colon:
        return {Path(rest)}
    return set() if colon and "/" not in scheme else {Path(name)}


def _names(told: object) -> Iterator[str]:
    """Whatever is called a file's name in it."""
    if isinstance(told, list):
        for each in told:
            yield from _names(each)
    elif isinstance(told, Mapping):
        for key, value in told.items():
            if isinstance(value, str):
                if key.endswith(("filename", "data-file")):
                    yield value
            else:
                yield from _names(value)


def _definitions(found: Machines) -> Iterator[tuple[str, str, list[Path]]]:
    """Of every machine its name, its definition, and that which it runs by; and what of them only
    libvirt can tell the path of.
    """
    for hold in found.folder.holds().values():  # as in `Machines.guests`: holds first
        yield hold.name, hold.shown, []
    with found.connection.asked("what the machines use cannot be listed") as opened:
        for each in opened.listAllDomains():
            try:
                texts = [shown_xml(each), *([live_xml(each)] if each.isActive() else [])]
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    continue  # it went away meanwhile
                raise
            for text in texts:
                yield each.name(), text, _volumes(opened, text)


def _volumes(opened: Any, xml: str) -> list[Path]:
    """Paths of what a definition names by pool and volume."""
    found = []
    for source in ET.fromstring(xml).iterfind("devices/disk//source[@pool]"):  # noqa: S314
        pool = opened.storagePoolLookupByName(source.get("pool"))
        found.append(Path(pool.storageVolLookupByName(source.get("volume")).path()))
    return found


def _behind(vm: str, image: Image) -> set[Path]:
    command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f", image.format]
    try:
        done = subprocess.run(
            [*command, str(image.path)],
            capture_output=True,
            timeout=CHAIN_SECONDS_MAX,
            check=True,
            env=tools.environment(),
        )
        return chain(json.loads(done.stdout))
    except (subprocess.SubprocessError, OSError, ValueError, KeyError, TypeError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        raise errors.FailedPrecondition(
            "VM_BUSY",
            f"what lies behind {image.path.name} of machine {vm} is not known, so nothing is"
            f" purged: {tools.tidy(said, image.path)}",
            hint="see `qemu-img info --backing-chain` of that image, and repair or detach it",
            vm=vm,
        ) from error


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return path
