"""A real PostgreSQL on this machine, of Debian's package, for the length of a test run.

It flushes every commit, as in production. PostgreSQL refuses to run as root: then it runs as the
user of Debian's package, or as nobody.
"""

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from manager.settings.store import StoreSettings
from manager.store import Store
from tests.support.processes import free_port

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
CONNECTIONS_MAX = 300
SUPERUSER = "watari"


class Server:
    """One server over one folder, on a loopback port. Each test takes a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "postgresql.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        folder.mkdir(parents=True)
        self._prefix = _drop_root(folder)
        self._run(
            "initdb",
            *("--pgdata", str(self._data), "--username", SUPERUSER, "--auth", "trust"),
            *("--encoding", "UTF8", "--no-locale", "--no-sync"),
        )

    @property
    def pid(self) -> int:
        """Of the process that all others of it descend from."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it on its data, and waits until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": CONNECTIONS_MAX,
            "fsync": "on",
        }
        command = [*self._prefix, program("postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + START_SECONDS_MAX
        asked = ["-h", "127.0.0.1", "-p", str(self.port), "-q", "-t", "1"]
        while subprocess.run([program("pg_isready"), *asked], check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not run:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it: at once and in order (SIGINT), or as a crash (SIGQUIT)."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)
        self._process = None

    def database(self, template: str = "template1") -> str:
        """The url of a new database: an empty one, or a copy."""
        name = f"test{next(self._numbers)}"
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self._url(name)

    def settings(self, *, made: bool = False, **values: object) -> StoreSettings:
        """For a store over a new database: an empty one, or one with a manager's tables made."""
        url = self.database(self._made if made else "template1")
        return StoreSettings(url=url, connections_max=16, **values)  # type: ignore[arg-type]

    @functools.cached_property
    def _made(self) -> str:
        name = "made"
        self.sql(f'CREATE DATABASE "{name}"')
        Store(StoreSettings(url=self._url(name))).close()
        return name

    def _url(self, name: str) -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{name}?sslmode=disable"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints, without decoration."""
        command = [program("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER]
        command += ["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=START_SECONDS_MAX
        )
        return done.stdout.strip()

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._prefix, program(name), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=START_SECONDS_MAX,
            cwd="/",
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server that runs within the block."""
    made = Server(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def program(name: str) -> str:
    """Debian keeps a server's programs off PATH, by version; the newest there is."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda each: int(each.parts[4])
    )
    found = str(versions[-1]) if versions else shutil.which(name)
    assert found is not None, f"{name} is not installed: tools/setup.sh test"
    return found


def _drop_root(folder: Path) -> tuple[str, ...]:
    """What a command starts with so that it does not run as root."""
    if os.geteuid() != 0:
        return ()
    names = {each.pw_name for each in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    shutil.chown(folder, user.pw_uid, user.pw_gid)
    # Folders of tests are root's only: this one is passed through, and not read.
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return (
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"),
        "--",
    )
