"""What the containers mount: each server reads what was made for it, and no key lies open."""

import re
import stat
from pathlib import Path

import pytest
from cryptography import x509

from agent.settings import Settings as AgentSettings
from broker.settings import Settings as BrokerSettings
from compose import machine, plan, prepare
from directory.settings import Settings as DirectorySettings
from manager.settings import Settings as ManagerSettings
from watari import config, errors
from watari.cli import settings as client_settings
from watari.clock import SystemClock
from watari.identity import Identity, SpiffeId

SETTINGS = {
    "agent": AgentSettings,
    "broker": BrokerSettings,
    "directory": DirectorySettings,
    "manager": ManagerSettings,
}
COMPOSE = Path(prepare.__file__).parent


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder as `make compose-up` makes it."""
    state = tmp_path_factory.mktemp("compose") / "state"
    assert prepare.prepare(state, prepare.default_owner(), "74", SystemClock())
    return state


@pytest.mark.parametrize("service", plan.services(), ids=lambda each: each.name)
def test_a_server_reads_its_settings_and_is_who_they_say(
    state: Path, service: plan.Service
) -> None:
    folder, role = state / "services" / service.name, str(service.spiffe_id.role)
    settings = config.load(SETTINGS[role], folder / f"{role}.toml", {}, role)
    identity = settings.identity
    key = state / "secrets" / f"{service.name}.pem"
    own = Identity.load(identity.certificate, key, identity.trust)
    assert own.spiffe_id == service.spiffe_id
    assert str(identity.key) == "/run/secrets/key.pem"


def test_the_command_line_reaches_the_published_ports(state: Path) -> None:
    client = client_settings.load(state / "client.toml", {})
    assert client.directory is not None
    assert client.directory.address == "127.0.0.1:7440"
    assert [each.address for each in client.further_directories] == ["127.0.0.1:7441"]
    managers = {name: cloud.manager.address for name, cloud in client.clouds.items()}
    assert managers == {"tokyo": "127.0.0.1:7443", "osaka": "127.0.0.1:7444"}
    for cloud in client.clouds.values():
        SpiffeId.parse(cloud.manager.spiffe_id)
        Identity.load(cloud.identity.certificate, cloud.identity.key, cloud.identity.trust)


def test_whatever_the_containers_mount_is_made_and_published_ports_are_those_of_the_client(
    state: Path,
) -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    mounted = set(re.findall(r"\./state/([\w./-]+)", text))
    assert {name for name in mounted if not (state / name).exists()} == set()
    secrets = {path.name for path in (state / "secrets").iterdir()}
    assert {name.removeprefix("secrets/") for name in mounted if "secrets/" in name} == secrets
    published = set(re.findall(r"\$\{WATARI_PORTS:-74\}(\d\d):(\d+)", text))
    wanted = {(each.published, str(each.port)) for each in plan.services() if each.published}
    assert published == wanted


def test_keys_are_for_their_owner_only_and_no_authoritys_key_is_mounted(state: Path) -> None:
    keys = [
        path
        for path in state.rglob("*")
        if path.is_file() and path.stat().st_size < 1 << 16 and b"PRIVATE KEY" in path.read_bytes()
    ]
    assert len(keys) == len(plan.services()) + len(plan.ETCD_NODES) + 2 + 2 + 4 + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert not [path for path in keys if path.is_relative_to(state / "services")]
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_directorys_certificate_at_etcd_is_no_nodes(state: Path) -> None:
    def subject(path: str) -> str:
        certificate = x509.load_pem_x509_certificate((state / "services" / path).read_bytes())
        return certificate.subject.rfc4514_string()

    assert {subject(f"{node}/cert.pem") for node in plan.ETCD_NODES} == {"CN=etcd"}
    assert subject("directory-1/etcd-cert.pem") == "CN=directory-1"
    allowed = re.search(r"ETCD_PEER_CERT_ALLOWED_CN: (\w+)", (COMPOSE / "compose.yaml").read_text())
    assert allowed is not None
    assert allowed[1] == "etcd"


def test_what_is_there_stays_and_what_is_something_else_is_refused(
    state: Path, tmp_path: Path
) -> None:
    before = (state / "secrets" / "broker.pem").read_bytes()
    assert not prepare.prepare(state, prepare.default_owner(), "75", SystemClock())
    assert (state / "secrets" / "broker.pem").read_bytes() == before
    with pytest.raises(errors.FailedPrecondition, match="not what this makes"):
        prepare.prepare(tmp_path, prepare.default_owner(), "74", SystemClock())


def test_a_machine_is_put_on_a_clouds_shelf(state: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"content" * 1000)
    vm_id = machine.put(state, "osaka", "db-1", [disk])
    made = state / "shelves" / "osaka" / "vms" / vm_id
    assert (made / "vda.raw").read_bytes() == disk.read_bytes()
    owner = made.parent.stat().st_uid
    assert {path.stat().st_uid for path in (made, *made.iterdir())} == {owner}
    with pytest.raises(errors.FailedPrecondition, match="there is no"):
        machine.put(state, "kyoto", "db-1", [disk])
