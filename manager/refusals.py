"""Refused calls in the audit log: told without waiting, and few however many there are.

Refusing costs a peer nothing, so that it must cost us next to nothing: the thread that answers only
leaves a note in memory; a thread of our own writes the notes down at intervals, together. Of what
one peer is refused for one reason, the first few within a window have entries of their own, the
rest one entry that counts them; peers beyond a number share one count. A crash loses the notes of
one interval.
"""

import math
import threading
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from manager import audit
from manager.store import Store, micros
from watari import errors, logs
from watari.clock import Clock

WINDOW_SECONDS = 60.0
"""Refusals of a peer for a reason are counted together for this long."""

NOTED_PER_WINDOW_MAX = 2
"""Entries of their own that a peer's refusals for one reason get in a window."""

KEYS_MAX = 64
"""Pairs of peer and reason that are told apart in a window; all others are counted as one. A
provider can issue certificates for any number of names."""

OTHERS = "others"
"""Who was refused, in the entry that counts those beyond KEYS_MAX."""

WRITE_SECONDS = 1.0
"""Between two times that notes are written down: what a crash may lose."""

NOTES_MAX = 1000
"""Notes that wait in memory while the database cannot be written to; later ones are lost."""

ACTION = "call.refused"

_log = logs.get(__name__)


@dataclass
class _Window:
    """What one peer was refused for one reason, since a moment."""

    until: float
    calls: int = 0
    method: str = ""
    """What was called last."""


@dataclass(frozen=True)
class _Note:
    """An entry that is to be written."""

    now: int
    peer: str
    method: str
    details: dict[str, object]


def _proved(error: errors.WatariError) -> dict[str, object]:
    """Whose certificate it was, where it is known and good for nothing."""
    if error.reason != "CERTIFICATE_DENIED" or "party" not in error.metadata:
        return {}
    return {"party": error.metadata["party"]}


class Refusals:
    """Connect `on_refusal` to the server; call `write` every WRITE_SECONDS, `close` at the end."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], _Window] = {}
        self._notes: list[_Note] = []

    def on_refusal(self, method: str, peer: str, error: errors.WatariError) -> None:
        """Take note of a refused call; at once."""
        key = (peer, error.reason)
        with self._lock:
            if key not in self._windows and len(self._windows) >= KEYS_MAX:
                key = (OTHERS, "")
            window = self._windows.get(key)
            if window is None:
                until = self._clock.monotonic() + WINDOW_SECONDS
                window = self._windows[key] = _Window(until)
            window.calls += 1
            window.method = method
            if window.calls <= NOTED_PER_WINDOW_MAX:
                self._note(peer, method, {"reason": error.reason} | _proved(error))

    def write(self) -> None:
        """Write down what was noted, and the counts of windows that are over.

        Raises what the database raises; the next time writes what this one did not.
        """
        self._write_until(self._clock.monotonic())

    def close(self) -> None:
        """Write down everything, also of windows that are open."""
        try:
            self._write_until(math.inf)
        except errors.WatariError as error:
            _log.error("refused calls are not in the audit log", reason=error.reason)

    def _write_until(self, now: float) -> None:
        with self._lock:
            for key, window in list(self._windows.items()):
                if window.until <= now:
                    del self._windows[key]
                    self._count(*key, window)
            notes, self._notes = self._notes, []
        if not notes:
            return
        try:
            with self._store.write() as connection:
                for note in notes:
                    self._append(connection, note)
        except Exception:
            with self._lock:
                self._notes = (notes + self._notes)[:NOTES_MAX]
            raise

    def _count(self, peer: str, reason: str, window: _Window) -> None:
        left_out = window.calls - NOTED_PER_WINDOW_MAX
        if left_out > 0:
            seconds = f"{WINDOW_SECONDS:.0f}"
            told = {"count": left_out, "reason": reason, "within_seconds": seconds}
            self._note(peer, window.method, told)

    def _note(self, peer: str, method: str, details: dict[str, object]) -> None:
        if len(self._notes) < NOTES_MAX:
            self._notes.append(_Note(micros(self._clock.now()), peer, method, details))

    @staticmethod
    def _append(connection: Connection, note: _Note) -> None:
        audit.append(
            connection,
            note.now,
            actor=note.peer,
            action=ACTION,
            subject=note.method,
            outcome=audit.REFUSED,
            details=note.details,
        )
