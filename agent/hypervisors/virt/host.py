"""What this host's libvirt says it can do, and what the operator permits on top of it."""

import pwd
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from agent.disks import DiskFormat
from agent.hypervisors import domain
from agent.hypervisors.virt import policy
from agent.hypervisors.virt.connection import Connection
from watari import errors

KNOWN_SECONDS_MAX = 60.0
"""What a host can do is asked again after this long: firmware and QEMU are upgraded in place."""

SWTPM_USER = "tss"
"""Whom libvirt runs swtpm as, unless its qemu.conf says otherwise."""


@dataclass(frozen=True)
class Options:
    """Of the agent's settings what is this driver's; `agent.settings` explains each."""

    retention_seconds: int
    disk_format: DiskFormat = "raw"
    networks: Mapping[str, str] = field(default_factory=dict)
    boot_files: Path | None = None
    emulator: str = ""
    swtpm_folder: Path = Path("/var/lib/libvirt/swtpm")
    nvram_folder: Path = Path("/var/lib/libvirt/qemu/nvram")
    announce: bool = True


@dataclass(frozen=True)
class Capabilities:
    """What libvirt told."""

    virt_type: str
    """For which `<domain type=...>` this is."""
    virt_types: tuple[str, ...]
    """All that there are, best first: kvm, qemu; or xen."""
    arch: str
    emulator: str
    loaders: frozenset[str]
    machine_types: frozenset[str]
    """Names and aliases."""
    secure_boot: bool
    backups: bool
    """Whether disks in use can be read as they were at one moment."""
    tpm: bool
    cpu_models: frozenset[str]
    """Models that can be run as they are."""
    owner: tuple[int, int] | None
    """User and group ids of QEMU's processes, where libvirt tells them."""
    vcpus: int
    memory_bytes: int


class Host:
    """Asks, and remembers for a while."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self.options = options
        self._connection = connection
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Capabilities]] = {}

    def capabilities(self, virt_type: str = "") -> Capabilities:
        """What the host can do for machines of a `<domain type=...>`; of the best one that it has
        without it, or where it has not that one. Raises Unavailable HYPERVISOR_UNAVAILABLE.
        """
        with self._lock:
            asked_at, known = self._known.get(virt_type, (0.0, None))
            if known is None or time.monotonic() - asked_at > KNOWN_SECONDS_MAX:
                known = self._ask(virt_type)
                self._known[virt_type] = time.monotonic(), known
            return known

    def version(self) -> str:
        """The hypervisor's product and version, which libvirt tells as one number."""
        with self._connection.asked("the hypervisor's version is not known") as opened:
            product, number = str(opened.getType()), int(opened.getVersion())
        return f"{product} {number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"

    def free_memory_bytes(self) -> int:
        """What a machine could take now."""
        with self._connection.asked("the free memory is not known") as opened:
            try:
                found = opened.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
                return sum(int(found.get(key, 0)) for key in ("free", "buffers", "cached")) * 1024
            except libvirt.libvirtError:  # Xen tells one number
                return int(opened.getFreeMemory())

    def runs_processor(self, virt_type: str, cpu_xml: str) -> bool:
        """Whether the hypervisor gives machines all features of a `<cpu>`."""
        known = self.capabilities(virt_type)
        with self._connection.asked("the processor cannot be compared") as opened:
            found = opened.compareHypervisorCPU(
                self.options.emulator or None, known.arch, None, known.virt_type, cpu_xml, 0
            )
        return found in {libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET}

    def target(
        self,
        folder: Path,
        disks: Mapping[str, domain.DiskFile],
        *,
        nvram: bool,
        memory: bool,
    ) -> policy.Target:
        """This host, for a machine in `folder`."""
        known = self.capabilities()
        return policy.Target(
            folder=folder,
            disks=disks,
            nvram=nvram,
            memory=memory,
            networks=self.options.networks,
            boot_files=self._boot_files(),
            loaders=known.loaders,
            emulator=self.options.emulator,
            virt_types=known.virt_types,
        )

    def swtpm_folder(self, vm_id: str) -> Path:
        """Where swtpm keeps the state of a machine's TPM."""
        return self.options.swtpm_folder / vm_id

    def swtpm_owner(self) -> tuple[int, int] | None:
        """User and group ids of swtpm's processes."""
        try:
            found = pwd.getpwnam(SWTPM_USER)
        except KeyError:
            return None
        return found.pw_uid, found.pw_gid

    def _boot_files(self) -> Mapping[str, Path]:
        folder = self.options.boot_files
        if folder is None or not folder.is_dir():
            return {}
        return {each.name: each.absolute() for each in folder.iterdir() if each.is_file()}

    def _ask(self, virt_type: str) -> Capabilities:
        with self._connection.asked("the host's capabilities are not known") as opened:
            general = ET.fromstring(opened.getCapabilities())  # noqa: S314  libvirt's own
            xen = opened.getType() == "Xen"
            arch = general.findtext("host/cpu/arch") or "x86_64"
            types = _virt_types(general, arch, xen=xen)
            kind = virt_type if virt_type in types else types[0]
            emulator = self.options.emulator or None
            text = opened.getDomainCapabilities(emulator, arch, None, kind, 0)
            boards = [text]
            if arch == "x86_64" and not xen:  # the default board knows less firmware
                boards.append(opened.getDomainCapabilities(emulator, arch, "q35", kind, 0))
            info = opened.getInfo()
        found = ET.fromstring(text)  # noqa: S314
        systems = [ET.fromstring(each) for each in boards]  # noqa: S314
        return Capabilities(
            virt_type=kind,
            virt_types=types,
            arch=arch,
            emulator=found.findtext("path") or "",
            loaders=frozenset(
                each.text or "" for board in systems for each in board.iterfind("os/loader/value")
            ),
            machine_types=_machine_types(general, arch),
            secure_boot=any(
                "yes" in _values(board, "os/loader/enum[@name='secure']") for board in systems
            ),
            backups=not xen and _supported(found, "features/backup"),
            tpm="emulator" in _values(found, "devices/tpm/enum[@name='backendModel']"),
            cpu_models=_cpu_models(found),
            owner=_owner(general),
            vcpus=int(info[2]),
            memory_bytes=int(info[1]) * 1024 * 1024,
        )


def _virt_types(general: ET.Element, arch: str, *, xen: bool) -> tuple[str, ...]:
    if xen:
        return ("xen",)
    told = {each.get("type", "") for each in general.iterfind(f"guest/arch[@name='{arch}']/domain")}
    known = tuple(each for each in ("kvm", "qemu") if each in told)
    if not known:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"libvirt of this host runs no machines of {arch}",
            hint="install the package qemu-system of that architecture",
        )
    return known


def _machine_types(general: ET.Element, arch: str) -> frozenset[str]:
    found: set[str] = set()
    for each in general.iterfind(f"guest/arch[@name='{arch}']//machine"):
        found |= {each.text or "", each.get("canonical", "")}
    return frozenset(found - {""})


def _cpu_models(found: ET.Element) -> frozenset[str]:
    models = found.iterfind("cpu/mode[@name='custom']/model")
    return frozenset(each.text or "" for each in models if each.get("usable") != "no")


def _values(found: ET.Element, path: str) -> set[str]:
    return {each.text or "" for each in found.iterfind(f"{path}/value")}


def _supported(found: ET.Element, path: str) -> bool:
    element = found.find(path)
    return element is not None and element.get("supported") == "yes"


def _owner(general: ET.Element) -> tuple[int, int] | None:
    """As in `<baselabel type="qemu">+64055:+109</baselabel>` of the model "dac"."""
    for model in general.iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            label = model.findtext("baselabel") or ""
            user, _, group = label.replace("+", "").partition(":")
            if user.isdecimal() and group.isdecimal():
                return int(user), int(group)
    return None
