"""Hooks that are due: noted before the step that they follow, gone once they have run.

A step that was done just before its agent was killed is repeated, and finds nothing to do any more.
What is noted here is run all the same.

```
FOLDER/<migration id>.<stage>.json    what the hooks are to be told
```
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from agent import files
from agent.hooks.stages import Stage
from agent.hooks.telling import Document


class Due:
    """What is due on this host. May be used from any thread."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when something is noted."""
        self._folder = folder
        self._lock = threading.Lock()
        self._taken: set[Path] = set()

    def note(self, stage: Stage, document: Document) -> None:
        """Durable when it returns."""
        files.ensure_folder(self._folder)
        files.write_bytes(self._path(stage, document.migration_id), document.to_json(stage))

    @contextlib.contextmanager
    def taken(self, stage: Stage, migration_id: str) -> Iterator[Document | None]:
        """What is due; it is not any more when the block ends. None where nothing is, or another
        call has taken it.
        """
        path = self._path(stage, migration_id)
        with self._lock:
            found = Document.read(path.read_bytes()) if path.is_file() else None
            if path in self._taken or found is None:
                found = None
            else:
                self._taken.add(path)
        if found is None:
            yield None
            return
        try:
            yield found
            files.remove(path)
        finally:
            with self._lock:
                self._taken.discard(path)

    def drop(self, stage: Stage, migration_id: str) -> None:
        """It is not due any more, if it was."""
        path = self._path(stage, migration_id)
        if path.is_file():
            files.remove(path)

    def _path(self, stage: Stage, migration_id: str) -> Path:
        return self._folder / f"{migration_id}.{stage}.json"
