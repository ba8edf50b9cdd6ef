"""What the local federation consists of, and where each of its files is.

```
STATE/federation.lock           held while the federation is being started or stopped
     /client.toml               what the command line needs to talk to it
     /config/NAME.toml          settings of each process
            /pki/DOMAIN/        a provider: its CA, its parties' certificates, whom it trusts
     /data/NAME/                what each process keeps; .../shelf holds a cloud's machines
     /logs/NAME.log
     /run/NAME.json             which process it is
```
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watari import errors
from watari.clock import Clock
from watari.identity import Role, SpiffeId

HUB_DOMAIN = "hub.internal"
"""Provider of directory and broker, which belong to neither cloud."""

OPERATOR_NAME = "admin"
"""The operator in each cloud's domain whose certificate the command line shows."""

FOLDER_MODE = 0o700

LOCK_SECONDS_MAX = 90.0
"""How long a start or stop waits for another one: longer than either takes."""

_LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class CloudPlan:
    """One of the local clouds."""

    cloud_id: str
    display_name: str
    region: str
    jurisdiction: str
    vcpu_hour: str
    memory_gib_hour: str
    disk_gib_month: str

    @property
    def domain(self) -> str:
        """The provider's domain."""
        return f"{self.cloud_id}.internal"


CLOUDS = (
    CloudPlan("tokyo", "Tokyo", "jp-east", "JP", "2.40", "0.90", "15.00"),
    # Cheaper, so that placing a machine of Tokyo has something to find.
    CloudPlan("osaka", "Osaka", "jp-west", "JP", "1.80", "0.70", "12.00"),
)
"""Prices in JPY."""


@dataclass(frozen=True)
class Process:
    """One server of the federation."""

    name: str
    """Unique on this machine, as in "tokyo-manager"."""
    module: str
    """Package that `python -m` runs."""
    spiffe_id: SpiffeId
    """Who it is."""


def processes() -> tuple[Process, ...]:
    """Every server, in the order of starting: what others need comes first."""
    hub = [
        Process(role, role, SpiffeId(HUB_DOMAIN, role, "main"))
        for role in (Role.DIRECTORY, Role.BROKER)
    ]
    clouds = [
        Process(f"{cloud.cloud_id}-{role}", role, SpiffeId(cloud.domain, role, name))
        for cloud in CLOUDS
        for role, name in ((Role.AGENT, "host-1"), (Role.MANAGER, "main"))
    ]
    return (hub[0], *clouds, hub[1])


def domains() -> tuple[str, ...]:
    """Every provider."""
    return (*(cloud.domain for cloud in CLOUDS), HUB_DOMAIN)


@dataclass(frozen=True)
class Layout:
    """The paths of a local federation below one folder."""

    root: Path

    @property
    def client(self) -> Path:
        """Settings of the command line."""
        return self.root / "client.toml"

    @property
    def config(self) -> Path:
        """Made in one step; once it exists the federation is configured."""
        return self.root / "config"

    @property
    def is_configured(self) -> bool:
        """Whether there is a federation here, running or not."""
        return self.config.is_dir()

    def settings(self, process: Process) -> Path:
        """Its settings."""
        return self.config / f"{process.name}.toml"

    def data(self, process: Process) -> Path:
        """Its own folder."""
        return self.root / "data" / process.name

    def log(self, process: Process) -> Path:
        """What it logs."""
        return self.root / "logs" / f"{process.name}.log"

    def record(self, process: Process) -> Path:
        """Which process it is."""
        return self.root / "run" / f"{process.name}.json"

    def shelf(self, cloud_id: str) -> Path:
        """Where the machines of a cloud's host are."""
        return self.root / "data" / f"{cloud_id}-agent" / "shelf"

    def create(self) -> None:
        """Makes the private folders. Raises FailedPrecondition CONFIG_INVALID when the folder is in
        use for something else.
        """
        self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        if any(self.root.iterdir()) and not self._lock_path.exists():
            raise errors.FailedPrecondition(
                "CONFIG_INVALID",
                f"{self.root} holds other files and no federation",
                hint="name a new or empty folder with --state-dir",
            )
        self.root.chmod(FOLDER_MODE)
        self._lock_path.touch(mode=0o600)
        for folder in ("data", "logs", "run"):
            (self.root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
        for process in processes():
            self.data(process).mkdir(mode=FOLDER_MODE, exist_ok=True)
        for cloud in CLOUDS:
            self.shelf(cloud.cloud_id).mkdir(mode=FOLDER_MODE, exist_ok=True)

    @contextmanager
    def locked(self, clock: Clock) -> Iterator[None]:
        """Keeps other starts and stops out. Raises FailedPrecondition START_FAILED in the end."""
        with self._lock_path.open("a") as file:
            deadline = clock.monotonic() + LOCK_SECONDS_MAX
            while not _try_lock(file.fileno()):
                if clock.monotonic() >= deadline:
                    raise errors.FailedPrecondition(
                        "START_FAILED",
                        f"another watari has been starting or stopping {self.root} for long",
                        hint="wait for it, or end it",
                    )
                clock.sleep(_LOCK_POLL_SECONDS)
            yield

    @property
    def _lock_path(self) -> Path:
        return self.root / "federation.lock"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # A server that is started meanwhile must not inherit the lock and keep it.
    os.set_inheritable(descriptor, False)
    return True
