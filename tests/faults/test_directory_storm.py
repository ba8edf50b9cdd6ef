"""A directory on etcd in a storm: nothing is lost, missed, repeated or invented."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.storm.weather import COMPACTED

pytestmark = [pytest.mark.alone, pytest.mark.timeout(300)]

SECONDS = 20
RUN_SECONDS_MAX = 240.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_watchers_and_listings_agree_after_a_storm_and_nothing_acknowledged_is_lost(
    seed: int,
) -> None:
    found = storm("--seed", seed, "--seconds", SECONDS)
    assert found["wrong"] == []
    assert sum(found["faults"].values()) >= 3
    assert found["acknowledged"] > 100
    assert all(changes > found["acknowledged"] for changes in found["changes_watched"])
    too_slow = found["refusals"].get("WATCHER_TOO_SLOW", 0)
    begun_anew = found["faults"].get(COMPACTED, 0) + too_slow
    assert all(listings <= 1 + begun_anew for listings in found["listings"])


def storm(*arguments: object) -> dict[str, Any]:
    """Runs one in a network namespace of its own; what it tells."""
    options = [str(each) for each in arguments]
    command = ["unshare", "--net", "--", sys.executable, "-m", "tests.storm", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
    )
    assert done.stdout, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
