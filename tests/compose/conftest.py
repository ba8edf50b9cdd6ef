"""One federation in containers for all tests: building and starting it takes minutes."""

import os
from collections.abc import Iterator

import pytest

from tests.support import containers
from tests.support.containers import Containers


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """It runs, and all of it is well."""
    assert os.geteuid() == 0, "run it as root: make compose-test"
    with containers.federation(tmp_path_factory.mktemp("containers")) as found:
        yield found
