"""Fixtures that every test folder shares: a federation's identities, and servers of it."""

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, settings

from manager.settings.store import StoreSettings
from tests.support import databases, postgresql
from watari import identity, rpc
from watari.clock import Clock, SystemClock
from watari.identity import Authority, Identity, SpiffeId, TrustStore

# How fast the machine is decides no test.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

MIB = 1024 * 1024

TOKYO = "tokyo.example"
OSAKA = "osaka.example"
HUB = "hub.example"
STRANGER = "stranger.example"
"""A provider with a CA that nobody has accepted."""

PARTY_SECONDS = 6 * 3600.0
"""How long certificates of a federation's parties are valid: longer than any run of the suite."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure: what a test needs, `make test` has installed."""
    report = yield
    _refuse_skips(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for modules that skip themselves."""
    report = yield
    _refuse_skips(report)
    return report


def _refuse_skips(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@dataclass
class Federation:
    """Three providers that have accepted one another, and a stranger."""

    folder: Path
    clock: Clock = field(default_factory=SystemClock)
    authorities: dict[str, Authority] = field(default_factory=dict)
    _parties: dict[str, Identity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for domain in (TOKYO, OSAKA, HUB, STRANGER):
            self.authorities[domain] = identity.create_ca(domain, self.clock)
        for domain in (TOKYO, OSAKA, HUB):
            identity.save_certificate(
                self.trust_folder / f"{domain}.pem", self.authorities[domain].cert_pem
            )

    @property
    def trust_folder(self) -> Path:
        """Where the accepted CAs are."""
        return self.folder / "trust"

    def party(self, spiffe_id: str) -> Identity:
        """The identity of `spiffe://<domain>/<role>/<name>`, issued by its own provider."""
        if spiffe_id not in self._parties:
            parsed = SpiffeId.parse(spiffe_id)
            self._parties[spiffe_id] = self.issue(parsed, self.authorities[parsed.domain])
        return self._parties[spiffe_id]

    def issue(
        self, spiffe_id: SpiffeId, authority: Authority, valid_seconds: float = PARTY_SECONDS
    ) -> Identity:
        """A fresh identity, by any authority that will issue it."""
        cert_pem, key_pem = authority.issue(spiffe_id, valid_seconds)
        return Identity(spiffe_id, cert_pem, key_pem, TrustStore(self.trust_folder))

    def folder_of(self, spiffe_id: str) -> Path:
        """A folder that `Identity.load_folder` reads the party from, for other processes."""
        folder = self.folder / spiffe_id.removeprefix("spiffe://").replace("/", "_")
        self.party(spiffe_id).save(folder)
        if not (folder / "trust").exists():
            (folder / "trust").symlink_to(self.trust_folder)
        return folder


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Made once: tests must not change its trust folder."""
    return Federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def own_federation(tmp_path: Path) -> Federation:
    """One of the test's own, to accept and drop providers in."""
    return Federation(tmp_path / "federation")


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgresql.Server]:
    """One for the whole run. Each test takes a database of its own."""
    with postgresql.server(tmp_path_factory.mktemp("postgresql") / "server") as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    """A new database of each kind that a manager may have."""
    if request.param == "sqlite":
        return databases.sqlite(tmp_path / "database" / "manager.sqlite")
    running: postgresql.Server = request.getfixturevalue("postgresql_server")
    return running.settings(made=True)


Serve = Callable[..., rpc.Target]


@pytest.fixture
def serve(federation: Federation) -> Iterator[Serve]:
    """Starts a Watari server on a free port for the length of the test."""
    servers: list[rpc.Server] = []

    def start(
        spiffe_id: str,
        servicers: Callable[[grpc.Server], None],
        *,
        settings: rpc.RpcSettings | None = None,
        identities: Federation = federation,
    ) -> rpc.Target:
        party = identities.party(spiffe_id)
        server = rpc.Server(
            party.spiffe_id.role,
            party,
            "127.0.0.1:0",
            clock=identities.clock,
            servicers=servicers,
            settings=settings,
        )
        port = server.start()
        servers.append(server)
        return rpc.Target(f"127.0.0.1:{port}", party.spiffe_id)

    yield start
    for server in servers:
        assert server.stop(0).wait(10), "a call did not end"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A sparse raw image with 4 MiB of content that does not compress and that no host has yet."""
    path = tmp_path / "disk.raw"
    with path.open("xb") as file:
        file.truncate(32 * MIB + 512)
        for offset in (MIB, 30 * MIB + 512):
            file.seek(offset)
            file.write(os.urandom(2 * MIB))
    return path
