"""The bench of a directory with a full catalogue, with a small one."""

import json

from bench import directory
from bench.directory import Size


def test_every_change_arrives_and_everything_is_loaded() -> None:
    found = directory.run(Size(5, 50, changes_per_second=20, seconds=2, loads=1))
    delays = found["change_to_watcher"]
    assert delays["changes"] == 40
    assert delays["missed"] == 0
    assert 0 < delays["p50_seconds"] <= delays["p99_seconds"] <= 2 * delays["max_seconds"]
    assert len(found["load_seconds"]) == 1
    assert all(size > 1 << 20 for size in found["peak_rss_bytes"].values())
    assert "5 clouds, 50 offers" in directory.text(found)
    json.dumps(found)
