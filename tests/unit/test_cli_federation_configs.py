"""The local federation's settings and certificates: each service reads what was made for it."""

import socket
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import Settings as AgentSettings
from broker.settings import Settings as BrokerSettings
from directory.settings import Settings as DirectorySettings
from manager.settings import Settings as ManagerSettings
from watari import config, errors
from watari.cli import settings as client_settings
from watari.cli.federation import configs, layout
from watari.cli.federation.layout import Layout
from watari.clock import FakeClock, SystemClock
from watari.identity import Identity, SpiffeId

SETTINGS = {
    "agent": AgentSettings,
    "broker": BrokerSettings,
    "directory": DirectorySettings,
    "manager": ManagerSettings,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Settings as `watari up` makes them."""
    made = Layout(tmp_path_factory.mktemp("state") / "federation")
    made.create()
    configs.ensure(made, SystemClock())
    return made


@pytest.mark.parametrize("process", layout.LOCAL.processes(), ids=lambda process: process.name)
def test_a_service_reads_its_settings_and_is_who_it_should_be(
    made: Layout, process: layout.Process
) -> None:
    loaded: Any = config.load(
        SETTINGS[process.module], made.settings(process), {}, section=process.module
    )
    own = loaded.identity
    assert Identity.load(own.certificate, own.key, own.trust).spiffe_id == process.spiffe_id


def test_managers_find_one_another_through_the_directory_and_obey_the_broker(made: Layout) -> None:
    managers = [
        config.load(ManagerSettings, made.settings(process), {}, section="manager")
        for process in layout.LOCAL.processes()
        if process.module == "manager"
    ]
    (directory,) = (each for each in layout.LOCAL.processes() if each.module == "directory")
    serves = config.load(DirectorySettings, made.settings(directory), {}, section="directory")
    for manager in managers:
        assert not manager.peers
        assert [each.address for each in manager.directories] == [serves.address]
        assert manager.brokers == ("spiffe://tokyo.internal/broker/main",)


def test_the_command_line_finds_every_server_where_it_listens(made: Layout) -> None:
    client = client_settings.load(made.client, {"WATARI_CLIENT_CONFIG": "ignored"})
    addresses = {
        process.name: tomllib.loads(made.settings(process).read_text())[process.module]["address"]
        for process in layout.LOCAL.processes()
    }
    assert client.directory is not None
    assert client.broker is not None
    assert client.directory.address == addresses["directory"]
    assert client.broker.address == addresses["broker"]
    for cloud_id in ("tokyo", "osaka"):
        cloud = client.clouds[cloud_id]
        assert cloud.manager.address == addresses[f"{cloud_id}-manager"]
        user = Identity.load(cloud.identity.certificate, cloud.identity.key, cloud.identity.trust)
        assert str(user.spiffe_id) == f"spiffe://{cloud_id}.internal/operator/admin"


def test_no_two_servers_share_a_port(made: Layout) -> None:
    sections = [
        tomllib.loads(made.settings(process).read_text())[process.module]
        for process in layout.LOCAL.processes()
    ]
    ports = [section[key] for section in sections for key in section if key.endswith("address")]
    assert len(ports) == len(set(ports)) == 8


def test_folders_and_keys_are_private(made: Layout) -> None:
    assert stat.S_IMODE(made.root.stat().st_mode) == 0o700
    keys = [*made.config.rglob("*.key"), *made.config.rglob("key.pem")]
    assert len(keys) == 2 + 6 + 2  # authorities, servers, operators
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)


def test_making_settings_again_changes_nothing(made: Layout) -> None:
    before = {path: path.read_bytes() for path in made.config.rglob("*") if path.is_file()}
    configs.ensure(made, SystemClock())
    assert {path: path.read_bytes() for path in before} == before


def test_a_moved_folder_still_works(made: Layout, tmp_path: Path) -> None:
    moved = made.root.rename(tmp_path / "moved")
    try:
        client = client_settings.load(Layout(moved).client, {})
        assert client.identity.key.exists()
    finally:
        moved.rename(made.root)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(errors.FailedPrecondition, match="CONFIG_INVALID"):
        Layout(tmp_path).create()


def test_two_starts_of_one_federation_exclude_each_other(made: Layout) -> None:
    with (
        made.locked(SystemClock()),
        pytest.raises(errors.FailedPrecondition, match="START_FAILED"),
        made.locked(FakeClock(auto_advance=True)),
    ):
        pytest.fail("the lock was given twice")


def test_a_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(configs, "PORT_MIN", port)
        monkeypatch.setattr(configs, "PORT_MAX", port)
        with pytest.raises(errors.FailedPrecondition, match="START_FAILED"):
            configs.free_ports(1)


SCALARS = st.text() | st.integers(-(2**60), 2**60) | st.booleans()
KEYS = st.text("abcdefghijklmnopqrstuvwxyz_-0123456789", min_size=1)
TABLES = st.recursive(
    st.dictionaries(KEYS, SCALARS | st.lists(st.text(), max_size=3), max_size=4),
    lambda inner: st.dictionaries(
        KEYS, SCALARS | inner | st.lists(inner, min_size=1, max_size=3), max_size=4
    ),
    max_leaves=8,
)


@given(TABLES)
def test_toml_that_is_written_reads_as_it_was(table: dict[str, object]) -> None:
    assert tomllib.loads(configs.toml(table)) == table


def test_a_federation_that_was_off_for_long_gets_new_certificates(tmp_path: Path) -> None:
    made = Layout(tmp_path / "federation")
    made.create()
    configs.ensure(made, FakeClock(datetime.now(UTC) - timedelta(days=30)))
    agent = made.credentials(SpiffeId("osaka.internal", "agent", "host-1"))
    assert Identity.load_folder(agent).current().validity[1] < datetime.now(UTC)
    configs.ensure(made, SystemClock())
    renewed = Identity.load_folder(agent)
    assert renewed.current().validity[1] > datetime.now(UTC)
    assert renewed.trust.verify_peer(renewed.cert_pem, datetime.now(UTC)) == renewed.spiffe_id


def test_at_first_nobody_trusts_another_provider(made: Layout) -> None:
    for process in layout.LOCAL.processes():
        own = Identity.load_folder(made.credentials(process.spiffe_id))
        assert own.trust.domains() == [process.spiffe_id.domain]


def test_one_provider_is_a_manager_and_an_agent_that_know_nobody(tmp_path: Path) -> None:
    made = Layout(tmp_path / "tokyo")
    plan = layout.single("tokyo.example", "127.0.0.2")
    made.create(plan)
    configs.ensure(made, SystemClock())
    assert Layout(made.root).plan == plan
    assert [each.name for each in plan.processes()] == ["tokyo-agent", "tokyo-manager"]
    manager = config.load(
        ManagerSettings, made.settings(plan.processes()[1]), {}, section="manager"
    )
    assert (manager.cloud_id, manager.directories, manager.peers) == ("tokyo", (), {})
    assert manager.address.startswith("127.0.0.2:")
    # A folder is one federation for good.
    made.create(plan)
    with pytest.raises(errors.FailedPrecondition, match="CONFIG_INVALID"):
        made.create(layout.single("kyoto.example", "127.0.0.1"))
