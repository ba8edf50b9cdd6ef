"""The commands about money, against the managers of two real clouds whose last month is over."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from tests.conftest import OSAKA, TOKYO
from tests.support import databases
from tests.support.billing_world import Months, booked, months, opened
from watari.cli import main
from watari.cli.exits import Exit

SHEET = """version = 2
currency = "JPY"
effective_from = {since}T00:00:00Z

[[components]]
name = "vcpu"
measure = "running"
resource = "vcpus"
unit = "vCPU-hour"
minimum_seconds = 60
tiers = [{{ price = "8", up_to = 100 }}, {{ price = "6.5" }}]

[[taxes]]
name = "consumption tax"
percent = "10"
"""


class Watari:
    """The command in this process, as the two clouds' operators or as a tenant of tokyo."""

    def __init__(self, world: Months, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.world = folder, capsys, world
        self._settings(
            "operators", {"tokyo": (TOKYO, "operator/main"), "osaka": (OSAKA, "operator/main")}
        )
        self._settings("acme", {"tokyo": (TOKYO, "user/acme"), "osaka": (TOKYO, "user/acme")})

    def __call__(self, *words: str, who: str = "operators", code: int = Exit.OK) -> str:
        self.capsys.readouterr()
        ended = main.main([*words, "--config", str(self.folder / f"{who}.toml")])
        out, err = self.capsys.readouterr()
        assert ended == code, (words, out, err)
        return out if code == Exit.OK else err

    def json(self, *words: str, who: str = "operators") -> Any:
        """What it prints for a program."""
        return json.loads(self(*words, "-o", "json", who=who))

    def error(
        self, *words: str, who: str = "operators", code: int = Exit.REFUSED
    ) -> dict[str, Any]:
        """What it prints for a program that asked for something that is refused."""
        found: dict[str, Any] = json.loads(self(*words, "-o", "json", who=who, code=code))["error"]
        assert found["hint"]
        return found

    def _settings(self, name: str, parties: dict[str, tuple[str, str]]) -> None:
        tables = []
        for cloud_id, (domain, party) in parties.items():
            cloud = getattr(self.world, cloud_id)
            keys = cloud.federation.folder_of(f"spiffe://{domain}/{party}")
            own = (
                f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
                f'trust = "{keys / "trust"}"\n'
            )
            if not tables:
                tables.append(f"[client.identity]\n{own}")
            tables.append(
                f"[client.clouds.{cloud_id}.identity]\n{own}[client.clouds.{cloud_id}.manager]\n"
                f'address = "{cloud.endpoint.address}"\nspiffe_id = "{cloud.endpoint.spiffe_id}"\n'
            )
        (self.folder / f"{name}.toml").write_text("\n".join(tables))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Months]:
    """Last month is over at both clouds; nothing is issued."""
    stores = [databases.sqlite(tmp_path / f"{name}.sqlite") for name in ("tokyo", "osaka")]
    with months(tmp_path / "world", (stores[0], stores[1])) as made:
        yield made


@pytest.fixture
def watari(world: Months, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Watari:
    """The command."""
    return Watari(world, tmp_path, capsys)


def test_a_month_from_issue_to_payment(watari: Watari, world: Months, tmp_path: Path) -> None:
    world.there_and_back()
    month, at = ("--month", world.label), ("--cloud", "tokyo")
    told = watari.json("invoice", "issue", *month, *at)
    assert (told["issued"], len(told["invoices"])) == (1, 1)
    assert "0 issued, 1 of" in watari("invoice", "issue", *month, *at)
    watari("invoice", "issue", *month, "--cloud", "osaka")
    assert [row["payer"] for row in watari.json("invoice", "list", "--payer", f"peer:{TOKYO}")] == [
        f"peer:{TOKYO}"
    ]
    (mine,) = watari.json("invoice", "list", who="acme")
    assert mine["number"] == told["invoices"][0]["number"]
    shown = watari.json("invoice", "show", mine["number"], who="acme")
    assert sum(_nanos(line["amount"]) for line in shown["lines"]) == _nanos(shown["total"])
    page = watari("invoice", "show", mine["number"], who="acme")
    assert "GiB-month" in page
    assert shown["lines"][0]["charge_id"] in page

    file = tmp_path / "invoice.html"
    watari("invoice", "export", mine["number"], "--format", "html", "-O", str(file), who="acme")
    assert file.read_text().startswith("<!DOCTYPE html>")
    again = ("invoice", "export", mine["number"], "-O", str(file))
    assert "exist" in watari.error(*again)["message"]
    assert watari("invoice", "export", mine["number"], "--format", "focus").startswith("BilledCost")
    exported = json.loads(watari("invoice", "export", mine["number"]))
    assert exported["number"] == mine["number"]
    assert watari.error("invoice", "export", mine["number"], "--format", "pdf", code=Exit.USAGE)

    charge = next(line for line in shown["lines"] if line["component"] == "memory")
    opened_ = watari.json(
        *("dispute", "open", charge["charge_id"], "--reason", "it was down", "--amount", "1 JPY"),
        *at,
        who="acme",
    )
    assert (opened_["state"], opened_["amount"]["amount"]) == ("open", "1.000000000")
    assert "it was down" in watari("dispute", "list", "--open")
    assert watari.error(
        "dispute", "decide", opened_["dispute_id"], "--reason", "r", *at, code=Exit.USAGE
    )
    decided = watari("dispute", "decide", opened_["dispute_id"], "--uphold", "--reason", "yes", *at)
    assert "upheld" in decided
    assert watari.json("dispute", "list", "--open") == []
    too_much = ("dispute", "open", charge["charge_id"], "--reason", "r", "--amount", "1e9 JPY", *at)
    assert watari.error(*too_much, who="acme")["reason"] == "DISPUTE_EXCEEDS_CHARGE"

    paid = watari.json("payment", "record", "tenant:acme", "100 JPY", "--reference", "A1", *at)
    assert _nanos(paid["left"]) == _nanos(shown["total"]) - 101 * 10**9
    assert "paid by tenant:acme: A1" in watari("payment", "list", *at)
    held = {row["account"]: row["amount"] for row in watari.json("ledger", "balances", who="acme")}
    assert held.keys() == {"disputed:tenant:acme", "receivable:tenant:acme"}
    assert held["receivable:tenant:acme"] == paid["left"]

    statement = watari.json("settlement", "show", "osaka", *month, *at)
    assert statement["payable"]["agreed"] == statement["payable"]["billed"]
    assert "not yet" in watari("settlement", "show", "osaka", *month, *at)
    netted = watari("settlement", "net", "osaka", *month, *at)
    assert "in their favour" in netted
    assert "not yet" not in watari("settlement", "show", "osaka", *month, *at)
    for row in watari.json("ledger", "verify"):
        assert row["last_sequence"] == len(booked(getattr(world, row["cloud_id"])))
    sums: dict[str, int] = {}
    for row in watari.json("ledger", "balances"):
        sums[row["cloud_id"]] = sums.get(row["cloud_id"], 0) + _nanos(row["amount"])
    assert sums == {"tokyo": 0, "osaka": 0}


def test_a_providers_charge_is_disputed_and_decided(watari: Watari, world: Months) -> None:
    world.there_and_back()
    month, at = ("--month", world.label), ("--cloud", "tokyo")
    for cloud in ("tokyo", "osaka"):
        watari("invoice", "issue", *month, "--cloud", cloud)
    before = watari.json("settlement", "show", "osaka", *month, *at)["payable"]
    (charge,) = [row for row in before["charges"] if row["description"] == "memory of web-1"]
    listing = watari("settlement", "show", "osaka", *month, "--charges", *at)
    assert charge["charge_id"] in listing
    assert charge["charge_id"] not in watari("settlement", "show", "osaka", *month, *at)

    words = ("settlement", "dispute", "osaka", charge["charge_id"], *at)
    key = "6a1c5b1e-0000-4000-8000-0000000000d1"
    made = (*words, "--reason", "it was down", "--amount", "1.5 JPY", "--id", key)
    told = watari.json(*made)
    assert (told["dispute_id"], told["cloud_id"], told["charge_id"], told["state"]) == (
        key,
        "osaka",
        charge["charge_id"],
        "open",
    )
    assert told["amount"] == {"amount": "1.500000000", "currency": "JPY"}
    assert watari.json(*made) == told, "repeated"
    page = watari(*made)
    for text in (key, "memory of web-1", "1.50 JPY", "it was down", "open"):
        assert text in page

    statements = [
        watari.json("settlement", "show", peer, *month, "--cloud", cloud)
        for cloud, peer in (("tokyo", "osaka"), ("osaka", "tokyo"))
    ]
    claim = statements[0]["payable"]
    assert claim == statements[1]["receivable"]
    assert [row["dispute_id"] for row in claim["opened"]] == [key]
    assert [(row["charge_id"], _nanos(row["held"])) for row in claim["disputes"]] == [
        (charge["charge_id"], 1_500_000_000)
    ]
    assert _nanos(claim["agreed"]) == _nanos(before["agreed"]) - 1_500_000_000
    assert "it was down" in watari("settlement", "show", "osaka", *month, *at)

    error = watari.error(*words, "--reason", "r", "--id", key)
    assert error["reason"] == "ID_REUSED"
    assert "--id" in error["hint"]
    error = watari.error(*words, "--reason", "r", "--amount", "1e6 JPY")
    assert error["reason"] == "DISPUTE_EXCEEDS_CHARGE"
    unknown = ("settlement", "dispute", "osaka", key, "--reason", "r", *at)
    error = watari.error(*unknown, code=Exit.NOT_FOUND)
    assert "--charges" in error["hint"]
    assert watari.error(*words, "--reason", "r", "--amount", "some", code=Exit.USAGE)

    decide = ("dispute", "decide", key, "--uphold", "--reason", "it was", "--cloud", "osaka")
    assert "upheld" in watari(*decide)
    for cloud, peer in (("tokyo", "osaka"), ("osaka", "tokyo")):
        assert "upheld" in watari("settlement", "show", peer, *month, "--cloud", cloud)
        netted = watari.json("settlement", "net", peer, *month, "--cloud", cloud)
        assert netted["netted_at"]

    world.osaka.stop()
    error = watari.error(*words, "--reason", "r", "--id", key, code=Exit.UNAVAILABLE)
    assert f"--id {key}" in error["hint"]


def test_prices_are_put_listed_shown_and_compared(
    watari: Watari, world: Months, tmp_path: Path
) -> None:
    file = tmp_path / "sheet.toml"
    file.write_text(SHEET.format(since=f"{world.after:%Y-%m-%d}"))
    at = ("--cloud", "tokyo")
    assert "version 2" not in watari("price", "put", str(file), *at)
    watari("price", "put", str(file), *at)
    rows = watari.json("price", "list", *at, who="acme")
    assert [(row["version"], row["in_effect"]) for row in rows] == [(2, False), (1, True)]
    shown = watari("price", "show", "2", *at, who="acme")
    for text in ("to 100", "beyond 100", "6.5", "consumption tax", "60 s"):
        assert text in shown
    changes = watari.json("price", "show", "2", "--diff", "1", *at)["changes"]
    assert {"what": "consumption tax", "before": "", "after": "10 %"} in changes
    assert {"what": "egress", "before": "11.5 / GiB", "after": ""} in changes
    assert "Nothing differs" in watari("price", "show", "2", "--diff", "2", *at)
    file.write_text("version = 3\nprice = 0.5\n")
    assert (
        watari.error("price", "put", str(file), *at, code=Exit.USAGE)["reason"] == "INVALID_FIELD"
    )
    assert watari.error("price", "put", "nowhere.toml", *at, code=Exit.USAGE)
    assert (
        watari.error("price", "show", "7", *at, code=Exit.NOT_FOUND)["reason"] == "RECORD_NOT_FOUND"
    )


def test_a_ledger_that_was_touched_ends_verify_with_the_entry(
    watari: Watari, world: Months
) -> None:
    world.there_and_back()
    watari("invoice", "issue", "--month", world.label, "--cloud", "tokyo")
    at = ("--cloud", "tokyo")
    (head,) = watari.json("ledger", "verify", *at)
    kept = ("--last-sequence", str(head["last_sequence"]), "--last-hash", head["last_hash"])
    assert "unbroken" in watari("ledger", "verify", *at, *kept)
    assert watari.error("ledger", "verify", *at, *kept[:2], code=Exit.USAGE)
    entries = watari.json("ledger", "list", *at, "--kind", "charge")
    assert {entry["kind"] for entry in entries} == {"charge"}
    assert "receivable:tenant:acme" in watari("ledger", "list", *at)
    with opened(world.tokyo) as engine, engine.begin() as connection:
        connection.execute(sa.text("DROP TRIGGER ledger_postings_no_update"))
        connection.execute(
            sa.text("UPDATE ledger_postings SET units = units + 1 WHERE sequence = 3")
        )
    error = watari.error("ledger", "verify", *at, code=Exit.FAILED)
    assert (error["reason"], error["metadata"]["sequence"]) == ("LEDGER_CHAIN_BROKEN", "3")
    assert "entry 3 is altered" in watari("ledger", "verify", *at, code=Exit.FAILED)


def test_what_cannot_be_done_yet_says_why(watari: Watari, world: Months) -> None:
    month = ("--month", world.label, "--cloud", "tokyo")
    assert watari.error("invoice", "issue", *month)["reason"] == "PERIOD_OPEN"
    assert watari.error("invoice", "issue", "--month", "March", "--cloud", "tokyo", code=Exit.USAGE)
    assert watari.error("settlement", "show", "osaka", *month)["reason"] == "PERIOD_OPEN"
    assert watari.error("invoice", "show", "none", code=Exit.NOT_FOUND)
    wrong = ("payment", "record", "tenant:acme", "a lot", "--cloud", "tokyo")
    assert "12.50 EUR" in watari.error(*wrong, code=Exit.USAGE)["hint"]
    assert watari("invoice", "list") == "There are no invoices.\n"


def _nanos(amount: dict[str, str]) -> int:
    whole, _, part = amount["amount"].partition(".")
    sign = -1 if whole.startswith("-") else 1
    return sign * (abs(int(whole)) * 10**9 + int(part.ljust(9, "0")))
