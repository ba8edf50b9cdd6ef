"""How the manager is told of a PostgreSQL, and what it never shows."""

from pathlib import Path

import pytest

from manager.postgresql import PostgresqlDatabase
from manager.settings.store import StoreSettings
from watari import errors


def opened(url: str, **values: object) -> PostgresqlDatabase:
    """Nothing is connected to yet."""
    return PostgresqlDatabase(StoreSettings(url=url, **values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://watari@db.example/watari", "verify-full"),
        ("postgresql://watari@db.example/watari?sslmode=verify-ca", "verify-ca"),
        ("postgresql://watari@/watari?host=db.example", "verify-full"),
        ("postgresql://watari@/watari?host=/run/postgresql", None),
        ("postgresql:///watari", None),
    ],
)
def test_a_host_over_the_network_must_prove_who_it_is(url: str, mode: str | None) -> None:
    assert opened(url).engine.url.query.get("sslmode") == mode


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://watari:secret@db.example/watari", "has a password"),
        ("postgresql://watari@db.example", "names no database"),
        ("mysql://watari@db.example/watari", "mysql: is not known"),
        ("db.example", "is no url"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str, problem: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=problem) as caught:
        opened(url)
    assert caught.value.reason == "CONFIG_INVALID"
    assert "secret" not in str(caught.value)


def test_the_password_comes_from_a_file_of_the_owner_only_and_is_never_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "password"
    secret = "hidden"  # noqa: S105
    file.write_text(f"{secret}\n")
    url = "postgresql://watari@db.example/watari"
    file.chmod(0o644)
    with pytest.raises(errors.InvalidArgument, match="others may read"):
        opened(url, password_file=file)
    file.chmod(0o600)
    for database in (opened(url, password_file=file), opened(url, password=secret)):
        assert database.engine.url.password == secret
        assert secret not in database.name + repr(database.engine)
    with pytest.raises(errors.InvalidArgument, match="cannot be read"):
        opened(url, password_file=tmp_path / "absent")
