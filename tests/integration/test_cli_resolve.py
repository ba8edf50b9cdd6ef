"""`watari migration resolve` against real managers, one of which is gone for good."""

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from tests.support.scripted_agent import HANGS
from watari import errors, failpoint
from watari.cli import resolve
from watari.cli.clients import Clients
from watari.cli.federation.layout import Layout
from watari.cli.invocation import Invocation
from watari.cli.output import Format, Output
from watari.cli.settings import ClientSettings, CloudSettings
from watari.settings import IdentitySettings


def identity(cloud: Cloud, domain: str) -> IdentitySettings:
    operator = f"spiffe://{domain}/operator/main"
    cloud.federation.party(operator)
    keys = cloud.federation.folder_of(operator)
    return IdentitySettings(keys / "cert.pem", keys / "key.pem", keys / "trust")


@pytest.fixture
def clients(clouds: tuple[Cloud, Cloud]) -> Iterator[Clients]:
    """The command line's servers, for who operates both clouds."""
    tokyo, osaka = clouds
    own = {"tokyo": identity(tokyo, TOKYO), "osaka": identity(osaka, OSAKA)}
    found = Clients(
        ClientSettings(
            own["tokyo"],
            {
                each.cloud_id: CloudSettings(each.endpoint, own[each.cloud_id])
                for each in (tokyo, osaka)
            },
        )
    )
    yield found
    found.close()


def decide(
    clients: Clients,
    folder: Path,
    migration_id: str,
    cloud: str,
    *,
    keep: bool,
    chosen: Format = Format.TABLE,
    yes: bool = True,
) -> str:
    """What the command prints."""
    out = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
    invocation = Invocation(Output(chosen, out, out), Layout(folder), folder / "none")
    invocation._clients = clients
    resolve.resolve_migration(
        invocation,
        migration_id,
        cloud,
        "osaka burnt down",
        keep_here=keep,
        give_up_here=not keep,
        yes=yes,
    )
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def stuck(tokyo: Cloud, osaka: Cloud) -> str:
    """A migration that is committed, and whose destination never answers again."""
    with failpoint.armed("manager.handover.before_record", "error(SERVER_UNAVAILABLE)"):
        migration_id = tokyo.migrate("web-1", "osaka").migration_id
        tokyo.wait_state(migration_id, "HANDED_OVER")
        osaka.stop()
    return migration_id


def test_a_machine_whose_destination_is_gone_is_kept(
    clouds: tuple[Cloud, Cloud], clients: Clients, tmp_path: Path
) -> None:
    tokyo, osaka = clouds
    migration_id = stuck(tokyo, osaka)
    said = decide(clients, tmp_path, migration_id, "tokyo", keep=True)
    for part in ("tokyo, the source", "handed over", "there are two of web-1", "lives in tokyo"):
        assert part in said
    assert tokyo.wait_state(migration_id, "FAILED").problem.reason == "MIGRATION_RESOLVED"
    assert VM in tokyo.vms()
    eventually(lambda: tokyo.agent.can_start(VM), "the host may start it")
    (told,) = (each for each in tokyo.audit() if each.action == "migration.resolved")
    assert told.details["justification"] == "osaka burnt down"


def test_nothing_happens_until_the_machines_name_is_typed(
    clouds: tuple[Cloud, Cloud],
    clients: Clients,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokyo, osaka = clouds
    migration_id = stuck(tokyo, osaka)
    monkeypatch.setattr("sys.stdin", io.StringIO("web\n"))
    with pytest.raises(errors.Cancelled):
        decide(clients, tmp_path, migration_id, "tokyo", keep=False, yes=False)
    tokyo.wait_state(migration_id, "HANDED_OVER")
    monkeypatch.setattr("sys.stdin", io.StringIO("web-1\n"))
    said = decide(clients, tmp_path, migration_id, "tokyo", keep=False, yes=False)
    assert "lives in osaka" in said
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert VM not in tokyo.vms()


def test_a_destination_gives_up_what_has_arrived_though_the_source_is_gone(
    clouds: tuple[Cloud, Cloud], clients: Clients, tmp_path: Path
) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    tokyo.stop()
    said = decide(clients, tmp_path, migration_id, "osaka", keep=False, chosen=Format.JSON)
    assert json.loads(said)["reservation"]["state"] == "released"
    assert osaka.inventory().held.vcpus == 0
    eventually(lambda: not osaka.agent.arrivals, "what had arrived is discarded")


def test_an_unknown_migration_is_said_to_be_unknown(clients: Clients, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound) as caught:
        decide(clients, tmp_path, str(uuid.uuid4()), "osaka", keep=True)
    assert caught.value.reason == "MIGRATION_NOT_FOUND"
