"""The federation of compose.yaml with podman: built from this source tree, watched, taken away.

Everything has names of this run's own, and only what has them is ended or removed. The base image,
which takes a Debian mirror and some minutes, is kept among podman's images for the next run.
"""

import contextlib
import hashlib
import os
import platform
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compose import plan, prepare
from watari.clock import SystemClock

PAIRS = tuple(
    tuple(each.name for each in plan.services() if each.front == front)
    for front in sorted({each.front for each in plan.services()} - {""})
)
"""Managers that share a database: one of them works."""

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = (
    *("python3", "python3-venv", "python3-pip", "ca-certificates"),
    *("qemu-utils", "etcd-server", "etcd-client", "postgresql"),
)
"""Of the base image: what users have from Python's image and from Debian while ours are built."""

BASE = "localhost/watari-test-base"

IMAGES = ("localhost/watari", "localhost/watari-etcd", "localhost/watari-postgresql")

BASE_SECONDS_MAX = 1800.0
BUILD_SECONDS_MAX = 1200.0
UP_SECONDS_MAX = 300.0
HEALTHY_SECONDS_MAX = 180.0
COMMAND_SECONDS_MAX = 120.0
POLL_SECONDS = 0.5

STOP_SECONDS = 10
"""What a container gets to end by itself."""

_PODMAN = """\
[containers]
default_ulimits = []
log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Where nothing but podman is: no systemd, no journal, both versions of control groups."""

LEASE_SECONDS = 10
"""Of the managers, shorter than what tests wait for anyway: who does not renew it is found out."""

DATABASE_LEASE_SECONDS = 5.0
"""Of the managers that share a database: how soon a standby takes over from one that was killed."""

SOURCES = ("agent", "broker", "compose", "directory", "manager", "watari")
FILES = (".dockerignore", "LICENSE", "README.md", "pyproject.toml")


def free_ports() -> str:
    """Digits that with those of every published port make one that nobody listens on, below those
    that the system hands out by itself.
    """
    published = {service.published for service in plan.services() if service.published}
    for digits in random.sample(range(200, 320), 120):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for last in published:
                held.enter_context(socket.socket()).bind(("127.0.0.1", int(f"{digits}{last}")))
            return str(digits)
    raise AssertionError("no ports are free")


@dataclass
class Containers:
    """A running federation."""

    folder: Path
    """Of this run: a copy of the source tree, with the state in it, and podman's settings."""
    name: str = field(default_factory=lambda: f"watari-test-{secrets.token_hex(4)}")
    """Of the project, and so of all that is made."""
    ports: str = field(default_factory=free_ports)
    """What its published ports begin with."""

    @property
    def tree(self) -> Path:
        """The source tree."""
        return self.folder / "tree"

    @property
    def state(self) -> Path:
        """What `compose.prepare` made."""
        return self.tree / "compose" / "state"

    @property
    def names(self) -> list[str]:
        """Of all services."""
        return [*plan.others(), *(service.name for service in plan.services())]

    def build(self) -> None:
        """Base image, images, certificates."""
        self.folder.joinpath("containers.conf").write_text(_PODMAN)
        self._copy_tree()
        self._make_wheels()
        self._ensure_base()
        prepare.prepare(self.state, prepare.default_owner(), self.ports, SystemClock())
        for path in self.state.glob("services/*/manager.toml"):
            with path.open("a") as file:
                file.write(f"\n[manager.publish]\nlease_ttl_seconds = {LEASE_SECONDS}\n")
            made = path.read_text().replace(
                "[manager.store]\n", f"[manager.store]\nlease_seconds = {DATABASE_LEASE_SECONDS}\n"
            )
            path.write_text(made)
        # Without layers nothing is left behind that has no name to be removed by.
        lean = ("--podman-build-args=--layers=false", "build")
        said = self.compose(*lean, "etcd-1", "postgresql", "directory-1", seconds=BUILD_SECONDS_MAX)
        for image in IMAGES:  # podman-compose of Debian 12 ends well whatever podman says
            exists = ["podman", "image", "exists", f"{image}:{self.name}"]
            assert not self._run(exists, COMMAND_SECONDS_MAX, check=False).returncode, said[-6000:]

    def up(self) -> None:
        """Starts everything and waits until all is well."""
        said = self.compose("up", "-d", "--no-build", seconds=UP_SECONDS_MAX)
        for name in self.names:
            exists = ["podman", "container", "exists", self._container(name)]
            assert not self._run(exists, COMMAND_SECONDS_MAX, check=False).returncode, said[-6000:]
        standing_by = {name for pair in PAIRS for name in pair}
        self.await_healthy(*(name for name in self.names if name not in standing_by))
        for pair in PAIRS:
            self.working(*pair)

    def working(self, *managers: str) -> str:
        """Waits until one of a cloud's managers works; its name."""
        found: list[str] = []

        def works() -> bool:
            found.extend(each for each in managers if self._is_healthy(each))
            return bool(found)

        wait_until(works, HEALTHY_SECONDS_MAX, lambda: "\n".join(map(self.log, managers)))
        return found[0]

    def stop(self, service: str) -> None:
        """Ends one service; it stays away."""
        self.podman("stop", "-t", str(STOP_SECONDS), self._container(service))

    def kill(self, service: str) -> None:
        """kill -9; it stays away, as podman takes that for a wish."""
        self.podman("kill", "--signal", "KILL", self._container(service))

    def start(self, service: str) -> None:
        """Starts one that was stopped, and waits until it is well, unless it may stand by."""
        self.podman("start", self._container(service))
        if not any(service in pair for pair in PAIRS):
            self.await_healthy(service)

    def restart(self, service: str) -> None:
        """Ends and starts one, without waiting until it is well."""
        self.podman("restart", "-t", str(STOP_SECONDS), self._container(service))

    def await_healthy(self, *services: str) -> None:
        """Waits until the health checks of compose.yaml are content, once each."""
        for service in services:
            wait_until(
                lambda name=service: self._is_healthy(name),  # type: ignore[misc]
                HEALTHY_SECONDS_MAX,
                lambda name=service: f"{name} is not well:\n{self.log(name)}",  # type: ignore[misc]
            )

    def log(self, service: str) -> str:
        """The end of what it wrote."""
        command = ["podman", "logs", "--tail", "60", self._container(service)]
        done = self._run(command, COMMAND_SECONDS_MAX, check=False)
        return done.stdout[-6000:]

    def inspect(self, service: str, template: str) -> str:
        """What podman says of its container."""
        return self.podman("inspect", "--format", template, self._container(service)).strip()

    def execute(self, service: str, *command: str, stdin: str = "") -> str:
        """What a command in its container prints."""
        exec_ = ["podman", "exec", "--interactive", self._container(service), *command]
        return self._run(exec_, COMMAND_SECONDS_MAX, stdin=stdin).stdout

    def podman(self, *arguments: str, seconds: float = COMMAND_SECONDS_MAX) -> str:
        """What podman prints. Raises AssertionError when it fails."""
        return self._run(["podman", *arguments], seconds).stdout

    def compose(self, *arguments: str, seconds: float = COMMAND_SECONDS_MAX) -> str:
        """What podman-compose prints. Raises AssertionError when it fails."""
        file = self.tree / "compose" / "compose.yaml"
        common = ["podman-compose", "-f", str(file), "-p", self.name]
        return self._run([*common, "--podman-run-args=--ulimit host", *arguments], seconds).stdout

    def remove(self) -> None:
        """Takes away what is this run's; the first failure does not keep the rest from it."""
        label = f"label=io.podman.compose.project={self.name}"
        for kind, remove in (
            (["ps", "--all"], ["rm", "--force", "--time", "2", "--volumes"]),
            (["volume", "ls"], ["volume", "rm", "--force"]),
            (["network", "ls"], ["network", "rm", "--force"]),
        ):
            listed = self._run(["podman", *kind, "--quiet", "--filter", label], 60, check=False)
            for each in listed.stdout.split():
                self._run(["podman", *remove, each], COMMAND_SECONDS_MAX, check=False)
        for image in IMAGES:
            tagged = f"{image}:{self.name}"
            self._run(["podman", "rmi", "--force", tagged], COMMAND_SECONDS_MAX, check=False)

    @property
    def environ(self) -> dict[str, str]:
        """For podman and podman-compose."""
        return {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "WATARI_BASE": self._base,
            "WATARI_PORTS": self.ports,
            "WATARI_TAG": self.name,
            "WATARI_UID": str(prepare.default_owner()),
            "PIP_NO_INDEX": "1",
        }

    @property
    def _base(self) -> str:
        """The base image, by what is in it."""
        content = " ".join((_suite(), *PACKAGES))
        return f"{BASE}:{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def _copy_tree(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "state", ".state-*", "*.whl")
        for name in SOURCES:
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignored)
        for name in FILES:
            shutil.copy2(ROOT / name, self.tree / name)

    def _make_wheels(self) -> None:
        """What `make compose-wheels` does, as the build reaches no package index."""
        wheels = self.tree / "compose" / "wheels"
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(wheels)]
        environ = {**self.environ, "PIP_NO_INDEX": os.environ.get("PIP_NO_INDEX", "0")}
        self._run(
            [*command, "hatchling", f"{self.tree}[etcd,postgresql]"],
            BUILD_SECONDS_MAX,
            environ=environ,
        )
        for wheel in wheels.glob("watari-*.whl"):
            wheel.unlink()

    def _ensure_base(self) -> None:
        if not self._run(["podman", "image", "exists", self._base], 60, check=False).returncode:
            return
        tar = self.folder / "base.tar"
        self._run(
            [
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
                # A key that Debian's package makes for whoever has none: no image has one.
                '--customize-hook=rm -f "$1"/etc/ssl/private/ssl-cert-snakeoil.key',
                *(f"--include={','.join(PACKAGES)}", _suite(), str(tar)),
            ],
            BASE_SECONDS_MAX,
        )
        self.podman("import", str(tar), self._base, seconds=BASE_SECONDS_MAX)
        tar.unlink()

    def check_python(self) -> None:
        """Wheels are for one Python. Raises AssertionError when the base has another one."""
        command = [
            "podman",
            "run",
            "--rm",
            "--ulimit",
            "host",
            "--network",
            "none",
            self._base,
            "python3",
            "--version",
        ]
        found = self._run(command, COMMAND_SECONDS_MAX).stdout.split()[-1].split(".")[:2]
        assert found == list(platform.python_version_tuple()[:2]), (
            f"the base image has Python {'.'.join(found)}: run with make PYTHON=/usr/bin/python3"
        )

    def _is_healthy(self, service: str) -> bool:
        command = ["podman", "healthcheck", "run", self._container(service)]
        return self._run(command, COMMAND_SECONDS_MAX, check=False).returncode == 0

    def _container(self, service: str) -> str:
        return f"{self.name}_{service}_1"

    def _run(
        self,
        command: list[str],
        seconds: float,
        *,
        check: bool = True,
        environ: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            command,
            env=environ or self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            input=stdin,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, (command, done.returncode, done.stdout[-6000:])
        return done


@contextlib.contextmanager
def federation(folder: Path) -> Iterator[Containers]:
    """Runs for the length of the block, and is taken away whatever happens."""
    found = Containers(folder)
    try:
        found.build()
        found.check_python()
        found.up()
        yield found
    finally:
        found.remove()


def wait_until(condition: Callable[[], bool], seconds: float, describe: Callable[[], str]) -> None:
    """Waits for a condition. Raises AssertionError with the description."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(POLL_SECONDS)


def _suite() -> str:
    """The release of Debian that this is: its packages are at hand."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]
