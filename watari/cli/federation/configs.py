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

from watari import errors, identity
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import CloudPlan, Layout, Process
from watari.clock import Clock
from watari.identity import Role, SpiffeId

LEAF_SECONDS = 3650 * 24 * 3600
"""As long as their CA: nobody renews the certificates of a federation on one machine."""

PORT_MIN, PORT_MAX = 20_000, 29_999
"""Below what Linux gives to outgoing connections (from 32,768), one of which could otherwise sit on
a server's port when the server is started again."""

FRESH_SECONDS = 1.0
"""How old inventories and snapshots may get: everything is on one machine, so looking is cheap."""

HOST_VCPUS, HOST_MEMORY = 16, "64GiB"
"""What each cloud's one host offers, whatever this machine has: machines on a shelf are off and use
none of it. The disk is this machine's."""

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Addresses:
    """host:port of every server, by process name, and of the agents' data ports."""

    control: Mapping[str, str]
    data: Mapping[str, str]


def ensure(layout: Layout, clock: Clock) -> None:
    """Makes what is missing. What is there stays as it is. Raises OSError."""
    if layout.is_configured:
        return
    addresses = _addresses()
    with tempfile.TemporaryDirectory(dir=layout.root, prefix=".config-") as folder:
        made = Path(folder, "config")
        made.mkdir(mode=layouts.FOLDER_MODE)
        _make_identities(made / "pki", clock)
        for process in layouts.processes():
            section = {process.module: _service(process, addresses)}
            (made / f"{process.name}.toml").write_text(toml(section), "utf-8")
        # Before the rename: a configured federation has client settings.
        partial = layout.client.with_suffix(".partial")
        partial.write_text(toml({"client": _client(addresses)}), "utf-8")
        partial.replace(layout.client)
        made.rename(layout.config)


def free_ports(count: int) -> list[int]:
    """Different ports between PORT_MIN and PORT_MAX that nobody listens on.

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
                candidate.bind((_HOST, port))
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


def _make_identities(folder: Path, clock: Clock) -> None:
    """One CA for each provider, a certificate for each party, and everyone trusting everyone."""
    authorities = [identity.create_ca(domain, clock) for domain in layouts.domains()]
    for authority in authorities:
        provider = folder / authority.domain
        provider.mkdir(mode=layouts.FOLDER_MODE, parents=True)
        identity.save_key(provider / "ca.key", authority.key_pem)
        identity.save_certificate(provider / "ca.pem", authority.cert_pem)
        for other in authorities:
            identity.save_certificate(provider / "trust" / f"{other.domain}.pem", other.cert_pem)
        for party in _parties(authority.domain):
            certificate, key = authority.issue(party, LEAF_SECONDS)
            identity.save_certificate(provider / f"{party.role}-{party.name}.pem", certificate)
            identity.save_key(provider / f"{party.role}-{party.name}.key", key)


def _parties(domain: str) -> list[SpiffeId]:
    servers = [process.spiffe_id for process in layouts.processes()]
    operator = SpiffeId(domain, Role.OPERATOR, layouts.OPERATOR_NAME)
    return [*(server for server in servers if server.domain == domain), operator]


def _addresses() -> Addresses:
    control = [process.name for process in layouts.processes()]
    data = [process.name for process in layouts.processes() if process.module == "agent"]
    ports = [f"{_HOST}:{port}" for port in free_ports(len(control) + len(data))]
    return Addresses(
        dict(zip(control, ports, strict=False)),
        dict(zip(data, ports[len(control) :], strict=True)),
    )


def _service(process: Process, addresses: Addresses) -> dict[str, Any]:
    """The settings of one process."""
    made: dict[str, Any] = {"address": addresses.control[process.name]}
    data = f"../data/{process.name}"
    match process.spiffe_id.role:
        case Role.DIRECTORY:
            made |= {"state_path": f"{data}/directory.sqlite"}
        case Role.BROKER:
            made |= {"directories": [_endpoint("directory", addresses)]}
            made["catalogue"] = {"refresh_seconds_min": FRESH_SECONDS}
        case Role.AGENT:
            made |= _agent(process, data, addresses)
        case Role.MANAGER:
            made |= _manager(_cloud_of(process), data, addresses)
    return made | {"identity": _identity(process.spiffe_id)}


def _agent(process: Process, data: str, addresses: Addresses) -> dict[str, Any]:
    cloud = _cloud_of(process)
    return {
        "cloud_id": cloud.cloud_id,
        "host_id": process.spiffe_id.name,
        "data_address": addresses.data[process.name],
        "manager": str(SpiffeId(cloud.domain, Role.MANAGER, "main")),
        "shelf": f"{data}/shelf",
        "host": {"vcpus": HOST_VCPUS, "memory_bytes": HOST_MEMORY},
    }


def _manager(cloud: CloudPlan, data: str, addresses: Addresses) -> dict[str, Any]:
    return {
        "cloud_id": cloud.cloud_id,
        "display_name": cloud.display_name,
        "jurisdiction": cloud.jurisdiction,
        "region": cloud.region,
        "brokers": [str(SpiffeId(layouts.HUB_DOMAIN, Role.BROKER, "main"))],
        "agents": {"host-1": _endpoint(f"{cloud.cloud_id}-agent", addresses)},
        "directories": [_endpoint("directory", addresses)],
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


def _client(addresses: Addresses) -> dict[str, Any]:
    users = {
        cloud.cloud_id: SpiffeId(cloud.domain, Role.OPERATOR, layouts.OPERATOR_NAME)
        for cloud in layouts.CLOUDS
    }
    return {
        "identity": _identity(next(iter(users.values())), "config/pki"),
        "directory": _endpoint("directory", addresses),
        "broker": _endpoint("broker", addresses),
        "clouds": {
            cloud_id: {
                "manager": _endpoint(f"{cloud_id}-manager", addresses),
                "identity": _identity(user, "config/pki"),
            }
            for cloud_id, user in users.items()
        },
    }


def _identity(party: SpiffeId, pki: str = "pki") -> dict[str, str]:
    stem = f"{pki}/{party.domain}/{party.role}-{party.name}"
    trust = f"{pki}/{party.domain}/trust"
    return {"certificate": f"{stem}.pem", "key": f"{stem}.key", "trust": trust}


def _endpoint(name: str, addresses: Addresses) -> dict[str, str]:
    (process,) = (each for each in layouts.processes() if each.name == name)
    return {"address": addresses.control[name], "spiffe_id": str(process.spiffe_id)}


def _cloud_of(process: Process) -> CloudPlan:
    (cloud,) = (each for each in layouts.CLOUDS if each.domain == process.spiffe_id.domain)
    return cloud
