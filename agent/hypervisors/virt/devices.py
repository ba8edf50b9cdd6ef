"""Devices of a definition that comes from elsewhere; the duties are those of `policy`. Pure."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.hypervisors.virt import notes
from agent.hypervisors.virt.notes import Note

HARMLESS_PATHS = frozenset({"/dev/urandom"})
CONSOLE = "console.log"
"""File of the first serial port in a machine's folder, where it was one before."""

_RANDOM = "/dev/urandom"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Place:
    """What `policy.Target` says of these."""

    folder: Path
    networks: Mapping[str, str]
    emulator: str
    anything: bool


_KEPT = {"controller", "hub", "iommu", "memballoon", "panic", "sound"}
_CHARACTERS = {"serial", "parallel", "console", "channel"}
_DISK_KEPT = {
    "address", "alias", "blockio", "boot", "driver", "geometry", "iotune", "product", "readonly",
    "serial", "source", "target", "vendor", "wwn",
}  # fmt: skip
_DISK_DRIVER = {
    "ats", "cache", "copy_on_read", "detect_zeroes", "discard", "discard_no_unref", "error_policy",
    "event_idx", "io", "ioeventfd", "iommu", "iothread", "name", "packed", "page_per_vq", "queues",
    "queue_size", "rerror_policy", "type",
}  # fmt: skip
_INTERFACE_KEPT = {"address", "alias", "bandwidth", "boot", "link", "mac", "model", "mtu", "port"}
_INTERFACE_SILENT = {"target", "source", "driver", "guest", "rom", "backend"}
_CHARACTER_KEPT = {"address", "alias", "protocol", "target"}
_CHARACTER_TYPES = {"null", "pty", "spicevmc", "spiceport", "qemu-vdagent", "vc"}
_REFUSED = {
    "hostdev": "it is a device of its host",
    "filesystem": "it is a folder of its host",
    "lease": "it is a lock of its host's lock manager",
    "shmem": "it is shared memory of its host",
    "redirfilter": "",
}


def adapt(element: ET.Element, place: Place) -> Iterator[Note]:
    """Changes `<devices>` in place."""
    serial = 0
    for device in list(element):
        tag = device.tag
        rule = _RULES.get(tag)
        if tag == "emulator":
            element.remove(device)
        elif tag in _CHARACTERS:
            yield from _character(device, place, serial)
            serial += tag == "serial"
        elif _REFUSED.get(tag):
            element.remove(device)
            yield notes.unmovable(_named(device), _REFUSED[tag])
        elif rule is not None:
            keep = True
            for note in rule(device, place):
                if note is None:
                    keep = False
                else:
                    yield note
            if not keep:
                element.remove(device)
        elif tag not in _KEPT:
            element.remove(device)
            yield notes.dropped(tag, "it is not known here")
        else:
            _without(device, {"virtualport"})
    if place.emulator:
        ET.SubElement(element, "emulator").text = place.emulator


def _disk(device: ET.Element, place: Place) -> Iterator[Note | None]:
    name = _named(device)
    source = device.find("source")
    if device.get("device", "disk") in {"cdrom", "floppy"}:
        if source is not None:
            _without(device, {"source"})
            yield notes.dropped(f"the medium in {name}", "it is a file of its host")
        device.set("type", "file")
    elif place.anything and device.get("type") not in {"file", "block"}:
        yield notes.unmovable(name, f"its source is of the kind {device.get('type')!r}")
    for tag, why in {
        "encryption": "its key is a secret of its host",
        "transient": "what it holds is thrown away when the machine stops",
        "shareable": "several machines use it",
        "reservations": "it depends on its host's storage",
    }.items():
        if device.find(f".//{tag}") is not None:
            yield notes.unmovable(name, why)
    if device.get("device") == "lun":
        device.set("device", "disk")
        yield notes.dropped(f"SCSI passthrough of {name}", "it becomes a plain disk")
    for attribute in set(device.attrib) - {"type", "device", "model"}:
        del device.attrib[attribute]
    yield from _children(device, _DISK_KEPT, {"backingStore", "mirror", "auth", "backenddomain"})
    driver = device.find("driver")
    if driver is not None:
        driver.attrib = {key: each for key, each in driver.items() if key in _DISK_DRIVER}


def _interface(device: ET.Element, place: Place) -> Iterator[Note | None]:
    kind = device.get("type", "")
    source = device.find("source")
    names = dict(source.items()) if source is not None else {}
    name = "user" if kind == "user" else names.get("network") or names.get("bridge")
    name = name or names.get("dev") or ""
    if kind not in {"network", "bridge", "user", "direct"}:
        yield notes.unmovable(f"interface of the kind {kind}", "it depends on its host")
        return
    local = place.networks.get(name) or place.networks.get("*", "")
    if place.anything:
        local = "network:any"
    elif not local:
        yield notes.network(name)
    yield from _children(device, _INTERFACE_KEPT, _INTERFACE_SILENT)
    how, _, target = local.partition(":")
    device.attrib = {"type": how or "network"}
    if how != "user":
        ET.SubElement(device, "source", {how or "network": target})


def _character(device: ET.Element, place: Place, serial: int) -> Iterator[Note]:
    kind = device.get("type", "pty")
    target = device.find("target")
    agent = device.tag == "channel" and target is not None and target.get("type") == "virtio"
    kept = kind in _CHARACTER_TYPES or (kind == "unix" and agent)
    if device.find("log") is not None:
        yield notes.dropped(f"the log of a {device.tag}", "it is a file of its host")
    _without(device, {child.tag for child in device} - _CHARACTER_KEPT)
    device.attrib = {"type": kind}
    if kind == "file":
        name = CONSOLE if serial == 0 or device.tag == "console" else f"serial{serial}.log"
        path = str(place.folder / name)
        device.insert(0, ET.Element("source", {"path": path, "append": "on"}))
    elif kind == "unix" and agent and target is not None:
        if not _PLAIN_NAME.fullmatch(target.get("name", "channel")):
            yield notes.unmovable("channel", "its name could be a path")
        device.insert(0, ET.Element("source", {"mode": "bind"}))
    elif not kept:
        device.set("type", "pty" if device.tag != "channel" else "null")
        if device.tag == "channel":
            yield notes.dropped(f"a channel of the kind {kind}", "it led to its host")
        else:
            yield notes.dropped(f"a {device.tag} of the kind {kind}", "it becomes a terminal")


def _graphics(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    kind = device.get("type", "")
    if kind not in {"vnc", "spice"}:
        yield notes.dropped(f"graphics of the kind {kind}", "they are of its host")
        yield None
        return
    if device.get("passwd"):
        yield notes.dropped("the password of the display")
    device.attrib = {"type": kind, "autoport": "yes", "listen": "127.0.0.1"}
    _without(device, {child.tag for child in device} - {"image", "streaming", "mouse", "clipboard"})


def _video(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    for each in device.iter("acceleration"):
        each.attrib.pop("rendernode", None)
    _without(device, {"driver"})  # one of its kinds is a program of the host
    yield from ()


def _watchdog(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    if device.get("action") == "dump":
        device.set("action", "reset")
        yield notes.dropped("core dumps", "they would fill its host")


def _audio(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    device.attrib = {"id": device.get("id", "1"), "type": "none"}
    _without(device, {child.tag for child in device})
    yield from ()


def _input(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    if device.get("type") not in {"mouse", "keyboard", "tablet"}:
        yield notes.unmovable("input", "it is a device of its host")
    _without(device, {"source"})


def _random(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    for backend in device.findall("backend"):
        if backend.get("model") == "builtin":
            continue
        if backend.get("model") != "random":
            yield notes.dropped("a source of randomness", "the host's own takes its place")
        backend.attrib = {"model": "random"}
        _without(backend, {child.tag for child in backend})
        backend.text = _RANDOM


def _tpm(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    backend = device.find("backend")
    if backend is None or backend.get("type") != "emulator":
        yield notes.unmovable("tpm", "it is a device or a service of its host")
        return
    if backend.find("encryption") is not None:
        yield notes.unmovable("tpm", "the key of its state is a secret of its host")
    _without(backend, {child.tag for child in backend} - {"active_pcr_banks"})


def _memory(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    if device.get("model") != "dimm":
        yield notes.unmovable(f"memory of the kind {device.get('model')}", "it is of its host")
    _without(device, {"source"})


def _vsock(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    for each in device.findall("cid"):
        each.attrib = {"auto": "yes"}
        yield notes.dropped("the number of the vsock", "it gets another one")


def _redirected(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    if device.get("type") != "spicevmc":
        yield notes.dropped("redirdev", "it leads to its host")
        yield None
    _without(device, {"source"})


def _crypto(device: ET.Element, place: Place) -> Iterator[Note | None]:  # noqa: ARG001
    backend = device.find("backend")
    if backend is None or backend.get("model") != "builtin":
        yield notes.dropped("crypto", "it is of its host")
        yield None


_RULES: Mapping[str, Callable[[ET.Element, Place], Iterator[Note | None]]] = {
    "audio": _audio,
    "crypto": _crypto,
    "disk": _disk,
    "graphics": _graphics,
    "input": _input,
    "interface": _interface,
    "memory": _memory,
    "redirdev": _redirected,
    "rng": _random,
    "tpm": _tpm,
    "video": _video,
    "vsock": _vsock,
    "watchdog": _watchdog,
}
"""What to do with a device: notes, and None where it is left out."""


def _children(device: ET.Element, kept: set[str], silent: set[str]) -> Iterator[Note]:
    for child in list(device):
        if child.tag in kept:
            continue
        device.remove(child)
        if child.tag not in silent:
            yield notes.dropped(f"{device.tag}/{child.tag}")


def _without(device: ET.Element, tags: set[str]) -> None:
    for child in [child for child in device if child.tag in tags]:
        device.remove(child)


def _named(device: ET.Element) -> str:
    target = device.find("target")
    name = target.get("dev", "") if target is not None else ""
    kind = device.get("type", "") if device.tag == "hostdev" else ""
    return " ".join(each for each in (device.tag, kind, name) if each)
