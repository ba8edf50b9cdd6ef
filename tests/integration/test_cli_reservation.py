"""A cloud's reservations as its operator sees them, and those that people make in advance."""

import functools
import io
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.conftest import OSAKA, TOKYO, Federation
from tests.support import reservations
from tests.support.clouds import VM, Cloud, assert_one_owner, two_clouds
from tests.support.operators import command_of
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
def pair(federation: Federation, tmp_path: Path) -> Iterator[tuple[Cloud, Cloud]]:
    """tokyo, which has the machine web-1, and osaka."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        yield tokyo, osaka


@pytest.fixture
def osaka(pair: tuple[Cloud, Cloud]) -> Cloud:
    return pair[1]


@pytest.fixture
def run(osaka: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> _Run:
    """What a command of osaka's operator prints."""
    command = command_of(tmp_path / "osaka.toml", capsys, OSAKA, [osaka])
    return functools.partial(command, "reservation")


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


START = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
"""Of what is booked in these tests."""


def _described(begin: datetime, **changes: str) -> list[str]:
    """The options for a machine of tokyo's that takes all CPUs of osaka's host, for an hour."""
    options = {
        "machine": str(uuid.uuid4()),
        "from": "tokyo",
        "to": "osaka",
        "tenant": "acme",
        "vcpus": "8",
        "memory": "1GiB",
        "starts": begin.isoformat(),
        "ends": "+1h",
    } | changes
    return [word for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture
def both(
    pair: tuple[Cloud, Cloud], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Commands of tokyo's operator, at both clouds."""
    return command_of(tmp_path / "tokyo.toml", capsys, TOKYO, pair)


def test_room_is_taken_within_the_time_and_not_outside_of_it(
    both: Callable[..., str], run: _Run
) -> None:
    said = both("reservation", "create", *_described(START))
    assert "must be claimed before" in said
    assert "booked" in said
    refused = both("reservation", "create", *_described(START + timedelta(minutes=30)), code=5)
    assert "comes closest: 8 of vcpus asked, 0 free" in " ".join(refused.split())
    assert "Next: a machine with at most 15.0 GiB" in " ".join(refused.split())
    both("reservation", "create", *_described(START - timedelta(hours=1)))  # Ends where it begins.
    last = json.loads(
        both("reservation", "create", *_described(START + timedelta(hours=1)), "-o", "json")
    )
    assert (last["state"], last["warnings"]) == ("booked", [])
    assert len(json.loads(run("list", "-o", "json"))) == 3
    key = last["reservation_id"]
    assert json.loads(both("reservation", "release", key, "--cloud", "osaka", "-o", "json"))
    both("reservation", "create", *_described(START + timedelta(hours=1)))


def test_repeating_with_the_same_id_reserves_once(both: Callable[..., str], run: _Run) -> None:
    key = str(uuid.uuid4())
    asked = ["web-1", "--to", "osaka", "--id", key, "-o", "json"]
    times = ["--starts", START.isoformat(), "--ends", (START + timedelta(hours=1)).isoformat()]
    first = json.loads(both("reservation", "create", *asked, *times))
    assert json.loads(both("reservation", "create", *asked, *times)) == first
    assert [each["reservation_id"] for each in json.loads(run("list", "-o", "json"))] == [key]
    other = [*times[:3], (START + timedelta(hours=2)).isoformat()]
    assert "ID_REUSED" in both("reservation", "create", *asked, *other, code=4)
    relative = ["--starts", "+2h", "--ends", "+1h"]
    assert "in full" in both("reservation", "create", *asked, *relative, code=2)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"starts": "tomorrow"}, 2, "is no moment"),
        ({"starts": "2027-01-31T09:00"}, 2, "with its offset from UTC"),
        ({"starts": "2020-01-31T09:00Z"}, 2, "is over"),
        ({"ends": "+30d"}, 2, "after starts_at"),
        ({"from": "osaka"}, 4, "name the cloud that the machine is in"),
        ({"resource": "gpu"}, 2, "is no amount"),
        ({"vcpus": "0"}, 2, "vcpus"),
    ],
)
def test_what_is_wrong_says_what_would_be_right(
    both: Callable[..., str], changes: dict[str, str], code: int, said: str
) -> None:
    error = both("reservation", "create", *_described(START, **changes), "-o", "json", code=code)
    shown = json.loads(error)["error"]
    assert said in f"{shown['message']}: {shown['hint']}"
    assert shown["hint"]


def test_a_machine_is_named_or_described_and_not_both(both: Callable[..., str]) -> None:
    assert "describe it" in both("reservation", "create", "web-1", *_described(START), code=2)


def test_a_quote_that_is_shown_must_be_for_what_is_reserved(
    pair: tuple[Cloud, Cloud], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_of(tmp_path / "osaka.toml", capsys, OSAKA, pair)
    file, amounts = str(tmp_path / "quote.json"), ["--vcpus", "8", "--memory", "1GiB"]
    command("quote", "--to", "osaka", "--tenant", "acme", *amounts, "--out", file)
    quoted = ["--quote", file, "--domain", OSAKA, "-o", "json"]
    other = command("reservation", "create", *_described(START, vcpus="7"), *quoted, code=4)
    assert json.loads(other)["error"]["reason"] == "QUOTE_INVALID"
    made = json.loads(command("reservation", "create", *_described(START), *quoted))
    assert made["price_version"] == 1


def test_a_migration_claims_what_was_reserved_once_its_time_has_come(
    pair: tuple[Cloud, Cloud], both: Callable[..., str]
) -> None:
    tokyo, osaka = pair
    times = ["--starts", START.isoformat(), "--ends", "+1h", "-o", "json"]
    made = json.loads(both("reservation", "create", "web-1", "--to", "osaka", *times))
    key = made["reservation_id"]
    migrate = ["migrate", "web-1", "--to", "osaka", "--reservation", key]
    early = json.loads(both(*migrate, "-o", "json", code=1))
    assert early["error"]["reason"] == "RESERVATION_STATE"
    with osaka.database() as connection:  # Its time has come.
        connection.execute("UPDATE reservations SET starts_at = 1 WHERE state = 'BOOKED'")
    moved = json.loads(both(*migrate, "-o", "json"))
    assert (moved["state"], moved["reservation_id"]) == ("succeeded", key)
    assert_one_owner(VM, osaka, tokyo)
    (row,) = osaka.list_reservations()
    assert row.state == manager_pb2.RESERVATION_STATE_USED
    assert row.requested_by == tokyo.manager_id
