"""Makes what the containers need, once: `python -m compose.prepare`.

```
STATE/client.toml             what the command line on this machine needs; written last
     /users/DOMAIN/           the user's certificate, key and trust in each cloud
     /services/NAME/          settings and certificates of a container, at /etc/watari there
     /secrets/NAME.pem        its key; NAME-etcd.pem its key at etcd
     /shelves/CLOUD/          a cloud's machines, at /var/lib/watari/shelf of its agent
                              CLOUD-database the password of its managers at PostgreSQL
     /authorities/            the providers', etcd's and PostgreSQL's; no container has them
```

What containers read belongs to the user that they run as, and so do the shelves. Everything else
belongs to whoever runs this.
"""

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from compose import machine, plan
from compose.store_pki import StoreAuthority
from watari import errors, identity
from watari.cli import image
from watari.cli.federation import configs
from watari.cli.federation import layout as layouts
from watari.clock import Clock, SystemClock
from watari.identity import Authority, Role, SpiffeId

STATE = Path(__file__).parent / "state"

OWNER_FOR_ROOT = 10_001
"""Containers run as whoever prepares them, except when that is root: then as this user."""

FOLDER_MODE = 0o700

PASSWORD_BYTES = 32
"""Random ones of each password."""

SAMPLE = "web-1"
SAMPLE_DISK_BYTES, SAMPLE_CONTENT_BYTES = 1024**3, 64 * 1024**2
"""A machine to begin with, in the first cloud."""


def prepare(state: Path, owner: int, ports: str, clock: Clock) -> bool:
    """Makes the state folder in one step; False when there is one.

    Raises FailedPrecondition CONFIG_INVALID when the folder is something else, and OSError.
    """
    if (state / "client.toml").exists():
        return False
    if state.exists():
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            f"{state} is there and is not what this makes",
            hint="look at it and remove it; containers that are started too early leave it behind",
        )
    with tempfile.TemporaryDirectory(dir=state.parent, prefix=".state-") as folder:
        made = Path(folder, "state")
        made.mkdir(mode=FOLDER_MODE)
        _make(made, owner, ports, clock)
        made.rename(state)
    return True


def _make(made: Path, owner: int, ports: str, clock: Clock) -> None:
    authorities = {domain: identity.create_ca(domain, clock) for domain in plan.domains()}
    for domain, authority in authorities.items():
        identity.save_key(made / "authorities" / f"{domain}.key", authority.key_pem)
        identity.save_certificate(made / "authorities" / f"{domain}.pem", authority.cert_pem)
    for service in plan.services():
        folder = made / "services" / service.name
        key = made / "secrets" / f"{service.name}.pem"
        _issue(service.spiffe_id, authorities, folder, key)
        role = service.spiffe_id.role
        (folder / f"{role}.toml").write_text(configs.toml(plan.settings(service)), "utf-8")
    for user in plan.users().values():
        folder = made / "users" / user.domain
        _issue(user, authorities, folder, folder / "key.pem")
    _make_etcd(made, clock)
    _make_database(made, clock)
    _make_shelves(made)
    for name in ("services", "secrets", "shelves"):
        machine.give(made / name, owner)
    (made / "client.toml").write_text(configs.toml(plan.client(ports)), "utf-8")


def _issue(
    party: SpiffeId, authorities: Mapping[str, Authority], folder: Path, key_path: Path
) -> None:
    """A party's certificate and key, and everyone trusting everyone."""
    certificate, key = authorities[party.domain].issue(party, plan.LEAF_SECONDS)
    identity.save_certificate(folder / "cert.pem", certificate)
    identity.save_key(key_path, key)
    for domain, authority in authorities.items():
        identity.save_certificate(folder / "trust" / f"{domain}.pem", authority.cert_pem)


def _make_etcd(made: Path, clock: Clock) -> None:
    authority = StoreAuthority("etcd", clock)
    identity.save_key(made / "authorities" / "etcd.key", authority.key_pem)
    identity.save_certificate(made / "authorities" / "etcd.pem", authority.cert_pem)
    for node in plan.ETCD_NODES:
        certificate, key = authority.node(node)
        folder = made / "services" / node
        identity.save_certificate(folder / "ca.pem", authority.cert_pem)
        identity.save_certificate(folder / "cert.pem", certificate)
        identity.save_key(made / "secrets" / f"{node}.pem", key)
    for service in plan.services():
        if "etcd" in plan.settings(service)[str(service.spiffe_id.role)]:
            certificate, key = authority.client(service.name)
            folder = made / "services" / service.name
            identity.save_certificate(folder / "etcd-ca.pem", authority.cert_pem)
            identity.save_certificate(folder / "etcd-cert.pem", certificate)
            identity.save_key(made / "secrets" / f"{service.name}-etcd.pem", key)


def _make_database(made: Path, clock: Clock) -> None:
    authority = StoreAuthority(plan.DATABASE, clock)
    identity.save_key(made / "authorities" / f"{plan.DATABASE}.key", authority.key_pem)
    identity.save_certificate(made / "authorities" / f"{plan.DATABASE}.pem", authority.cert_pem)
    certificate, key = authority.server(plan.DATABASE)
    identity.save_certificate(made / "services" / plan.DATABASE / "cert.pem", certificate)
    identity.save_key(made / "secrets" / f"{plan.DATABASE}.pem", key)
    for cloud in layouts.CLOUDS:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        path = made / "secrets" / f"{cloud.cloud_id}-database"
        identity.save_key(path, password.encode())
    for service in plan.services():
        if service.spiffe_id.role == Role.MANAGER:
            folder = made / "services" / service.name
            identity.save_certificate(folder / "database-ca.pem", authority.cert_pem)


def _make_shelves(made: Path) -> None:
    for cloud in layouts.CLOUDS:
        (made / "shelves" / cloud.cloud_id / "vms").mkdir(mode=FOLDER_MODE, parents=True)
    disk = made / "disk.raw"
    image.make_data_disk(disk, SAMPLE_DISK_BYTES, SAMPLE_CONTENT_BYTES)
    machine.put(made, layouts.CLOUDS[0].cloud_id, SAMPLE, [disk], move=True)


def default_owner() -> int:
    """The user that containers run as, unless something else is said."""
    return os.getuid() or OWNER_FOR_ROOT


def main() -> None:
    """Makes it and says what to do next."""
    parser = argparse.ArgumentParser(
        prog="python -m compose.prepare",
        description="Makes certificates, keys, settings and shelves of the federation in "
        "containers. What is there stays as it is.",
    )
    parser.add_argument("--state", type=Path, default=STATE, metavar="DIR", help="where to")
    parser.add_argument(
        "--owner",
        type=int,
        default=default_owner(),
        metavar="UID",
        help="user that the containers run as, which reads the keys (%(default)s)",
    )
    parser.add_argument(
        "--ports",
        default=plan.PORTS_DEFAULT,
        metavar="DIGITS",
        help="what published ports begin with, before two more digits (%(default)s)",
    )
    arguments = parser.parse_args()
    if not arguments.ports.isdigit() or not 10 <= int(arguments.ports) <= 654:
        parser.error("--ports: two or three digits, 10 to 654")
    try:
        new = prepare(arguments.state, arguments.owner, arguments.ports, SystemClock())
    except errors.WatariError as error:
        sys.exit(f"{error.message}\n  Next: {error.hint}")
    print("made" if new else "is there already:", arguments.state)


if __name__ == "__main__":
    main()
