"""directory.settings: defaults hold together, and what does not is refused."""

from pathlib import Path

import pytest

from directory.settings import Settings
from watari import config, configshow, errors

IDENTITY = """
[directory]
address = "127.0.0.1:0"
state_path = "state/directory.db"
{}
[directory.identity]
certificate = "cert.pem"
key = "key.pem"
trust = "trust"
"""


def load(folder: Path, line: str = "") -> Settings:
    path = folder / "directory.toml"
    path.write_text(IDENTITY.format(line))
    return config.load(Settings, path, {}, "directory")


def test_a_minimal_file_is_enough_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.state_path == tmp_path / "state" / "directory.db"
    assert settings.limits().changes_kept_max == 100_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("watchers_max = 32", "must be less than rpc.workers_max"),
        ("lease_ttl_seconds_min = 60\nlease_ttl_seconds_max = 30", "lease_ttl_seconds_min is more"),
        ("lease_ttl_seconds_min = 4", "out of bounds"),
        ("lease_ttl_seconds_max = 3601", "out of bounds"),
        ("changes_kept_max = 999", "out of bounds"),
        ("watcher_max = 3", "did you mean 'watchers_max'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=said) as caught:
        load(tmp_path, line)
    assert caught.value.reason == "CONFIG_INVALID"


def test_every_setting_is_shown_with_its_reason(tmp_path: Path) -> None:
    shown = configshow.show(load(tmp_path), "directory")
    assert "# How long a stale record is kept" in shown
    assert "changes_kept_max = 100000" in shown
