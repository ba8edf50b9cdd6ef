"""A manager whose PostgreSQL is away waits for it; one with wrong settings ends and says so."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager import audit, opening
from manager.postgresql import PING_SECONDS
from manager.settings.store import StoreSettings
from manager.store import Store
from tests.conftest import OSAKA, Federation
from tests.support import postgresql, processes
from tests.support.clouds import Cloud
from tests.support.processes import Process
from watari import errors
from watari.clock import SystemClock

WAIT_SECONDS_MAX = 30.0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[postgresql.Server]:
    """A PostgreSQL that a test may stop."""
    with postgresql.server(tmp_path / "postgresql") as server:
        yield server


def opened(settings: StoreSettings, **values: float) -> Store:
    """Opens it as a manager does."""
    return opening.opened(replace(settings, **values), SystemClock(), threading.Event())  # type: ignore[arg-type]


def test_it_waits_for_a_server_that_comes_later(own_server: postgresql.Server) -> None:
    settings = own_server.settings()
    own_server.stop(signal.SIGQUIT)
    later = threading.Timer(2.0, own_server.start)
    began = time.monotonic()
    later.start()
    opened(settings, away_seconds_max=WAIT_SECONDS_MAX).close()
    assert time.monotonic() - began >= 2.0
    later.join()


def test_connections_that_rested_while_the_server_was_started_anew_cost_nobody_a_write(
    own_server: postgresql.Server,
) -> None:
    with closing(opened(own_server.settings())) as store:
        with store.write(), store.read():
            pass  # Two connections, which rest from here on.
        own_server.stop(signal.SIGQUIT)
        own_server.start()
        time.sleep(PING_SECONDS)
        with store.write() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        with store.read() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_writer_that_stands_still_is_ended_by_whoever_waits_and_has_written_nothing(
    own_server: postgresql.Server,
) -> None:
    settings = replace(own_server.settings(), write_wait_seconds_max=0.3, idle_seconds_max=1.0)
    with closing(opened(settings)) as one, closing(opened(settings)) as other:

        def stand_still() -> None:
            with one.write():
                _await(partial(_written, other, "other"), str)

        with pytest.raises(errors.Unavailable):
            stand_still()
        with one.read() as connection:
            assert [entry.actor for entry in audit.page(connection, after=0, limit=9)] == ["other"]


def _written(store: Store, actor: str) -> bool:
    try:
        with store.write() as connection:
            audit.append(connection, 1, actor=actor, action="a", subject="s")
    except errors.Unavailable:
        return False
    return True


def test_it_ends_when_the_server_stays_away_or_it_is_told_to(
    own_server: postgresql.Server,
) -> None:
    settings = own_server.settings()
    own_server.stop()
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match="is away") as caught:
        opened(settings, away_seconds_max=1.5)
    assert 1.5 <= time.monotonic() - began < WAIT_SECONDS_MAX
    assert caught.value.reason == "SERVER_UNAVAILABLE"
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(errors.Cancelled):
        opening.opened(settings, SystemClock(), stopping)


def test_wrong_settings_end_at_once(own_server: postgresql.Server, tmp_path: Path) -> None:
    own_server.sql("CREATE ROLE known LOGIN PASSWORD 'right'")
    rules = tmp_path / "postgresql" / "data" / "pg_hba.conf"
    rules.write_text(
        f"host all {postgresql.SUPERUSER} all trust\n"
        "host all known all scram-sha-256\nhost all unknown all trust\n"
    )
    loaded_at = own_server.sql("SELECT pg_conf_load_time()")
    own_server.sql("SELECT pg_reload_conf()")
    _await(lambda: own_server.sql("SELECT pg_conf_load_time()") != loaded_at, str)
    at = f"127.0.0.1:{own_server.port}"
    cases = {
        f"known@{at}/postgres?sslmode=disable": "password authentication failed",
        f"unknown@{at}/postgres?sslmode=disable": "does not exist",
        f"stranger@{at}/postgres?sslmode=disable": "pg_hba.conf",
        f"{postgresql.SUPERUSER}@{at}/absent?sslmode=disable": "does not exist",
        f"{postgresql.SUPERUSER}@{at}/postgres": "does not support SSL",
        f"{postgresql.SUPERUSER}@{at}/postgres?sslmode=require": "does not support SSL",
        f"{postgresql.SUPERUSER}@{at}/postgres?sslmode=perhaps": "sslmode",
        f"{postgresql.SUPERUSER}@{at}/postgres?nonsense=1": "nonsense",
    }
    for url, problem in cases.items():
        began = time.monotonic()
        with pytest.raises(errors.InvalidArgument, match=problem) as caught:
            opened(StoreSettings(url=f"postgresql://{url}", password="wrong"))  # noqa: S106
        assert caught.value.reason == "CONFIG_INVALID"
        assert "wrong" not in caught.value.message
        assert time.monotonic() - began < WAIT_SECONDS_MAX, url


@pytest.mark.parametrize("away", [False, True], ids=["standing by", "waiting"])
def test_one_that_is_process_1_and_waits_ends_on_sigterm(
    federation: Federation, own_server: postgresql.Server, tmp_path: Path, away: bool
) -> None:
    cloud = Cloud(federation, OSAKA, "osaka", tmp_path / "osaka")
    settings = own_server.settings()
    first = Store(settings)
    cloud.change(store=settings)
    if away:
        first.close()
        own_server.stop()
    else:
        own_server.sql(
            "INSERT INTO leases (name, holder, token, expires_at) VALUES "
            "('manager', 'another', 1, 9000000000000000)",
            settings.url.rpartition("/")[2].partition("?")[0],
        )
    config = cloud.folder / "manager.toml"
    config.write_text(cloud.toml())
    target = processes.target(cloud.port, cloud.manager_id)
    # Like a container's first process, to which the kernel hands no signal without a handler.
    alone = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--")
    process = Process("manager", config, target, federation.party(cloud.manager_id), alone)
    process.launch()
    try:
        said = "waiting for the database" if away else "standing by"
        _await(lambda: said in process.log(), process.log)
        inner = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(inner[0]), signal.SIGTERM)
        assert process.wait(WAIT_SECONDS_MAX) == 0, process.log()
    finally:
        process.end()
        first.close()


def _await(condition: Callable[[], bool], found: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, found()
        time.sleep(0.05)
