"""Settings of the agent: table `[agent]` of its configuration file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from watari.metrics import MetricsSettings
from watari.rpc.settings import RpcSettings
from watari.settings import IdentitySettings, LogSettings, TelemetrySettings


@dataclass(frozen=True)
class HostSettings:
    """What the host offers. Unset values are read from the machine."""

    vcpus: int | None = field(default=None, metadata={"min": 1, "max": 65535})
    """Virtual CPUs; by default the machine's logical CPUs."""

    memory_bytes: int | None = field(default=None, metadata={"min": 1})
    """Memory for machines; by default all of the machine's memory."""

    disk_bytes: int | None = field(default=None, metadata={"min": 1})
    """Apparent size of all disks together; by default the size of the shelf's file system."""

    traits: tuple[str, ...] = ()
    """Further traits, beside the driver's own."""


@dataclass(frozen=True)
class TransferSettings:
    """How disks are moved, and the bounds that keep an agent's memory small."""

    streams_max: int = field(default=16, metadata={"min": 1, "max": 16})
    """Data connections of a transfer, as sender and as receiver. How many there are of these is
    steered by round trip and goodput; see docs/performance.md.
    """

    workers: int = field(default=2, metadata={"min": 1, "max": 32})
    """Threads that read, hash and compress; each holds one parent of 4 MiB."""

    compression_level: int = field(default=0, metadata={"min": -7, "max": 19})
    """zstd level; 0 steers it by what holds the transfer back."""

    cipher_key_bits: int = 128
    """AES-GCM key length, 128 or 256; 128 as in the paper."""

    data_tls: bool = False
    """Mutual TLS on the data port too, as receiver; as sender, no destination without it. What
    crosses is sealed anyway; docs/performance.md says what TLS on top of it costs.
    """

    queue_frames_max: int = field(default=16, metadata={"min": 1, "max": 256})
    """Frames that wait for a data connection, 32 MiB of them at most; eight times as many over a
    long way.
    """

    credit_bytes: int = field(default=64 * 1024 * 1024, metadata={"min": 1 << 21, "max": 1 << 28})
    """Sealed bytes that may be under way to the receiver, over all connections."""

    window_bytes: int = field(default=4 * 1024 * 1024, metadata={"min": 1 << 16, "max": 1 << 27})
    """HTTP/2 window of one incoming data connection: what a sender without manners can pin."""

    sending_max: int = field(default=4, metadata={"min": 1, "max": 64})
    """Transfers that are sent at once."""

    receiving_max: int = field(default=4, metadata={"min": 1, "max": 64})
    """Sessions that are open at once."""

    estimating_max: int = field(default=2, metadata={"min": 1, "max": 16})
    """Estimates that are made at once."""

    stall_seconds_max: float = field(default=60.0, metadata={"min": 1})
    """A data connection without progress for so long is given up; a new attempt may follow."""

    transfer_seconds_max: float = field(default=7 * 86400.0, metadata={"min": 1})
    """Deadline of one attempt as a whole."""

    complete_seconds_max: float = field(default=900.0, metadata={"min": 1})
    """Deadline for the destination to flush, check and sign."""

    connect_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """Deadline of a control call to the other agent."""

    index_wait_seconds_max: float = field(default=20.0, metadata={"min": 0})
    """How long an arriving machine's first comparison waits for indexes that are being built."""


@dataclass(frozen=True)
class HookSettings:
    """Programs of the operator's own that are run when a machine stops or starts."""

    folder: Path | None = None
    """Folder with a folder for each stage, such as `before-stop.d/10-name`; none: no hooks."""

    seconds_max: float = field(default=30.0, metadata={"min": 0.1, "max": 3600.0})
    """How long one hook may take, while its machine may stand still; then it gets SIGTERM."""

    stage_seconds_max: float = field(default=120.0, metadata={"min": 0.1, "max": 240.0})
    """How long all hooks of a stage may take together. The order that they belong to has 300 s at
    the manager (`lifecycle_seconds_max`), in which the machine is to be stopped or started too.
    """

    term_seconds_max: float = field(default=5.0, metadata={"min": 0.0, "max": 60.0})
    """Between SIGTERM and SIGKILL."""

    output_bytes_max: int = field(default=16 * 1024, metadata={"min": 0, "max": 1 << 20})
    """What is kept and logged of a hook's output; the rest is read and dropped."""

    failure: dict[str, str] = field(default_factory=dict)
    """What follows when a hook of a stage fails: "stop" or "warn". Without a word the stages
    `before-stop` and `before-start` stop; the others can only warn.
    """


@dataclass(frozen=True)
class EventSettings:
    """The log of what happens to machines, which the manager reads."""

    look_seconds: float = field(default=5.0, metadata={"min": 0.05})
    """How often machines are compared with what the log knows. The shelf tells of nothing by
    itself, so that this is how late a machine is noticed there.
    """

    kept_seconds: int = field(default=7 * 86400, metadata={"min": 0})
    """How long an entry is kept although the manager has recorded it: for one whose database was
    set back."""

    entries_max: int = field(default=200_000, metadata={"min": 1000})
    """Entries that are kept, some 100 MB; beyond it the oldest go, recorded or not, which the
    manager notices."""


@dataclass(frozen=True)
class Settings:
    """The agent."""

    identity: IdentitySettings
    """Certificate, key and trust."""

    cloud_id: str
    """The cloud that the host belongs to."""

    host_id: str
    """The host's name, unique in its cloud."""

    manager: str
    """SPIFFE id of the cloud's own manager: the only one whose grants let data in or out."""

    shelf: Path
    """Folder of the agent: machines that arrive and what is kept of those that went; with driver
    "shelf" all machines. With driver "libvirt" the hypervisor's user must get through the folders
    above it (mode 0711), as the disks of machines that arrived lie in it.
    """

    driver: Literal["shelf", "libvirt"] = "shelf"
    """Hypervisor driver. "libvirt" needs the package libvirt-python (`watari[libvirt]`)."""

    libvirt_uri: str = "qemu:///system"
    """Of this host's libvirt; xen:///system where the hypervisor is Xen."""

    networks: dict[str, str] = field(default_factory=dict)
    """What a machine's network, bridge or device at the source is here: "bridge:NAME" or
    "network:NAME" (one of libvirt's); "*" is any other one. A machine with a network that is not in
    the table is refused: to guess would connect strangers. Driver "libvirt".
    """

    boot_files: Path | None = None
    """Folder of kernels and initial file systems that machines which bring none of their own on a
    disk may boot, by file name. Without it such machines are refused: a definition from elsewhere
    names no file of this host. Driver "libvirt".
    """

    emulator: str = ""
    """Path of the emulator for machines that arrive; empty is what libvirt takes by itself. Driver
    "libvirt".
    """

    nvram_folder: Path = Path("/var/lib/libvirt/qemu/nvram")
    """Where libvirt keeps the variables of UEFI firmware that it chose. Driver "libvirt"."""

    announce: bool = True
    """Whether switches are told where a machine is as soon as it runs, by a QEMU monitor command
    that libvirt marks the domain as tainted for. Driver "libvirt".
    """

    swtpm_folder: Path = Path("/var/lib/libvirt/swtpm")
    """Where libvirt keeps the state of emulated TPMs. Driver "libvirt"."""

    address: str = "127.0.0.1:7443"
    """Where control calls are taken, host:port."""

    data_address: str = "127.0.0.1:7444"
    """Where sealed frames are taken, host:port."""

    advertised_address: str = ""
    """What others dial for control; empty is `address`."""

    advertised_data_address: str = ""
    """What others dial for data; empty is `data_address`."""

    disk_format: Literal["raw", "qcow2"] = "raw"
    """Format of the disks that arrive; content is the same, whatever the source has. Raw needs no
    tools and can share blocks with disks that are here; qcow2 needs the package qemu-utils and
    stays small where files are copied without care for holes.
    """

    public_images: Path | None = None
    """Folder of base images (`*.raw`, `*.qcow2`) that anyone may know: every tenant's disks may be
    compared with them.
    """

    retention_seconds: int = field(default=7 * 86400, metadata={"min": 0})
    """How long the disks of a machine that was handed over are kept."""

    discarded_kept_seconds: int = field(default=7 * 86400, metadata={"min": 3600})
    """How long a discarded migration's data stays refused; no grant may be valid for longer."""

    sweep_seconds: float = field(default=5.0, metadata={"min": 0.05})
    """How often stalled sessions and expired disks are looked for."""

    host: HostSettings = HostSettings()
    """What the host offers."""

    transfer: TransferSettings = TransferSettings()
    """How disks are moved."""

    hooks: HookSettings = field(default_factory=HookSettings)
    """Programs that are run when a machine stops or starts."""

    events: EventSettings = EventSettings()
    """The log of what happens to machines."""

    rpc: RpcSettings = RpcSettings()
    """The control port."""

    metrics: MetricsSettings = MetricsSettings()
    """Where Prometheus fetches."""

    telemetry: TelemetrySettings = TelemetrySettings()
    """Where traces go."""

    log: LogSettings = LogSettings()
    """Logs."""
