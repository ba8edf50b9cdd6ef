"""New databases of a manager, with its tables in them.

Making the tables takes a hundred times as long as copying them, and nearly every test of a manager
needs a database of its own: they are made once for each process. What is about making them
(tests/contract/test_manager_schema.py and others) opens a path where nothing is.
"""

import functools
import tempfile
from pathlib import Path

from manager.settings.store import StoreSettings
from manager.store import Store


def sqlite(path: Path) -> StoreSettings:
    """A new database at this path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(_made())
    return StoreSettings(path=path)


@functools.cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory(prefix="watari-test-") as folder:
        path = Path(folder) / "made.sqlite"
        Store(StoreSettings(path=path)).close()
        assert not path.with_name(f"{path.name}-wal").exists(), "all of it is in the one file"
        return path.read_bytes()
