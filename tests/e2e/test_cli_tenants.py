"""A tenant with the command line: its own machines, at home and at another provider's cloud."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import tenants
from tests.support.command_line import CommandLine
from tests.support.tenants import DOMAIN
from watari.cli.exits import Exit


@pytest.fixture
def watari(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A federation of its own: the shared one's hosts may be full of other tests' machines."""
    command_line = CommandLine(tmp_path_factory.mktemp("tenants") / "federation")
    command_line.run("up")
    yield command_line
    command_line.run("down")


@pytest.fixture
def tenant(watari: CommandLine) -> Callable[[str], list[str]]:
    """Makes a tenant of Tokyo; returns the options that make the command line that tenant's."""
    return partial(tenants.options_of, watari)


def names(watari: CommandLine, who: list[str]) -> list[str]:
    """The machines that somebody sees, and where they are."""
    return [f"{vm['name']} in {vm['cloud_id']}" for vm in watari.json("vm", "list", *who)]


def test_a_tenant_has_its_machine_placed_follows_it_and_brings_it_home(
    watari: CommandLine, tenant: Callable[[str], list[str]], disk: Path
) -> None:
    acme, globex = tenant("acme"), tenant("globex")
    for each in ("acme", "globex"):
        watari.json(
            "vm",
            "import",
            *("--cloud", "tokyo", "--name", f"{each}-db", "--image", str(disk)),
            *("--tenant", each),
        )
    assert names(watari, acme) == ["acme-db in tokyo"]
    assert names(watari, globex) == ["globex-db in tokyo"]

    placed = watari.json("migrate", "acme-db", "--place", *acme)
    assert (placed["state"], placed["to_cloud"]) == ("succeeded", "osaka")
    assert placed["requested_by"] == f"spiffe://{DOMAIN}/user/acme"
    assert names(watari, acme) == ["acme-db in osaka"]
    assert names(watari, globex) == ["globex-db in tokyo"]
    shown = watari.json("vm", "show", "acme-db", *acme)
    assert (shown["tenant_domain"], shown["tenant"]) == (DOMAIN, "acme")

    refused = watari.run("migrate", shown["vm_id"], "--to", "tokyo", *globex, code=Exit.NOT_FOUND)
    assert "there is no machine" in refused.err
    back = watari.json("migrate", "acme-db", "--place", *acme)
    assert (back["state"], back["from_cloud"], back["to_cloud"]) == ("succeeded", "osaka", "tokyo")
    listed = watari.json("migration", "list", *acme)
    assert [one["migration_id"] for one in listed] == [back["migration_id"], placed["migration_id"]]
    assert watari.json("migration", "list", *globex) == []
    assert {one["tenant"] for one in watari.json("usage", *acme)} == {"acme"}
    assert len(watari.json("usage", *acme)) == 4
    assert watari.json("usage", *globex) == []
    assert watari.json("cloud", "show", "osaka", *acme)["hosts"] == []
    assert watari.json("cloud", "show", "osaka")["hosts"]
