"""Relays of TCP on loopback, one for each pair of processes, that can be cut like a cable.

While one is cut nothing passes and nobody is told: connections stay, bytes wait, new connections
are taken and hear nothing. That is what a network that drops everything looks like to both ends.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16
CONNECT_SECONDS_MAX = 5.0
_WAIT_SECONDS = 0.2


@dataclass
class Relay:
    """Forwards what comes to `port` of loopback to `target_port`."""

    target_port: int
    port: int
    _whole: threading.Event = field(default_factory=threading.Event)
    _pairs: list[tuple[socket.socket, socket.socket | None]] = field(default_factory=list)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._whole.set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._listen, name="relay", daemon=True).start()

    def cut(self) -> None:
        """Nothing passes any more."""
        self._whole.clear()

    def heal(self) -> None:
        """What waits passes, and all that comes after it."""
        self._whole.set()

    def drop(self) -> None:
        """Ends every connection, as a network does that comes back after long."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                if end is not None:
                    _end(end)

    def close(self) -> None:
        """Takes no more connections, and ends those that there are."""
        self._closed = True
        self._listener.close()
        self.heal()
        self.drop()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        while not self._whole.wait(_WAIT_SECONDS):
            pass
        try:
            target = ("127.0.0.1", self.target_port)
            far = socket.create_connection(target, CONNECT_SECONDS_MAX)
        except OSError:
            _end(near)
            return
        far.settimeout(None)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.append((near, far))
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                while not self._whole.wait(_WAIT_SECONDS):
                    pass
                sink.sendall(data)
        while not self._whole.wait(_WAIT_SECONDS):
            pass  # an end is news too
        _end(source)
        _end(sink)
        with self._lock:
            self._pairs = [pair for pair in self._pairs if source not in pair]


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
