"""A policy with the command line: a price rises, and the machine moves by itself."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import tenants
from tests.support.command_line import CommandLine, Ended
from tests.support.tenants import DOMAIN
from watari.cli.exits import Exit

EAGER = ("--patience", "0", "--hysteresis", "0", "--residency-time", "1s", "--currency", "JPY")


@pytest.fixture
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A federation of its own: prices change in it."""
    command_line = CommandLine(tmp_path_factory.mktemp("policies") / "federation")
    command_line.run("up")
    yield command_line
    command_line.run("down")


@pytest.fixture
def acme(watari: CommandLine) -> list[str]:
    """The options that make the command line that of acme, a tenant of Tokyo."""
    return tenants.options_of(watari, "acme")


def until(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """What `look` finds, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)
    return found


def raise_price(watari: CommandLine, cloud: str, vcpu_hour: str) -> None:
    """A price sheet with one price, in effect as soon as may be: of the past none is taken, and a
    machine may be slow.
    """
    for seconds in (3, 10):
        if put_price(watari, cloud, vcpu_hour, seconds, code=None).code == Exit.OK:
            return
    put_price(watari, cloud, vcpu_hour, 30)


def put_price(
    watari: CommandLine, cloud: str, vcpu_hour: str, seconds: int, code: int | None = Exit.OK
) -> Ended:
    """In effect so many seconds from now."""
    since = datetime.now(UTC) + timedelta(seconds=seconds)
    vcpus = {"name": "vcpu", "measure": "running", "resource": "vcpus", "unit": "vCPU-hour"}
    sheet = {
        "version": 2,
        "currency": "JPY",
        "effective_from": since.isoformat(),
        "components": [vcpus | {"price": vcpu_hour}],
    }
    path = watari.state / f"sheet-{cloud}.json"
    path.write_text(json.dumps(sheet))
    return watari.run("price", "put", str(path), "--cloud", cloud, code=code)


def test_a_price_that_rises_makes_the_policy_move_the_machine_and_the_plan_says_why(
    watari: CommandLine, acme: list[str], disk: Path
) -> None:
    watari.json(
        "vm",
        "import",
        *("--cloud", "tokyo", "--name", "db", "--image", str(disk), "--tenant", "acme"),
    )
    placed = watari.json("migrate", "db", "--place", *acme)
    assert (placed["state"], placed["to_cloud"]) == ("succeeded", "osaka")

    put = watari.json("policy", "put", "cheap", "--automation", "automatic", *EAGER, *acme)
    assert (put["tenant"], put["tenant_domain"]) == ("acme", DOMAIN)
    assert put["delegation"]["from_clouds"] == put["delegation"]["to_clouds"] == ["osaka", "tokyo"]

    def evaluation() -> Any:
        found = watari.json("policy", "show", "cheap", *acme)["evaluation"]
        return found if found and found["machines"] else None

    seen = until(evaluation, "the machine is looked at")
    assert seen["problems"] == []
    (stays,) = seen["staying"]
    assert (stays["vm_name"], stays["cloud_id"], stays["rule"]) == ("db", "osaka", "best")
    assert watari.json("plan", "list", *acme) == []

    raise_price(watari, "osaka", "9")

    def done() -> Any:
        found = watari.json("plan", "list", "--policy", "cheap", *acme)
        return found[0] if found and found[0]["state"] == "done" else None

    plan = until(done, "a plan is carried out")
    (move,) = plan["moves"]
    assert (move["vm_name"], move["from_cloud"], move["to_cloud"]) == ("db", "osaka", "tokyo")
    assert (plan["approved_by"], move["cause"]) == ("automatic", "saving")
    assert "saves" in move["reason"]
    assert "needs" in move["reason"]
    (vm,) = watari.json("vm", "list", *acme)
    assert (vm["name"], vm["cloud_id"]) == ("db", "tokyo")

    table = watari.run("plan", "show", plan["plan_id"], *acme).out
    for words in ("db from osaka to tokyo", "why", move["reason"][:20], "stays if the saving is"):
        assert words in table
    assert "cheap" in watari.run("policy", "list", *acme).out
    watched = watari.run("plan", "watch", plan["plan_id"], *acme)
    assert "done" in watched.out
    used = [
        entry
        for entry in watari.json("audit", "list", "--cloud", "osaka")
        if entry["action"] == "delegation.used"
    ]
    assert [entry["subject"] for entry in used] == [move["migration_id"]]

    # The operator of the tenant's provider sees all of it; another tenant's person nothing.
    assert [one["plan_id"] for one in watari.json("plan", "list")] == [plan["plan_id"]]

    # It ends at one cloud, then, by the tenant itself, at all of them.
    delegation_id = put["delegation"]["delegation_id"]
    assert delegation_id in watari.run("policy", "show", "cheap", *acme).out
    only = ("delegation", "revoke", delegation_id, "--reason", "works ahead", "--cloud", "tokyo")
    (revoked,) = watari.json(*only)
    assert (revoked["cloud_id"], revoked["tenant"]) == ("tokyo", "acme")

    def told() -> Any:
        found = watari.json("policy", "show", "cheap", *acme)["evaluation"]
        return any("works ahead" in problem for problem in found["problems"])

    until(told, "the broker says that it is revoked")
    watari.run("delegation", "revoke", delegation_id, *acme)
    known = watari.json("delegation", "list", *acme)
    by = {row["cloud_id"]: row["revoked_by"] for row in known}
    operator = f"spiffe://{DOMAIN}/operator/admin"
    assert by == {"tokyo": operator, "osaka": f"spiffe://{DOMAIN}/user/acme"}
    assert "works ahead" in watari.run("delegation", "list", "--cloud", "tokyo").out
    wrong = watari.run("delegation", "revoke", "cheap", code=Exit.USAGE)
    assert "UUID" in wrong.err

    watari.run("policy", "delete", "cheap", *acme)
    assert watari.json("policy", "list", *acme) == []
    watari.run("policy", "show", "cheap", *acme, code=Exit.NOT_FOUND)


def test_a_recommendation_is_approved_by_a_person(
    watari: CommandLine, acme: list[str], disk: Path
) -> None:
    watari.json(
        "vm",
        "import",
        *("--cloud", "tokyo", "--name", "db", "--image", str(disk), "--tenant", "acme"),
    )
    watari.run("policy", "put", "cheap", "--automation", "approved", *EAGER, *acme)
    found = until(lambda: watari.json("plan", "list", "--live", *acme), "a plan is made")
    (plan,) = found
    assert plan["state"] == "recommended"
    stale = watari.run(
        *("plan", "approve", plan["plan_id"], "--generation", "77", *acme), code=Exit.REFUSED
    )
    assert "generation" in stale.err
    assert watari.json("plan", "approve", plan["plan_id"], *acme)["state"] == "approved"
    watched = watari.run("plan", "watch", plan["plan_id"], *acme)
    assert "db from tokyo to osaka: done" in watched.err
    (vm,) = watari.json("vm", "list", *acme)
    assert vm["cloud_id"] == "osaka"


def test_an_operator_says_for_whom(watari: CommandLine) -> None:
    refused = watari.run("policy", "put", "cheap", code=Exit.USAGE)
    assert "--tenant" in refused.err
    put = watari.json("policy", "put", "cheap", "--tenant", "acme")
    assert put["delegated_by"] == f"spiffe://{DOMAIN}/operator/admin"
    assert (put["automation"], put["objective"]) == ("manual", "cost")
