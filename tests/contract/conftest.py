"""Every store of the directory, to be held to one contract (directory/stores/__init__.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from directory.stores import DirectoryStore, Limits
from directory.stores.embedded import EmbeddedStore
from tests.support.directory_stores import Rig
from watari.clock import FakeClock


@pytest.fixture(params=["embedded"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store of each kind: a new kind is added to `params` and to `openers`."""
    openers: dict[str, Callable[[Limits, FakeClock], DirectoryStore]] = {
        "embedded": lambda limits, clock: EmbeddedStore(tmp_path / "directory.db", limits, clock)
    }
    rig = Rig(openers[request.param])
    yield rig
    rig.store.close()
