"""The last units of capacity, wanted by many while managers are killed; `make race` is longer."""

from pathlib import Path

import pytest

from tests.faults import race

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("database", sorted(race.PROCESSES))
def test_capacity_is_never_promised_twice_and_no_confirmation_is_lost(
    database: str, tmp_path: Path
) -> None:
    found = race.run(database, seconds=15, seed=7, folder=tmp_path)
    assert not found.problems
    assert found.counts["killed while working"] > 0
    assert found.counts["confirmed"] > 0
    assert found.counts["full"] > 0, "there was no race for the last unit"
