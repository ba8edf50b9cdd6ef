"""Whether this host can run a machine as it was: processor, board, firmware, memory, room."""

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from agent.hypervisors import Mode, domain
from agent.hypervisors.virt import notes
from agent.hypervisors.virt.host import Capabilities, Host
from agent.hypervisors.virt.notes import Note
from agent.hypervisors.virt.records import Folder
from watari.v1 import common_pb2

_HOST_MODELS = {"host-passthrough", "host-model", "maximum"}


def check(
    xml: str, disks: Sequence[common_pb2.DiskSpec], mode: Mode, host: Host, folder: Folder
) -> Iterator[Note]:
    """Beyond what `policy` says of the definition itself."""
    root = domain.tree(xml)
    known = host.capabilities(root.get("type", ""))
    suspended = mode == common_pb2.MIGRATION_MODE_SUSPEND
    yield from board(root, known)
    yield from processor(root, known, suspended=suspended)
    if suspended:
        yield from _compared(root, known, host)
    free_memory = host.free_memory_bytes()
    free_disk = shutil.disk_usage(folder.path).free
    yield from room(domain.parse(xml).memory_bytes, disks, free_memory, free_disk)


def board(root: ET.Element, known: Capabilities) -> Iterator[Note]:
    """Machine type, architecture, firmware and TPM."""
    kind = root.find("os/type")
    machine = kind.get("machine", "") if kind is not None else ""
    arch = kind.get("arch", known.arch) if kind is not None else known.arch
    if arch != known.arch:
        yield notes.incompatible(
            "arch",
            f"the machine is {notes.shown(arch)}, the host {known.arch}",
            "choose a host of the same architecture",
        )
    elif machine and machine not in known.machine_types:
        yield notes.incompatible(
            "machine",
            f"this host's hypervisor has no board {notes.shown(machine)!r}",
            "upgrade QEMU at the destination, or give the machine an older machine type",
        )
    loader = root.find("os/loader")
    if loader is not None and loader.get("secure") == "yes" and not known.secure_boot:
        yield notes.incompatible(
            "secure boot",
            "this host has no firmware with secure boot",
            "install ovmf with secure boot at the host, or choose another cloud",
        )
    os = root.find("os")
    if os is not None and os.get("firmware") == "efi" and not known.loaders:
        yield notes.incompatible(
            "firmware", "this host has no UEFI firmware", "install the package ovmf at the host"
        )
    if root.find("devices/tpm") is not None and not known.tpm:
        yield notes.incompatible(
            "tpm", "this host cannot emulate a TPM", "install the package swtpm at the host"
        )


def processor(root: ET.Element, known: Capabilities, *, suspended: bool) -> Iterator[Note]:
    """The processor's model by name; an emulated one has what it has, whatever the host is."""
    cpu = root.find("cpu")
    if cpu is None:
        return
    mode = cpu.get("mode", "custom")
    model = (cpu.findtext("model") or "").strip()
    if mode in _HOST_MODELS:
        yield notes.incompatible(
            "cpu",
            f"the machine's processor is its host's ({notes.shown(mode)}), another one here",
            "give it a named model that both hosts have",
            fatal=suspended and mode == "host-passthrough",
        )
    elif model and model not in known.cpu_models:
        yield notes.incompatible(
            "cpu",
            f"this host cannot give it the processor {notes.shown(model)!r} as it is",
            "give the machine a model that both hosts have: virsh hypervisor-cpu-baseline",
            fatal=known.virt_type != "qemu",
        )


def room(
    memory_bytes: int,
    disks: Sequence[common_pb2.DiskSpec],
    free_memory_bytes: int,
    free_disk_bytes: int,
) -> Iterator[Note]:
    """What it needs to run and to lie here. Disks are sparse: what is allocated counts."""
    if memory_bytes > free_memory_bytes:
        yield notes.incompatible(
            "memory",
            f"the machine needs {memory_bytes} bytes of memory, {free_memory_bytes} are free",
            "stop machines at the host, or choose another one",
        )
    needed = sum(min(each.allocated_bytes, each.size_bytes) for each in disks)
    if needed > free_disk_bytes:
        yield notes.incompatible(
            "disk",
            f"its disks and saved state need {needed} bytes, {free_disk_bytes} are free",
            "free space at the host, or choose another one",
        )


def _compared(root: ET.Element, known: Capabilities, host: Host) -> Iterator[Note]:
    """Features of a named model, by libvirt's comparison; for accelerated machines only."""
    cpu = root.find("cpu")
    if cpu is None or cpu.get("mode", "custom") != "custom" or known.virt_type == "qemu":
        return
    text = ET.tostring(cpu, encoding="unicode")
    if not host.runs_processor(known.virt_type, text):
        yield notes.incompatible(
            "cpu features",
            "the saved memory needs processor features that this host has not",
            "migrate it in mode cold, or choose a host with the same processor",
        )
