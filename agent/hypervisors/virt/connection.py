"""One connection to libvirtd: opened when it is needed, and again after libvirtd was away."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from agent.hypervisors.virt import faults
from watari import logs

KEEPALIVE_SECONDS = 5
KEEPALIVE_LOST_MAX = 6
"""A libvirtd that is silent for this many keep-alives is given up."""

OPEN_SECONDS_MAX = 5.0
"""How long a call waits for a libvirtd that is being restarted."""

REOPEN_SECONDS, REOPEN_SECONDS_MAX = 0.05, 1.0
"""First and longest wait between two tries to open."""

LOOK_SECONDS = 5.0
"""Events tell of changes; this often a waiter looks all the same, should one be lost."""

JOB_LOOK_SECONDS = 0.02
"""The same for what libvirt does with a machine, of whose end no event tells."""

_log = logs.get(__name__)
_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


class Connection:
    """Safe for several threads. What libvirt refuses inside `asked` is raised as `faults` says."""

    def __init__(self, uri: str) -> None:
        """Opens nothing yet: an agent starts without libvirtd."""
        self.uri = uri
        self._lock = threading.Lock()
        self._open: Any = None
        self._closed = False
        self._changed = threading.Condition()
        self._changes = 0
        self.on_lifecycle: Callable[[str, int, int], None] = lambda *_: None
        """Told of a domain, and of libvirt's numbers of event and detail, in its own thread."""
        _start_loop()

    @contextlib.contextmanager
    def asked(self, what: str, vm_id: str = "") -> Iterator[Any]:
        """Yields the `virConnect`; `what` says in messages what failed. Raises Unavailable
        HYPERVISOR_UNAVAILABLE, NotFound VM_NOT_FOUND, FailedPrecondition VM_LIFECYCLE_FAILED.
        """
        opened = self._opened()
        try:
            yield opened
        except libvirt.libvirtError as error:
            if not _alive(opened):
                self._drop(opened)
                raise faults.unavailable(self.uri, faults.text(error)) from error
            raise faults.mapped(error, what, vm_id) from error

    def wait_until(
        self, done: Callable[[], bool], seconds_max: float, look_seconds: float = LOOK_SECONDS
    ) -> bool:
        """Asks again after each change of a machine's life, and every `look_seconds`; tells whether
        it came to be in time.
        """
        deadline = time.monotonic() + seconds_max
        while True:
            with self._changed:
                seen = self._changes
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                if seen == self._changes:
                    self._changed.wait(min(left, look_seconds))

    def close(self) -> None:
        """Lets libvirtd go; calls afterwards fail."""
        with self._lock:
            self._closed = True
            opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(libvirt.libvirtError):
                opened.unregisterCloseCallback()
            with contextlib.suppress(libvirt.libvirtError):
                opened.close()

    def _opened(self) -> Any:
        with self._lock:
            if self._open is not None and _alive(self._open):
                return self._open
            self._open = None
            deadline, pause = time.monotonic() + OPEN_SECONDS_MAX, REOPEN_SECONDS
            while True:
                if self._closed:
                    raise faults.unavailable(self.uri, "the agent is stopping")
                try:
                    self._open = self._connect()
                except libvirt.libvirtError as error:
                    if time.monotonic() + pause > deadline:
                        raise faults.unavailable(self.uri, faults.text(error)) from error
                else:
                    return self._open
                time.sleep(pause)
                pause = min(2 * pause, REOPEN_SECONDS_MAX)

    def _connect(self) -> Any:
        opened = libvirt.open(self.uri)
        with contextlib.suppress(libvirt.libvirtError):  # one without a daemon has none
            opened.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_LOST_MAX)
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        opened.domainEventRegisterAny(None, kind, self._on_lifecycle, None)
        with contextlib.suppress(libvirt.libvirtError):
            opened.registerCloseCallback(self._on_close, None)
        return opened

    def _drop(self, opened: Any) -> None:
        with self._lock:
            if self._open is opened:
                self._open = None

    def _on_lifecycle(
        self, _opened: Any, domain: Any, event: int, detail: int, _opaque: object
    ) -> None:
        self.on_lifecycle(domain.UUIDString(), event, detail)
        self._on_change()

    def _on_change(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def _on_close(self, opened: Any, reason: int, _opaque: object) -> None:
        _log.warning("libvirtd is gone", uri=self.uri, reason=reason)
        self._drop(opened)
        self._on_change()


def _alive(opened: Any) -> bool:
    try:
        return bool(opened.isAlive())
    except libvirt.libvirtError:
        return False


def _start_loop() -> None:
    """Events and keep-alives need libvirt's loop: one a process, before anything is opened."""
    global _loop  # noqa: PLW0603
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(lambda *_: None, None)  # it writes to stderr otherwise
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
            _loop.start()


def _run_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.warning("libvirt's event loop failed", error=faults.text(error))
            time.sleep(REOPEN_SECONDS_MAX)
