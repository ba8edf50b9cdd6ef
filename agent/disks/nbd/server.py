"""A `qemu-nbd` process that serves one qcow2 image to this process alone, and ends with it.

```
agent --stdin--> sh --child--> qemu-nbd <--UNIX socket in a private folder-- agent
```

A `qemu-nbd` that outlives its agent would keep the image locked. Two things end it, whenever and
however the agent ends: the shell waits on a pipe that only the agent holds open and kills it when
the pipe closes; and it is started without --persistent, so it leaves with its last client should
the shell be killed. The kernel's own parent-death signal is no use here: it follows the *thread*
that started the process, and threads of the agent come and go.
"""

import contextlib
import os
import select
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from agent.disks.nbd import tools, wire
from agent.disks.nbd.connection import Connection
from agent.disks.nbd.pool import Pool
from agent.disks.nbd.tools import ToolError
from watari import errors

CONNECTIONS = 4
"""Connections to an image: reads and writes that are under way at once."""

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
"""How long a server may take to close its image; then it is killed."""

END_SECONDS_MAX = 5.0
"""How long a server that has dropped a connection may take to end, so that its reason is known."""

SOCKET_PATH_BYTES_MAX = 107
_POLL_SECONDS = 0.01

_SUPERVISE = """
socket=$1 folder=$2; shift 2
"$@" </dev/null &
exec 2>/dev/null
read -r _
kill -KILL $!
wait
rm -f "$socket"
rmdir "$folder"
"""


class Server:
    """A running `qemu-nbd` and the pool of connections to it."""

    def __init__(
        self, path: Path, *, writable: bool, bitmap: str = "", yields: bool = False
    ) -> None:
        """`bitmap` is a dirty bitmap of the image that is offered as a context. One that `yields`
        takes no lock: a hypervisor may open the image meanwhile, and write to it. Raises ToolError
        with what `qemu-nbd` said, FailedPrecondition CONFIG_INVALID when it is not there.
        """
        tools.require("qemu-nbd")
        self._path = path
        self._writable = writable
        self._bitmap = bitmap
        self._yields = yields and not writable
        folder = tempfile.mkdtemp(prefix="watari-nbd-")  # mode 0700
        self._socket = str(Path(folder) / "s")
        if len(os.fsencode(self._socket)) > SOCKET_PATH_BYTES_MAX:
            Path(folder).rmdir()
            raise errors.FailedPrecondition(
                "CONFIG_INVALID",
                "the folder for temporary files has too long a name for a socket",
                hint="set TMPDIR to a shorter path for the agent",
            )
        self._said, said = tools.pipe()
        waits, self._alive = os.pipe2(os.O_CLOEXEC)
        try:
            self._shell = subprocess.Popen(
                ["sh", "-c", _SUPERVISE, "sh", self._socket, folder, *self._command()],
                stdin=waits,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=tools.environment(),
                start_new_session=True,  # a Ctrl-C at the agent's terminal is the agent's affair
            )
        except OSError as error:
            self._close_pipes()
            Path(folder).rmdir()
            raise ToolError(error.strerror) from error
        finally:
            os.close(said)
            os.close(waits)
        with contextlib.ExitStack() as undo:
            undo.callback(self._end, 0.0)
            self.pool = self._connect()
            undo.pop_all()

    def close(self) -> None:
        """Ends it: a writer is given time to close its image in order."""
        self.pool.close()
        self._end(STOP_SECONDS_MAX if self._writable else 0.0)

    def _command(self) -> list[str]:
        # An absolute path is never taken for a protocol such as "nbd:" or "json:".
        common = [f"--shared={CONNECTIONS}", f"--socket={self._socket}"]
        name = str(self._path.absolute())
        if self._yields:
            quoted = name.replace(",", ",,")
            image = f"driver=qcow2,force-share=on,read-only=on,file.filename={quoted}"
            return ["qemu-nbd", *common, "--read-only", "--image-opts", image]
        common += ["--format=qcow2"]
        if self._writable:
            common += ["--discard=unmap", "--detect-zeroes=off", "--cache=writeback"]
        else:
            common += ["--read-only"]
        if self._bitmap:
            common += [f"--bitmap={self._bitmap}"]
        return ["qemu-nbd", *common, name]

    def _connect(self) -> Pool:
        deadline = time.monotonic() + START_SECONDS_MAX
        connections: list[Connection] = []
        with contextlib.ExitStack() as undo:
            while len(connections) < CONNECTIONS:
                connected = self._connected()
                if connected:
                    connections.append(self._greeted(connected))
                    undo.callback(connections[-1].close)
                elif self._ended(_POLL_SECONDS):
                    raise ToolError(tools.tidy(tools.text(self._said), self._path))
                elif time.monotonic() > deadline:
                    raise ToolError(f"qemu-nbd did not start within {START_SECONDS_MAX:g} s")
            pool = Pool(connections)
            undo.pop_all()
        return pool

    def _greeted(self, connected: socket.socket) -> Connection:
        try:
            contexts = [wire.BASE_ALLOCATION]
            if self._bitmap:
                contexts.append(wire.dirty_bitmap(self._bitmap))
            return Connection(connected, self._path.name, contexts=contexts)
        except errors.DataLoss as error:
            # It listens before it opens the image; when that fails it leaves, saying why.
            if self._ended(END_SECONDS_MAX):
                raise ToolError(tools.tidy(tools.text(self._said), self._path)) from error
            raise

    def _connected(self) -> socket.socket | None:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(START_SECONDS_MAX)
            connecting.connect(self._socket)
        except (FileNotFoundError, ConnectionRefusedError):  # it is not listening yet
            connecting.close()
            return None
        except OSError as error:
            connecting.close()
            raise ToolError(error.strerror) from error
        return connecting

    def _ended(self, patience_seconds: float) -> bool:
        """Whether `qemu-nbd` has let go of its end of the pipe for messages, thus ended."""
        poll = select.poll()
        poll.register(self._said, 0)  # a hang-up is told whatever one asks for
        return bool(poll.poll(patience_seconds * 1000))

    def _end(self, patience_seconds: float) -> None:
        if self._said < 0:
            return
        if patience_seconds:
            self._ended(patience_seconds)
        self._close_pipes()
        # A process that storage holds in the kernel goes when the kernel lets it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shell.wait(STOP_SECONDS_MAX)

    def _close_pipes(self) -> None:
        os.close(self._said)
        os.close(self._alive)
        self._said = self._alive = -1


def start(path: Path, *, writable: bool, bitmap: str = "", yields: bool = False) -> Server:
    """Starts a server; waits a while for an image that somebody has locked. Raises ToolError,
    WatariError.
    """
    return tools.unlocked(lambda: Server(path, writable=writable, bitmap=bitmap, yields=yields))
