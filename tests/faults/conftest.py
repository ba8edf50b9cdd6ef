"""Two clouds whose managers are cut off."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Federation
from tests.faults.cut_off import VM, Clouds
from tests.support.clouds import two_clouds


@pytest.fixture
def clouds(federation: Federation, tmp_path: Path) -> Iterator[Clouds]:
    """tokyo with the machine web-1, which runs, and osaka; their agents run, their managers not."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1", running=True)
        yield tokyo, osaka
