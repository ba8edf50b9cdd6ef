"""Who is in the federation, where each listens, and its settings. Values only, no I/O.

Names are those of the services in compose.yaml, which are also their host names; paths are those
inside the containers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from watari.cli.federation import configs
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import CloudPlan
from watari.identity import Role, SpiffeId

HUB_DOMAIN = "hub.internal"
"""Provider of directories and broker, which belong to neither cloud."""

LEAF_SECONDS = 3650 * 24 * 3600
"""As long as their CA: no manager of this federation has its provider's CA, so nobody renews."""

ETCD_NODES = ("etcd-1", "etcd-2", "etcd-3")
ETCD_PORT = 2379

DATABASE = "postgresql"
"""Of all managers, each cloud with a database and a role of its own, named after it."""

STANDBYS = {"tokyo": 1}
"""Managers of a cloud that stand by, beside the one that works."""

DIRECTORY_PORT, CONTROL_PORT, DATA_PORT, BROKER_PORT = 7440, 7443, 7444, 7446
METRICS_PORT = 9440
"""What each listens on, in a container of its own."""

PORTS_DEFAULT = "74"
"""What published ports begin with; the last two digits are `Service.published`."""

SETTINGS_FOLDER, SECRETS_FOLDER, DATA_FOLDER = "/etc/watari", "/run/secrets", "/var/lib/watari"
"""Where a container has its settings and certificates, its keys, and what it keeps."""

KEY, ETCD_KEY, DATABASE_PASSWORD = "key.pem", "etcd-key.pem", "database-password"
"""Names of the secrets in a container."""


@dataclass(frozen=True)
class Service:
    """One server."""

    name: str
    """Of the service in compose.yaml."""
    spiffe_id: SpiffeId
    port: int
    """Its control port."""
    published: str = ""
    """Last two digits of the port of this machine that leads to it; empty: none does."""
    cloud: CloudPlan | None = None
    """Of a manager or an agent."""

    front: str = ""
    """Name of the service that passes connections on to it, and that others know; empty: none."""

    @property
    def address(self) -> str:
        """For the others."""
        return f"{self.front or self.name}:{self.port}"


def domains() -> tuple[str, ...]:
    """Every provider."""
    return (*(cloud.domain for cloud in layouts.CLOUDS), HUB_DOMAIN)


def services() -> tuple[Service, ...]:
    """Every server of Watari's."""
    hub = HUB_DOMAIN
    directories = (
        Service(f"directory-{at}", SpiffeId(hub, Role.DIRECTORY, name), DIRECTORY_PORT, published)
        for at, name, published in ((1, "one", "40"), (2, "two", "41"))
    )
    clouds = (
        service
        for cloud, published in zip(layouts.CLOUDS, ("43", "44"), strict=True)
        for service in _of_cloud(cloud, published)
    )
    broker = Service("broker", SpiffeId(hub, Role.BROKER, "main"), BROKER_PORT, "46")
    return (*directories, *clouds, broker)


def others() -> tuple[str, ...]:
    """Names of the servers that are not Watari's."""
    fronts = {each.front for each in services() if each.front}
    return (*ETCD_NODES, DATABASE, *sorted(fronts))


def _of_cloud(cloud: CloudPlan, published: str) -> tuple[Service, ...]:
    manager = SpiffeId(cloud.domain, Role.MANAGER, "main")
    agent = SpiffeId(cloud.domain, Role.AGENT, "host-1")
    name, standbys = f"{cloud.cloud_id}-manager", STANDBYS.get(cloud.cloud_id, 0)
    front = f"{cloud.cloud_id}-front" if standbys else ""
    names = [f"{name}-{at}" for at in range(1, standbys + 2)] if standbys else [name]
    return (
        *(Service(each, manager, CONTROL_PORT, published, cloud, front) for each in names),
        Service(f"{cloud.cloud_id}-agent", agent, CONTROL_PORT, "", cloud),
    )


def settings(service: Service) -> dict[str, Any]:
    """The settings file of a server: one table named after its role."""
    made: dict[str, Any] = {"address": f"0.0.0.0:{service.port}"}  # of its own network name space
    match service.spiffe_id.role:
        case Role.DIRECTORY:
            made |= _directory()
        case Role.BROKER:
            policies = {"path": f"{DATA_FOLDER}/policies.sqlite"}
            made |= {"directories": _directories(), "automation": policies}
        case Role.MANAGER if service.cloud:
            made |= _manager(service, service.cloud)
        case Role.AGENT if service.cloud:
            made |= _agent(service, service.cloud)
    key = f"{SECRETS_FOLDER}/{KEY}"
    made["identity"] = {"certificate": "cert.pem", "key": key, "trust": "trust"}
    return {str(service.spiffe_id.role): made}


def _directory() -> dict[str, Any]:
    return {
        "metrics": {"address": f"0.0.0.0:{METRICS_PORT}"},
        "etcd": {
            "endpoints": [f"{node}:{ETCD_PORT}" for node in ETCD_NODES],
            "ca": "etcd-ca.pem",
            "certificate": "etcd-cert.pem",
            "key": f"{SECRETS_FOLDER}/{ETCD_KEY}",
        },
    }


def _manager(service: Service, cloud: CloudPlan) -> dict[str, Any]:
    (agent,) = _found(Role.AGENT, cloud)
    return {
        "advertise_address": service.address,
        "cloud_id": cloud.cloud_id,
        "display_name": cloud.display_name,
        "jurisdiction": cloud.jurisdiction,
        "region": cloud.region,
        "brokers": [str(broker.spiffe_id) for broker in _found(Role.BROKER)],
        "agents": {agent.spiffe_id.name: _endpoint(agent)},
        "directories": _directories(),
        "prices": {
            "currency": "JPY",
            "vcpu_hour": cloud.vcpu_hour,
            "memory_gib_hour": cloud.memory_gib_hour,
            "disk_gib_month": cloud.disk_gib_month,
        },
        "store": {
            "url": f"postgresql://{cloud.cloud_id}@{DATABASE}/{cloud.cloud_id}"
            f"?sslrootcert={SETTINGS_FOLDER}/database-ca.pem",
            "password_file": f"{SECRETS_FOLDER}/{DATABASE_PASSWORD}",
        },
    }


def _agent(service: Service, cloud: CloudPlan) -> dict[str, Any]:
    manager, *_ = _found(Role.MANAGER, cloud)
    return {
        "advertised_address": service.address,
        "data_address": f"0.0.0.0:{DATA_PORT}",
        "advertised_data_address": f"{service.name}:{DATA_PORT}",
        "cloud_id": cloud.cloud_id,
        "host_id": service.spiffe_id.name,
        "manager": str(manager.spiffe_id),
        "shelf": f"{DATA_FOLDER}/shelf",
        "host": {"vcpus": configs.HOST_VCPUS, "memory_bytes": configs.HOST_MEMORY},
    }


def users() -> Mapping[str, SpiffeId]:
    """The user of each cloud, by cloud id."""
    return {
        cloud.cloud_id: SpiffeId(cloud.domain, Role.OPERATOR, layouts.USER_NAME)
        for cloud in layouts.CLOUDS
    }


def client(ports: str) -> dict[str, Any]:
    """What the command line on this machine needs; paths are relative to the state folder."""
    identities = {
        cloud_id: {
            "certificate": f"users/{user.domain}/cert.pem",
            "key": f"users/{user.domain}/key.pem",
            "trust": f"users/{user.domain}/trust",
        }
        for cloud_id, user in users().items()
    }
    (broker,) = _found(Role.BROKER)
    directory, *further = (_published(each, ports) for each in _found(Role.DIRECTORY))
    managers = {
        cloud.cloud_id: _published(manager, ports)
        for cloud in layouts.CLOUDS
        for manager in _found(Role.MANAGER, cloud)
    }
    return {
        "client": {
            "identity": next(iter(identities.values())),
            "directory": directory,
            "further_directories": further,
            "broker": _published(broker, ports),
            "clouds": {
                cloud_id: {"manager": manager, "identity": identities[cloud_id]}
                for cloud_id, manager in managers.items()
            },
        }
    }


def _directories() -> list[dict[str, str]]:
    return [_endpoint(directory) for directory in _found(Role.DIRECTORY)]


def _found(role: Role, cloud: CloudPlan | None = None) -> list[Service]:
    return [
        each
        for each in services()
        if each.spiffe_id.role == role and (cloud is None or each.cloud == cloud)
    ]


def _endpoint(service: Service) -> dict[str, str]:
    return {"address": service.address, "spiffe_id": str(service.spiffe_id)}


def _published(service: Service, ports: str) -> dict[str, str]:
    address = f"127.0.0.1:{ports}{service.published}"
    return {"address": address, "spiffe_id": str(service.spiffe_id)}
