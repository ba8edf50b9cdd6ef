"""Makes the local federation's certificates, settings and ports, once, in one step.

Paths in the settings are relative, so the whole folder may be moved while nothing runs.
"""

import json
import random
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watari import bundles, errors, identity, keeper
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import CloudPlan, Layout, Plan, Process
from watari.clock import Clock
from watari.identity import Authority, Identity, Role, SpiffeId, TrustStore

PORT_MIN, PORT_MAX = 20_000, 29_999
"""Below what Linux gives to outgoing connections (from 32,768), one of which could otherwise sit on
a server's port when the server is started again."""

FRESH_SECONDS = 1.0
"""How old inventories and snapshots may get: everything is on one machine, so looking is cheap."""

EVALUATE_SECONDS = 5.0
"""Between two evaluations of policies, which somebody who tries them out waits for."""

HOST_VCPUS, HOST_MEMORY = 16, "64GiB"
"""What each cloud's one host offers, whatever this machine has: machines on a shelf are off and use
none of it. The disk is this machine's."""


@dataclass(frozen=True)
class Addresses:
    """host:port of every server, by process name, and of the agents' data ports."""

    control: Mapping[str, str]
    data: Mapping[str, str]


def ensure(layout: Layout, clock: Clock) -> None:
    """Makes what is missing, and issues certificates again that have been lying for long. What else
    is there stays as it is. Raises OSError.
    """
    if layout.is_configured:
        _renew(layout, clock)
        return
    plan = layout.plan
    addresses = _addresses(plan)
    with tempfile.TemporaryDirectory(dir=layout.root, prefix=".config-") as folder:
        made = Path(folder, "config")
        made.mkdir(mode=layouts.FOLDER_MODE)
        _make_identities(Layout(Path(folder)), plan, clock)
        for process in plan.processes():
            section = {process.module: _service(plan, process, addresses)}
            (made / f"{process.name}.toml").write_text(toml(section), "utf-8")
        # Before the rename: a configured federation has client settings.
        partial = layout.client.with_suffix(".partial")
        partial.write_text(toml({"client": _client(plan, addresses)}), "utf-8")
        partial.replace(layout.client)
        made.rename(layout.config)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports between PORT_MIN and PORT_MAX that nobody listens on at an address.

    Raises FailedPrecondition START_FAILED when there are not enough.
    """
    found: list[int] = []
    candidates = random.sample(range(PORT_MIN, PORT_MAX + 1), PORT_MAX + 1 - PORT_MIN)
    with ExitStack() as held:
        for port in candidates:
            if len(found) == count:
                return found
            candidate = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                candidate.bind((host, port))
            except OSError:  # taken: that is what was to be found out
                continue
            found.append(port)
    raise errors.FailedPrecondition(
        "START_FAILED",
        f"fewer than {count} ports of {PORT_MIN} to {PORT_MAX} are free",
        hint="end programs that listen there",
    )


def toml(table: Mapping[str, Any]) -> str:
    """TOML text of nested tables of text, numbers, booleans, and lists of these or of tables."""
    return "\n".join(_lines(table, "")).strip() + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    inner: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in table.items():
        name = f"{path}.{key}".removeprefix(".")
        if isinstance(value, Mapping):
            inner.append((f"[{name}]", value))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            inner.extend((f"[[{name}]]", item) for item in value)
        else:
            # JSON's text, numbers, booleans and lists of them are TOML's, DEL in text apart.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            yield f"{key} = {text}"
    for header, value in inner:
        nested = value and all(isinstance(each, Mapping) for each in value.values())
        if header.startswith("[[") or not nested:
            yield f"\n{header}"  # that of a table of nothing but tables follows from theirs
        yield from _lines(value, header.strip("[]"))


def _make_identities(layout: Layout, plan: Plan, clock: Clock) -> None:
    """A CA for each provider and a certificate for each of its parties, who trust nobody else."""
    for domain in plan.domains:
        authority = identity.create_ca(domain, clock)
        authority.save(layout.authority(domain))
        for party in _parties(plan, domain):
            folder = layout.credentials(party)
            folder.mkdir(mode=layouts.FOLDER_MODE, parents=True)
            own = Identity(party, *authority.issue(party), _trust(folder, authority))
            own.save(folder)


def _trust(folder: Path, authority: Authority) -> TrustStore:
    trust = folder / "trust"
    bundles.believe(trust, authority)
    return TrustStore(trust)


def _renew(layout: Layout, clock: Clock) -> None:
    """Whoever was off for long cannot have its certificate renewed by its manager: it has run out.
    Servers that run look at their files.
    """
    for domain in layout.plan.domains:
        authority = Authority.load(layout.authority(domain), clock)
        for party in _parties(layout.plan, domain):
            folder = layout.credentials(party)
            _trust(folder, authority)  # which may have changed while the party was off
            own = Identity.load_folder(folder)
            if keeper.is_due(own, clock):
                own.replace(*authority.issue(party))


def _parties(plan: Plan, domain: str) -> list[SpiffeId]:
    servers = [process.spiffe_id for process in plan.processes()]
    operator = SpiffeId(domain, Role.OPERATOR, layouts.USER_NAME)
    return [*(server for server in servers if server.domain == domain), operator]


def _addresses(plan: Plan) -> Addresses:
    control = [process.name for process in plan.processes()]
    data = [process.name for process in plan.processes() if process.module == "agent"]
    found = free_ports(len(control) + len(data), plan.host)
    ports = [f"{plan.host}:{port}" for port in found]
    return Addresses(
        dict(zip(control, ports, strict=False)),
        dict(zip(data, ports[len(control) :], strict=True)),
    )


def _service(plan: Plan, process: Process, addresses: Addresses) -> dict[str, Any]:
    """The settings of one process."""
    made: dict[str, Any] = {"address": addresses.control[process.name]}
    own = _identity(process.spiffe_id)
    data = f"../data/{process.name}"
    match process.spiffe_id.role:
        case Role.DIRECTORY:
            made |= {"state_path": f"{data}/directory.sqlite"}
        case Role.BROKER:
            made |= {"directories": [_endpoint(plan, "directory", addresses)]}
            made["catalogue"] = {"refresh_seconds_min": FRESH_SECONDS}
            path = f"{data}/automation.sqlite"
            made["automation"] = {"path": path, "interval_seconds": EVALUATE_SECONDS}
        case Role.AGENT:
            made |= _agent(plan, process, data, addresses)
        case Role.MANAGER:
            made |= _manager(plan, plan.cloud_of(process.spiffe_id.domain), data, addresses)
            made["authority"] = {"folder": f"pki/{process.spiffe_id.domain}/ca"}
            return made | {"identity": own}
    manager = plan.manager(process.spiffe_id.domain)
    return made | {"identity": own | {"issuer": _endpoint(plan, manager.name, addresses)}}


def _agent(plan: Plan, process: Process, data: str, addresses: Addresses) -> dict[str, Any]:
    cloud = plan.cloud_of(process.spiffe_id.domain)
    return {
        "cloud_id": cloud.cloud_id,
        "host_id": process.spiffe_id.name,
        "data_address": addresses.data[process.name],
        "manager": str(SpiffeId(cloud.domain, Role.MANAGER, "main")),
        "shelf": f"{data}/shelf",
        "host": {"vcpus": HOST_VCPUS, "memory_bytes": HOST_MEMORY},
    }


def _manager(plan: Plan, cloud: CloudPlan, data: str, addresses: Addresses) -> dict[str, Any]:
    made: dict[str, Any] = {
        "cloud_id": cloud.cloud_id,
        "display_name": cloud.display_name,
        "jurisdiction": cloud.jurisdiction,
        "region": cloud.region,
        "agents": {"host-1": _endpoint(plan, f"{cloud.cloud_id}-agent", addresses)},
        "prices": {
            "currency": "JPY",
            "vcpu_hour": cloud.vcpu_hour,
            "memory_gib_hour": cloud.memory_gib_hour,
            "disk_gib_month": cloud.disk_gib_month,
        },
        "store": {"path": f"{data}/manager.sqlite"},
        "hosts": {"poll_seconds": FRESH_SECONDS},
        "publish": {"check_seconds": FRESH_SECONDS, "learn_seconds": FRESH_SECONDS},
    }
    if plan.catalogue:
        made["brokers"] = [str(SpiffeId(plan.domains[0], Role.BROKER, "main"))]
        made["directories"] = [_endpoint(plan, "directory", addresses)]
    return made


def _client(plan: Plan, addresses: Addresses) -> dict[str, Any]:
    clouds = {}
    for cloud in plan.clouds:
        operator = SpiffeId(cloud.domain, Role.OPERATOR, layouts.USER_NAME)
        manager = _endpoint(plan, f"{cloud.cloud_id}-manager", addresses)
        own = _identity(operator, "config/pki") | {"issuer": manager}
        clouds[cloud.cloud_id] = {"manager": manager, "identity": own}
    made: dict[str, Any] = {"identity": clouds[plan.clouds[0].cloud_id]["identity"]}
    if plan.catalogue:
        made["directory"] = _endpoint(plan, "directory", addresses)
        made["broker"] = _endpoint(plan, "broker", addresses)
    return made | {"clouds": clouds}


def _identity(party: SpiffeId, pki: str = "pki") -> dict[str, Any]:
    folder = f"{pki}/{party.domain}/{party.role}-{party.name}"
    return {
        "certificate": f"{folder}/cert.pem",
        "key": f"{folder}/key.pem",
        "trust": f"{folder}/trust",
    }


def _endpoint(plan: Plan, name: str, addresses: Addresses) -> dict[str, str]:
    (process,) = (each for each in plan.processes() if each.name == name)
    return {"address": addresses.control[name], "spiffe_id": str(process.spiffe_id)}
