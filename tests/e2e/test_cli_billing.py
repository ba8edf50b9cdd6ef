"""Money between two real providers by the command line, for a month that is over.

No test waits for a month to end: what the two managers recorded of a real migration is moved back
into last month in their tables, with both managers stopped, as if it had happened then.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.clouds import eventually
from tests.support.command_line import CommandLine
from watari.cli.exits import Exit
from watari.v1 import manager_pb2

CLOUDS = ("tokyo", "osaka")
FAST = {
    "WATARI_MANAGER_ACCOUNTS__BOOK_SECONDS": "0.5",
    "WATARI_MANAGER_ACCOUNTS__CLOSE_SECONDS": "0",
}
"""Managers that close a month as soon as it is over."""


@pytest.fixture
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A federation of its own, whose database is touched."""
    command_line = CommandLine(tmp_path_factory.mktemp("billing") / "federation", FAST)
    command_line.run("up")
    yield command_line
    command_line.run("down")


def to_last_month(database: Path, offset: timedelta) -> None:
    """Everything that was recorded happened so much earlier, and is not booked yet."""
    connection = sqlite3.connect(database)
    with connection:
        for sequence, told in connection.execute(
            "SELECT sequence, record FROM usage_records"
        ).fetchall():
            record = manager_pb2.UsageRecord.FromString(told)
            record.occurred_at.FromDatetime(record.occurred_at.ToDatetime() - offset)
            connection.execute(
                "UPDATE usage_records SET record = ? WHERE sequence = ?",
                (record.SerializeToString(), sequence),
            )
        for position, told in connection.execute(
            "SELECT position, event FROM usage_events"
        ).fetchall():
            event = manager_pb2.UsageEvent.FromString(told)
            moment = event.event.occurred_at
            moment.FromDatetime(moment.ToDatetime() - offset)
            connection.execute(
                "UPDATE usage_events SET event = ? WHERE position = ?",
                (event.SerializeToString(), position),
            )
        for table in ("book_months", "book_runs", "book_totals"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608
    connection.close()


def dispute_what_osaka_charges(watari: CommandLine, month: tuple[str, str]) -> None:
    """tokyo disputes a charge of osaka; both statements show it, open and then upheld."""

    def payable() -> dict[str, Any]:
        """What tokyo owes osaka, as both read it."""
        ours = watari.json("settlement", "show", "osaka", *month, "--cloud", "tokyo")
        theirs = watari.json("settlement", "show", "tokyo", *month, "--cloud", "osaka")
        assert ours["payable"] == theirs["receivable"]
        found: dict[str, Any] = ours["payable"]
        return found

    before = payable()
    assert {row["price_version"] for row in before["charges"]} == {1}
    charge = next(row for row in before["charges"] if row["description"].startswith("disk"))
    words = ("settlement", "dispute", "osaka", charge["charge_id"], "--reason", "it was away")
    made = watari.json(*words, "--cloud", "tokyo")
    again = watari.json(*words, "--id", made["dispute_id"], "--cloud", "tokyo")
    assert made == again
    assert (made["state"], made["amount"], made["payer"]) == (
        "open",
        charge["billed"],
        "peer:tokyo.internal",
    )
    disputed = payable()
    assert [row["dispute_id"] for row in disputed["opened"]] == [made["dispute_id"]]
    assert [row["charge_id"] for row in disputed["disputes"]] == [charge["charge_id"]]
    assert disputed["agreed"] != before["agreed"]
    refused = watari.run(
        *words, "--cloud", "tokyo", "-o", "json", code=Exit.REFUSED
    )  # Nothing is left of the charge.
    assert refused.error["reason"] == "DISPUTE_EXCEEDS_CHARGE"
    assert "watari settlement show osaka" in refused.error["hint"]
    decision = ("--uphold", "--reason", "so it was", "--cloud", "osaka")
    watari.run("dispute", "decide", made["dispute_id"], *decision)
    upheld = payable()
    assert [row["state"] for row in upheld["opened"]] == ["upheld"]
    assert upheld["agreed"] == disputed["agreed"]


def test_a_machine_that_moved_last_month_is_billed_by_both_and_settled(
    watari: CommandLine, disk: Path
) -> None:
    for name in ("one", "two"):
        watari.run("vm", "import", "--cloud", "tokyo", "--name", name, "--image", str(disk))
    watari.run("migrate", "one", "--to", "osaka")
    eventually(lambda: len(watari.json("usage", "--events")) >= 4, "hosts told of both machines")
    refused = watari.run(
        *("invoice", "issue", "--month", f"{datetime.now(UTC):%Y-%m}", "--cloud", "tokyo"),
        *("-o", "json"),
        code=Exit.REFUSED,
    )
    assert refused.error["reason"] == "PERIOD_OPEN"
    watari.run("down")
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    moved = (first - timedelta(days=1)).replace(day=11)
    for cloud in CLOUDS:
        (database,) = watari.state.glob(f"data/{cloud}*/**/manager.sqlite")
        to_last_month(database, datetime.now(UTC) - moved)
    watari.run("up")

    month = ("--month", f"{moved:%Y-%m}")
    for cloud in CLOUDS:

        def issued(cloud: str = cloud) -> bool:
            return watari.run("invoice", "issue", *month, "--cloud", cloud, code=None).code == 0

        eventually(issued, f"{cloud} has closed {moved:%Y-%m}, and issues it")
    (own,) = watari.json("invoice", "list", "--cloud", "tokyo")
    (theirs,) = watari.json("invoice", "list", "--cloud", "osaka")
    assert (own["payer"], theirs["payer"]) == ("tenant:default", "peer:tokyo.internal")
    components = {
        line["component"] for line in watari.json("invoice", "show", theirs["number"])["lines"]
    }
    assert "disk" in components
    text = watari.run("invoice", "export", own["number"], "--format", "csv").out
    assert text.startswith("invoice,kind,")
    ours = watari.json("settlement", "show", "osaka", *month, "--cloud", "tokyo")
    other = watari.json("settlement", "show", "tokyo", *month, "--cloud", "osaka")
    assert ours["statement_id"] == other["statement_id"]
    assert (ours["payable"], ours["receivable"]) == (other["receivable"], other["payable"])
    assert (
        ours["payable"]["agreed"] == ours["payable"]["billed"] != {"amount": "0", "currency": "JPY"}
    )
    assert ours["payable"]["charges_disputed"] == 0
    dispute_what_osaka_charges(watari, month)
    for cloud, peer in (("tokyo", "osaka"), ("osaka", "tokyo")):
        netted = watari.json("settlement", "net", peer, *month, "--cloud", cloud)
        assert netted["netted_at"]
    assert [row["cloud_id"] for row in watari.json("ledger", "verify")] == ["osaka", "tokyo"]
    assert watari.json("price", "list", "--cloud", "osaka")[0]["in_effect"]
