"""The journal of one arriving disk: which leaves are on stable storage, and with which digest.

```
byte   0        32       64
       | leaf 0 | leaf 1 | ...        32 bytes each; all zero: nothing is known of this leaf
```

The order is what makes it right: content first, then `fdatasync` of the disk, then the digests,
then `fdatasync` of the journal, then the acknowledgement; and before a recorded leaf is written
over, its entry is cleared and synced. So an entry that equals a digest proves that just this
content was stable. An entry that was torn by a crash equals no digest. Holes have no entry: a disk
holds zeros wherever nothing is recorded (`Target` sees to that when it resumes).

The file is sparse, and nothing of it is held in memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from agent.disks import raw
from agent.transfer.geometry import DIGEST_BYTES

_NONE = bytes(DIGEST_BYTES)
_SCAN_BYTES = 1 << 20


class Journal:
    """Digests by leaf number. Different leaves may be used from different threads."""

    def __init__(self, path: Path, leaves: int, *, keep: bool) -> None:
        self._path = path
        self._leaves = leaves
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            if not keep:
                path.unlink(missing_ok=True)
            self._descriptor = os.open(path, flags, 0o600)
            os.ftruncate(self._descriptor, leaves * DIGEST_BYTES)
        except OSError as error:
            raise raw.disk_error(error, path) from error

    def record(self, leaf: int, digests: bytes) -> None:
        """Writes the digests of consecutive leaves; `sync` makes them count."""
        try:
            written = 0
            while written < len(digests):  # a disk that is nearly full takes a part
                at = leaf * DIGEST_BYTES + written
                written += os.pwrite(self._descriptor, digests[written:], at)
        except OSError as error:
            raise raw.disk_error(error, self._path) from error

    def read(self, leaf: int, count: int) -> list[bytes | None]:
        """The digests of consecutive leaves, None where nothing is known."""
        found = self._read(leaf, count)
        if found.count(0) == len(found):
            return [None] * count
        entries = (found[at : at + DIGEST_BYTES] for at in range(0, len(found), DIGEST_BYTES))
        return [None if each == _NONE else each for each in entries]

    def clear(self, leaf: int, count: int) -> None:
        """Forgets leaves, at once and durably: what is written over them next may be torn."""
        self.record(leaf, _NONE * count)
        self.sync()

    def sync(self) -> None:
        """Returns once everything recorded is on stable storage."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise raw.disk_error(error, self._path) from error

    def unknown(self) -> Iterator[tuple[int, int]]:
        """(first, end) of the runs of leaves that nothing is known of, in order."""
        start: int | None = None
        per_read = _SCAN_BYTES // DIGEST_BYTES
        for at in range(0, self._leaves, per_read):
            count = min(per_read, self._leaves - at)
            if start is not None and not any(self._read(at, count)):
                continue  # a hole of any size, without a look at each entry
            for leaf, entry in enumerate(self.read(at, count), at):
                if entry is None:
                    start = leaf if start is None else start
                elif start is not None:
                    yield start, leaf
                    start = None
        if start is not None:
            yield start, self._leaves

    def _read(self, leaf: int, count: int) -> bytes:
        try:
            return os.pread(self._descriptor, count * DIGEST_BYTES, leaf * DIGEST_BYTES)
        except OSError as error:
            raise raw.disk_error(error, self._path) from error

    def close(self) -> None:
        """Closes the file; nothing is synced."""
        os.close(self._descriptor)
