"""A hypervisor host: namespaces of its own on this machine, with a libvirtd of its own.

Promises: what runs in a host sees that host's network, processes and libvirt, and the machine's
file system otherwise, so a folder has the same path everywhere; nothing of it is left when `close`
returns, or soon after the process that made it is gone, however it went.

Never: touches the machine's own libvirt, or a process that it did not start.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab import init, libvirtd, namespaces

START_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02
LOG_CHARACTERS_MAX = 2000
"""Of a log's end, in an error."""

_SOCKET_PATH_BYTES_MAX = 107
_NAMESPACES = ("mount", "uts", "ipc", "pid")


class Host:
    """A running host; use it as a context manager.

    `folder` keeps its state: a host that is closed and started again there has gone through a power
    failure. `network` is a command prefix that enters its network namespace, as of
    `bench.link.Side`; without one the host has a loopback only.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        network: Sequence[str] = ("unshare", "--net"),
        address: str = "",
        neighbours: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.address = address
        """On the link, where libvirtd listens too; empty without a link."""
        self.uuid = libvirtd.host_uuid(name)
        self._network = tuple(network)
        self._neighbours = dict(neighbours or {})
        self._started: list[subprocess.Popen[Any]] = []
        self._init: subprocess.Popen[bytes] | None = None
        self._libvirtd: subprocess.Popen[bytes] | None = None
        self._init_pid = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """Of its libvirt, for who is outside."""
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def peer_uri(self) -> str:
        """Of its libvirt, for who is on the link."""
        return f"qemu+tcp://{self.address}:{libvirtd.TCP_PORT}/system"

    @property
    def work(self) -> Path:
        """A folder for disks and whatever else a test puts on this host."""
        return self.folder / "work"

    @property
    def log(self) -> Path:
        """What is /var/log/libvirt inside."""
        return self.folder / "log"

    @property
    def libvirtd_pid(self) -> int:
        """As this process sees it; 0 when it does not run."""
        running = self._libvirtd is not None and self._libvirtd.poll() is None
        return self._libvirtd.pid if self._libvirtd is not None and running else 0

    @property
    def pid_namespace(self) -> str:
        """Its name, such as "pid:[4026532281]"."""
        return str(Path(f"/proc/{self._init_pid}/ns/pid").readlink())

    def pids(self) -> list[int]:
        """Everything that runs in the host, its init included."""
        return namespaces.members(self.pid_namespace)

    def start(self) -> None:
        """Makes the namespaces and starts libvirtd, as far as they are not there. Raises
        RuntimeError when that fails.
        """
        if self._init is not None and self._init.poll() is not None:
            self.close()
        try:
            if self._init is None:
                self._prepare_folder()
                self._start_init()
            self.start_libvirtd()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """A power failure: everything in the host ends at once. May be repeated."""
        if self._init is None:
            return
        if self._init_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init_pid, signal.SIGKILL)
        else:
            self._init.kill()
        # A PID namespace only ends when all in it were waited for, and these are our children.
        for process in self._started:
            process.wait(START_SECONDS_MAX)
        self._init.wait(START_SECONDS_MAX)
        for pipe in (self._init.stdin, self._init.stdout):
            if pipe is not None:
                pipe.close()
        self._started.clear()
        self._init, self._libvirtd, self._init_pid = None, None, 0

    def popen(
        self, argv: Sequence[object], *, cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Starts a command in the host: `options` as of subprocess.Popen, and `pid`, signals and
        exit codes are the command's own.
        """
        if not self._init_pid:
            raise RuntimeError(f"host {self.name} does not run")
        enter = [f"--{kind}=/proc/{self._init_pid}/ns/{kind}" for kind in ("net", "uts", "ipc")]
        enter.append(f"--mount=/proc/{self._init_pid}/ns/mnt")
        inside = ["env", f"--chdir={cwd or Path.cwd()}", *(str(each) for each in argv)]
        options.setdefault("start_new_session", True)
        self._started = [each for each in self._started if each.poll() is None]
        with namespaces.children_in(self._init_pid):
            process = subprocess.Popen(["nsenter", *enter, *inside], **options)
        self._started.append(process)
        return process

    def run(
        self,
        argv: Sequence[object],
        *,
        check: bool = True,
        timeout_seconds: float = RUN_SECONDS_MAX,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the host to its end. Raises RuntimeError with what it said when it
        fails and `check` is set.
        """
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        pipes["stdin"] = subprocess.DEVNULL
        with self.popen(argv, text=True, **{**pipes, **options}) as process:
            try:
                output, errors = process.communicate(timeout=timeout_seconds)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            command = " ".join(str(each) for each in argv)
            raise RuntimeError(f"{self.name}: {command}: {process.returncode}: {errors.strip()}")
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def virsh(self, *arguments: object, **options: Any) -> str:
        """What virsh answers in the host. Raises RuntimeError."""
        return self.run(["virsh", "--quiet", *arguments], **options).stdout.strip()

    def start_libvirtd(self) -> None:
        """Returns when it answers. Does nothing when it runs."""
        if self.libvirtd_pid:
            return
        with (self.log / "libvirtd.log").open("ab") as log:
            self._libvirtd = self.popen(
                libvirtd.command(self.address), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._await(lambda: self.run(["virsh", "version"], check=False).returncode == 0)

    def kill_libvirtd(self) -> None:
        """As `kill -9`; guests run on."""
        if self._libvirtd is not None:
            self._libvirtd.kill()
            self._libvirtd.wait(START_SECONDS_MAX)

    def end_processes(self) -> None:
        """Kills what `popen` started and still runs, and not libvirtd or guests."""
        for process in self._started:
            if process is not self._libvirtd:
                process.kill()
                process.wait(START_SECONDS_MAX)

    @property
    def _socket(self) -> Path:
        return self.folder / "run" / "libvirt-sock"

    def _prepare_folder(self) -> None:
        if len(os.fsencode(self._socket)) > _SOCKET_PATH_BYTES_MAX:
            raise RuntimeError(f"a path too long for a socket: {self._socket}")
        shutil.rmtree(self.folder / "run", ignore_errors=True)  # a boot empties it
        for name in (*init.PRIVATE, "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        libvirtd.write(self.folder / "etc", self.name, self.address)
        names = {self.name: self.address or "127.0.1.1", **self._neighbours}
        lines = ["127.0.0.1 localhost", *(f"{each} {name}" for name, each in names.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        files = ("passwd", "group")
        machine = [Path("/etc", each).read_text() for each in files]
        for file, text in zip(files, libvirtd.users(*machine), strict=True):
            (self.folder / file).write_text(text)

    def _start_init(self) -> None:
        # It dies with us by its stdin. Not by a signal at the parent's death: that is the death of
        # the thread that started it.
        unshare = ("unshare", *(f"--{each}" for each in _NAMESPACES), "--fork", "--kill-child=KILL")
        program = (sys.executable, "-I", init.__file__, self.name, str(self.folder.resolve()))
        with (self.log / "init.log").open("ab") as log:
            self._init = subprocess.Popen(
                [*self._network, *unshare, *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"ready\n":
            said = (self.log / "init.log").read_text(errors="replace")[-LOG_CHARACTERS_MAX:]
            raise RuntimeError(f"host {self.name} does not start as root in namespaces: {said}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        self._init_pid = int(children.split()[0])

    def _await(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not done():
            if not self.libvirtd_pid or time.monotonic() > deadline:
                said = (self.log / "libvirtd.log").read_text(errors="replace")[-LOG_CHARACTERS_MAX:]
                raise RuntimeError(f"libvirtd of {self.name} does not start: {said}")
            time.sleep(POLL_SECONDS)
