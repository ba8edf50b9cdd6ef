"""The keys of scopes: stable on a host, different between hosts and tenants, secret."""

import stat
from pathlib import Path

import pytest

from agent.seeds.scopes import SECRET_FILE, Scopes
from watari import errors

SCOPE = "alpha.example/tenant-1"


def test_a_scope_keeps_its_key_over_restarts(tmp_path: Path) -> None:
    first = Scopes(tmp_path / "seeds").digest_key(SCOPE)
    assert len(first) == 32
    assert Scopes(tmp_path / "seeds").digest_key(SCOPE) == first


def test_two_scopes_and_two_hosts_have_different_keys(tmp_path: Path) -> None:
    here, there = Scopes(tmp_path / "here"), Scopes(tmp_path / "there")
    keys = {
        here.digest_key(SCOPE),
        here.digest_key("alpha.example/tenant-2"),
        there.digest_key(SCOPE),
    }
    assert len(keys) == 3


def test_nobody_else_may_read_the_secret(tmp_path: Path) -> None:
    Scopes(tmp_path / "seeds")
    assert stat.S_IMODE((tmp_path / "seeds").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "seeds" / SECRET_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    Scopes(tmp_path)
    (tmp_path / SECRET_FILE).chmod(mode)
    with pytest.raises(errors.FailedPrecondition) as refused:
        Scopes(tmp_path)
    assert refused.value.reason == "CONFIG_INVALID"
    assert refused.value.hint


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_secret_that_is_not_whole_is_refused(tmp_path: Path, content: bytes) -> None:
    Scopes(tmp_path)
    (tmp_path / SECRET_FILE).write_bytes(content)
    with pytest.raises(errors.FailedPrecondition) as refused:
        Scopes(tmp_path)
    assert refused.value.reason == "CONFIG_INVALID"


def test_a_link_in_the_place_of_the_secret_is_refused(tmp_path: Path) -> None:
    Scopes(tmp_path / "other")
    (tmp_path / SECRET_FILE).symlink_to(tmp_path / "other" / SECRET_FILE)
    with pytest.raises(errors.FailedPrecondition):
        Scopes(tmp_path)


def test_a_scope_without_a_name_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        Scopes(tmp_path).digest_key("")
    assert refused.value.reason == "INVALID_FIELD"
