"""A cloud's reservations as its operator sees them, of one that another cloud made in advance."""

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.conftest import OSAKA, Federation
from tests.support import reservations
from tests.support.clouds import Cloud, two_clouds
from watari.cli import main
from watari.rpc import client
from watari.v1 import manager_pb2

_Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture
def osaka(federation: Federation, tmp_path: Path) -> Iterator[Cloud]:
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.start()
        osaka.start()
        yield osaka


@pytest.fixture
def run(osaka: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> _Run:
    """What a command of osaka's operator prints."""
    operator = f"spiffe://{OSAKA}/operator/main"
    osaka.federation.party(operator)
    keys = osaka.federation.folder_of(operator)
    own = (
        f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
        f'trust = "{keys / "trust"}"\n'
    )
    config = tmp_path / "client.toml"
    config.write_text(
        f"[client.identity]\n{own}[client.clouds.osaka.identity]\n{own}"
        f'[client.clouds.osaka.manager]\naddress = "{osaka.endpoint.address}"\n'
        f'spiffe_id = "{osaka.endpoint.spiffe_id}"\n'
    )

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main.main(["reservation", *arguments, "--config", str(config)]) == code
        return capsys.readouterr().out

    return run


def test_an_operator_sees_what_is_booked_and_gives_it_back(osaka: Cloud, run: _Run) -> None:
    assert "Nothing is reserved." in run("list")
    asked = reservations.request()
    starts = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    asked.starts_at.FromDatetime(starts)
    asked.ends_at.FromDatetime(starts + timedelta(hours=1))
    made = client.call(osaka.reservations(str(reservations.TOKYO)).Reserve, asked)
    assert made.reservation.state == manager_pb2.RESERVATION_STATE_BOOKED
    (row,) = json.loads(run("list", "-o", "json"))
    assert (row["reservation_id"], row["state"]) == (asked.reservation_id, "booked")
    assert datetime.fromisoformat(row["starts_at"]) == starts
    assert "booked" in run("show", asked.reservation_id)
    assert json.loads(run("release", asked.reservation_id, "-o", "json"))["state"] == "released"
    assert "Nothing is reserved." in run("list")
    (row,) = json.loads(run("list", "--all", "-o", "json"))
    assert row["state"] == "released"
