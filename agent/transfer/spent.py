"""Grants that have served their purpose: remembered until they expire, whatever becomes of the
machine meanwhile.

A machine that was activated may move on or be deleted while the grant that brought it is still
valid. Without this record the same grant would bring it again.
"""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import files
from watari import clock, errors

SPENT_MAX = 4096
"""Arrivals within the validity of a grant; a host with more takes no machine until some expire."""


@dataclass(frozen=True)
class Use:
    """What a grant brought here."""

    vm_id: str
    epoch: int
    """That of the machine since then."""
    expires_at_seconds: float
    """When the grant expires, POSIX time."""


class Spent:
    """The record, in one small file. May be used from any thread."""

    def __init__(self, path: Path, time: clock.Clock) -> None:
        self._path = path
        self._clock = time
        self._lock = threading.Lock()
        self._uses = _read(path)

    def __contains__(self, migration_id: str) -> bool:
        """Whether a migration has brought its machine here."""
        return migration_id in self._uses

    def add(self, migration_id: str, use: Use) -> None:
        """Remembers a use, durably; to be called before it becomes true. Raises WatariError."""
        with self._lock:
            self._write({**self._uses, migration_id: use})

    def epoch(self, vm_id: str) -> int:
        """The last epoch at which a machine came here, as far as it is remembered; else 0."""
        return max(
            (use.epoch for use in list(self._uses.values()) if use.vm_id == vm_id), default=0
        )

    def require_room(self) -> None:
        """Raises Exhausted TOO_MANY_TRANSFERS when no further use could be remembered."""
        if len(self._uses) >= SPENT_MAX:
            raise errors.Exhausted(
                "TOO_MANY_TRANSFERS",
                f"{SPENT_MAX} machines have arrived here under grants that are still valid",
                hint="try again when some have expired; shorten grant_ttl_seconds of the manager",
                retryable=True,
            )

    def forget(self) -> None:
        """Forgets what cannot be used again because it has expired. Raises WatariError."""
        now = self._clock.now().timestamp()
        with self._lock:
            valid = {name: use for name, use in self._uses.items() if use.expires_at_seconds > now}
            if len(valid) < len(self._uses):
                self._write(valid)

    def _write(self, uses: dict[str, Use]) -> None:
        files.write_json(self._path, {name: asdict(use) for name, use in uses.items()})
        self._uses = uses


def _read(path: Path) -> dict[str, Use]:
    if not path.exists():
        return {}
    return {name: Use(**use) for name, use in json.loads(path.read_bytes()).items()}
