"""Guests: how they are defined, their disks, and what a test does with them.

Its console is a file in /var/log/libvirt, which every host has for itself: a definition that moves
writes to another file there, and what it said on each host can be told apart.
"""

import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agent.hypervisors.domain import METADATA_NAMESPACE
from tests.lab.console import Console
from tests.lab.hosts import POLL_SECONDS, Host
from tests.lab.image import Image

MIB = 1 << 20
SHUTDOWN_SECONDS_MAX = 30.0
COMMAND_SECONDS_MAX = 60.0

RAW_AND_QCOW2: Mapping[str, str] = {"vda": "raw", "vdb": "qcow2"}


@dataclass(frozen=True)
class Spec:
    """What a test chooses."""

    name: str
    disks: Mapping[str, str] = field(default_factory=lambda: RAW_AND_QCOW2)
    """Format of each disk, by target."""
    disk_bytes: int = 256 * MIB
    memory_mib: int = 128
    machine: str = "pc"
    tenant: str = "default"
    emulator: Path | None = None
    """`tests.lab.emulator`, for live migration."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Of `guest_init.c`: tick_ms, dirty_mbps, dirty_mb, dirty_disk."""
    vm_id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Guest:
    """A guest as one host knows it."""

    def __init__(self, host: Host, image: Image, spec: Spec, folder: Path | None = None) -> None:
        self.host, self.image, self.spec = host, image, spec
        self.folder = folder or host.work / spec.name
        """Where its disks are made."""

    @property
    def console(self) -> Console:
        """What it has said on this host."""
        return Console(self.host.log / f"{self.spec.name}.console")

    def on(self, host: Host) -> Self:
        """The same guest as another host knows it."""
        return type(self)(host, self.image, self.spec, self.folder)

    def disk(self, target: str) -> Path:
        """The file of a disk."""
        return self.folder / f"{target}.{self.spec.disks[target]}"

    def create(self) -> Self:
        """Makes its disks, and defines it."""
        self.folder.mkdir(parents=True)
        for target, kind in self.spec.disks.items():
            make_disk(self.disk(target), kind, self.spec.disk_bytes)
        self.define()
        return self

    def define(self) -> None:
        """Makes it known to libvirt."""
        definition = self.host.work / f"{self.spec.name}.xml"
        definition.write_text(definition_xml(self))
        self.host.virsh("define", definition)

    def start(self) -> None:
        """Returns when QEMU runs; `console.wait_ack()` when the guest does."""
        self.host.virsh("start", self.spec.name)

    def boot(self) -> float:
        """Starts it, and returns the seconds until it has counted once."""
        began = time.monotonic()
        known = self.console.last_n
        self.start()
        self.console.wait_ack(more_than=known)
        return time.monotonic() - began

    def shutdown(self, seconds: float = SHUTDOWN_SECONDS_MAX) -> None:
        """Presses the power button and waits. Raises TimeoutError."""
        self.host.virsh("shutdown", self.spec.name, "--mode", "acpi")
        self.wait_state("shut off", seconds)

    def destroy(self) -> None:
        """Pulls the plug."""
        self.host.virsh("destroy", self.spec.name)

    def save(self, path: Path) -> None:
        """Memory into a file; the guest has stopped then."""
        self.host.virsh("save", self.spec.name, path)

    def restore(self, path: Path) -> None:
        """Goes on from a saved memory, with the disks as they were then."""
        self.host.virsh("restore", path)

    def state(self) -> str:
        """As virsh says it: "running", "paused", "shut off"; "" when the host does not know it."""
        done = self.host.run(["virsh", "--quiet", "domstate", self.spec.name], check=False)
        return done.stdout.strip()

    def wait_state(self, wanted: str, seconds: float) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (state := self.state()) != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.spec.name} is {state!r} after {seconds} s")
            time.sleep(POLL_SECONDS)


def remove_all(host: Host) -> None:
    """Destroys and forgets every guest of a host; their files stay."""
    for name in host.virsh("list", "--all", "--name").split():
        host.run(["virsh", "destroy", name], check=False)
        flags = ("--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
        host.run(["virsh", "undefine", name, *flags], check=False)


def make_disk(path: Path, kind: str, size_bytes: int) -> None:
    """An empty ext4 in a sparse file of format raw or qcow2."""
    raw = path if kind == "raw" else path.with_suffix(".unconverted")
    with raw.open("xb") as file:
        file.truncate(size_bytes)
    options = ("-E", "lazy_itable_init=0,lazy_journal_init=0")  # an idle guest is idle
    _run("mke2fs", "-q", "-F", "-t", "ext4", *options, raw)
    if raw != path:
        _run("qemu-img", "convert", "-f", "raw", "-O", kind, raw, path)
        raw.unlink()


def read_file(disk: Path, kind: str, name: str) -> str:
    """A file of a disk, such as `boots`, as a mount would find it: from a copy whose journal was
    replayed. Nobody may be writing to the disk.
    """
    with tempfile.TemporaryDirectory(dir=disk.parent) as folder:
        copy = Path(folder) / "copy"
        _run("qemu-img", "convert", "-f", kind, "-O", "raw", disk, copy)
        _run("e2fsck", "-p", copy, accepted=(0, 1))
        return _run("debugfs", "-R", f"cat /{name}", copy)


def definition_xml(guest: Guest) -> str:
    """The domain, for emulation: any machine has that."""
    spec = guest.spec
    ET.register_namespace("watari", METADATA_NAMESPACE)
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = spec.name
    ET.SubElement(root, "uuid").text = spec.vm_id
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{METADATA_NAMESPACE}}}vm", tenant=spec.tenant)
    ET.SubElement(root, "memory", unit="MiB").text = str(spec.memory_mib)
    ET.SubElement(root, "vcpu").text = "1"
    system = ET.SubElement(root, "os")
    ET.SubElement(system, "type", arch="x86_64", machine=spec.machine).text = "hvm"
    ET.SubElement(system, "kernel").text = str(guest.image.kernel)
    ET.SubElement(system, "initrd").text = str(guest.image.initrd)
    ET.SubElement(system, "cmdline").text = _command_line(spec)
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        ET.SubElement(root, f"on_{event}").text = action
    devices = ET.SubElement(root, "devices")
    if spec.emulator is not None:
        ET.SubElement(devices, "emulator").text = str(spec.emulator)
    for target, kind in spec.disks.items():
        disk = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(disk, "driver", name="qemu", type=kind, cache="none")
        ET.SubElement(disk, "source", file=str(guest.disk(target)))
        ET.SubElement(disk, "target", dev=target, bus="virtio")
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=f"/var/log/libvirt/{spec.name}.console", append="on")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    return ET.tostring(root, encoding="unicode")


def _command_line(spec: Spec) -> str:
    known = {"disks": ",".join(spec.disks), **spec.parameters}
    return " ".join(["console=ttyS0", "quiet", *(f"{key}={value}" for key, value in known.items())])


def _run(*command: object, accepted: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    if done.returncode not in accepted:
        raise RuntimeError(f"{command[0]}: {done.returncode}: {done.stderr.strip()}")
    return done.stdout
