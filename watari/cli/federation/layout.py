"""What the local federation consists of, and where each of its files is.

```
STATE/federation.lock           held while the federation is being started or stopped
     /plan.json                 which providers and servers, where it is not the usual two clouds
     /client.toml               what the command line needs to talk to it
     /config/NAME.toml          settings of each process
            /pki/DOMAIN/ca/     a provider's CA
                       /PARTY/  certificate and key of one of its parties, and whom that one trusts
     /data/NAME/                what each process keeps; .../shelf holds a cloud's machines
     /logs/NAME.log
     /run/NAME.json             which process it is
```
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from watari import errors
from watari.clock import Clock
from watari.identity import Role, SpiffeId, validate_domain

USER_NAME = "admin"
"""The operator in each provider's domain whose certificate the command line shows."""

FOLDER_MODE = 0o700

LOCK_SECONDS_MAX = 90.0
"""How long a start or stop waits for another one: longer than either takes."""

_LOCK_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class CloudPlan:
    """One cloud of this machine, and its provider."""

    cloud_id: str
    domain: str
    """Of the provider."""
    display_name: str
    region: str
    jurisdiction: str
    vcpu_hour: str
    memory_gib_hour: str
    disk_gib_month: str


CLOUDS = (
    CloudPlan("tokyo", "tokyo.internal", "Tokyo", "jp-east", "JP", "2.40", "0.90", "15.00"),
    # Cheaper, so that placing a machine of Tokyo has something to find.
    CloudPlan("osaka", "osaka.internal", "Osaka", "jp-west", "JP", "1.80", "0.70", "12.00"),
)
"""Prices in JPY."""


@dataclass(frozen=True)
class Plan:
    """Which servers there are."""

    clouds: tuple[CloudPlan, ...] = CLOUDS
    """Each with a provider of its own, one manager and one agent."""

    catalogue: bool = True
    """Whether the first provider runs a directory and a broker."""

    host: str = "127.0.0.1"
    """Address that everything listens on."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Every provider."""
        return tuple(cloud.domain for cloud in self.clouds)

    def cloud_of(self, domain: str) -> CloudPlan:
        """The cloud of a provider."""
        (cloud,) = (each for each in self.clouds if each.domain == domain)
        return cloud

    def manager(self, domain: str) -> "Process":
        """A provider's manager."""
        return _process(self.cloud_of(domain), Role.MANAGER, "main")

    def processes(self) -> "tuple[Process, ...]":
        """Every server, in the order of starting: what others need comes first."""
        clouds = [
            _process(cloud, role, name)
            for cloud in self.clouds
            for role, name in ((Role.AGENT, "host-1"), (Role.MANAGER, "main"))
        ]
        if not self.catalogue:
            return tuple(clouds)
        first = self.clouds[0].domain
        directory, broker = (
            Process(role, role, SpiffeId(first, role, "main"))
            for role in (Role.DIRECTORY, Role.BROKER)
        )
        return (directory, *clouds, broker)


def single(domain: str, host: str) -> Plan:
    """One provider with one cloud, named after the first part of its domain."""
    name = validate_domain(domain).partition(".")[0]
    cloud = CloudPlan(name, domain, name.capitalize(), "default", "", "2.00", "0.80", "14.00")
    return Plan((cloud,), catalogue=False, host=host)


@dataclass(frozen=True)
class Process:
    """One server of the federation."""

    name: str
    """Unique on this machine, as in "tokyo-manager"."""
    module: str
    """Package that `python -m` runs."""
    spiffe_id: SpiffeId
    """Who it is."""


def _process(cloud: CloudPlan, role: Role, name: str) -> Process:
    return Process(f"{cloud.cloud_id}-{role}", role, SpiffeId(cloud.domain, role, name))


LOCAL = Plan()
"""What `watari up` starts when nothing else is asked for: two providers on this machine."""


@dataclass(frozen=True)
class Layout:
    """The paths of a local federation below one folder."""

    root: Path

    @property
    def plan(self) -> Plan:
        """Which servers it has. Raises FailedPrecondition CONFIG_INVALID for a broken file."""
        try:
            said = json.loads(self._plan_path.read_text("utf-8"))
            clouds = tuple(CloudPlan(**each) for each in said["clouds"])
            return Plan(clouds, bool(said["catalogue"]), str(said["host"]))
        except FileNotFoundError:
            return LOCAL
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise errors.FailedPrecondition(
                "CONFIG_INVALID",
                f"{self._plan_path} cannot be read: {error}",
                hint="name another --state-dir, or remove this one",
            ) from error

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

    def authority(self, domain: str) -> Path:
        """Folder of a provider's CA."""
        return self.config / "pki" / domain / "ca"

    def credentials(self, party: SpiffeId) -> Path:
        """Folder of a party's certificate, key and trust."""
        return self.config / "pki" / party.domain / f"{party.role}-{party.name}"

    def create(self, plan: Plan | None = None) -> None:
        """Makes the private folders. Raises FailedPrecondition CONFIG_INVALID when the folder is in
        use for something else, or for another plan.
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
        self._settle(plan)
        for folder in ("data", "logs", "run"):
            (self.root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
        for process in self.plan.processes():
            self.data(process).mkdir(mode=FOLDER_MODE, exist_ok=True)
        for cloud in self.plan.clouds:
            self.shelf(cloud.cloud_id).mkdir(mode=FOLDER_MODE, exist_ok=True)

    def _settle(self, plan: Plan | None) -> None:
        """Notes the plan once and for all."""
        if plan is None or plan == self.plan:
            return
        if self.is_configured:
            there = ", ".join(self.plan.domains)
            raise errors.FailedPrecondition(
                "CONFIG_INVALID",
                f"{self.root} is the federation of {there} already",
                hint="name another folder with --state-dir",
            )
        partial = self._plan_path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(plan), indent=1), "utf-8")
        partial.replace(self._plan_path)

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
    def _plan_path(self) -> Path:
        return self.root / "plan.json"

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
