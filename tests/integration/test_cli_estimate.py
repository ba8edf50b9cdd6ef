"""`watari migrate --dry-run` against two real managers with scripted agents."""

import io
import json
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.conftest import TOKYO
from tests.integration.test_manager_estimates import FOUND
from tests.support.clouds import VM, Cloud, eventually
from watari import errors
from watari.cli import estimate
from watari.cli.clients import Clients
from watari.cli.federation.layout import Layout
from watari.cli.invocation import Invocation
from watari.cli.output import Format, Output
from watari.cli.settings import ClientSettings, CloudSettings
from watari.settings import IdentitySettings
from watari.v1 import common_pb2


@pytest.fixture
def tokyo(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """tokyo, whose agent knows what an estimate comes to."""
    clouds[0].agent.estimated = FOUND
    return clouds[0]


@pytest.fixture
def clients(tokyo: Cloud) -> Iterator[Clients]:
    """The command line's servers, as tokyo's operator has them."""
    operator = f"spiffe://{TOKYO}/operator/main"
    tokyo.federation.party(operator)
    keys = tokyo.federation.folder_of(operator)
    identity = IdentitySettings(keys / "cert.pem", keys / "key.pem", keys / "trust")
    # Every other call would be over long before an estimate is.
    settings = ClientSettings(
        identity, {"tokyo": CloudSettings(tokyo.endpoint, identity)}, call_seconds_max=0.5
    )
    found = Clients(settings)
    yield found
    found.close()


def dry_run(
    clients: Clients, tmp_path, chosen: Format = Format.TABLE
) -> tuple[str, errors.WatariError | None]:
    """What the command prints and how it ends."""
    out = Console(file=io.StringIO(), width=100, markup=False, highlight=False)
    invocation = Invocation(Output(chosen, out, out), Layout(tmp_path), tmp_path / "none")
    manager = clients.manager("tokyo")
    ended = None
    try:
        estimate.dry_run(
            invocation, manager, manager.vm("web-1"), "osaka", common_pb2.TransferOptions()
        )
    except errors.WatariError as error:
        ended = error
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue(), ended


def test_people_read_what_it_would_take(clients, tmp_path):
    said, ended = dry_run(clients, tmp_path)
    assert ended is None
    assert "300 B of 4.0 GiB, 512.0 MiB on the wire" in said
    assert "700 B" in said
    assert "about 12.5 s at 38.1 MiB/s" in said
    assert "120 ms" in said
    assert "0.00 JPY an hour" in said
    assert "nothing was reserved" in said
    assert all(len(line) <= 80 for line in said.splitlines())


def test_programs_read_every_field(clients, tmp_path):
    said, _ = dry_run(clients, tmp_path, Format.JSON)
    read = json.loads(said)
    assert (read["vm_id"], read["from_cloud"], read["to_cloud"]) == (VM, "tokyo", "osaka")
    for field in FOUND.DESCRIPTOR.fields_by_name:
        assert read[field] == getattr(FOUND, field)
    assert read["findings"] == []


def test_what_stands_against_it_is_shown_and_ends_the_command(tokyo, clients, tmp_path):
    tokyo.agent.estimated = errors.Exhausted(
        "DISK_FULL", "osaka's host is full", hint="free some room"
    )
    said, ended = dry_run(clients, tmp_path)
    assert "not compared" in said
    assert "osaka's host is full" in said
    assert "free some room" in said
    assert ended is not None
    assert ended.reason == "DISK_FULL"


def test_an_estimate_may_take_longer_than_other_calls(tokyo, clients, tmp_path):
    tokyo.agent.estimating.clear()
    timer = threading.Timer(1.5, tokyo.agent.estimating.set)
    timer.start()
    said, ended = dry_run(clients, tmp_path)
    timer.join()
    assert ended is None
    assert "would send" in said
    eventually(lambda: len(tokyo.agent.estimates) == 1, "it was asked once")
