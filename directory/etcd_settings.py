"""Settings of etcd: table `[directory.etcd]`. Apart from the client, which needs etcd's stubs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EtcdSettings:
    """How to reach etcd."""

    endpoints: tuple[str, ...] = ()
    """Members' client addresses, host:port, in order of preference. Empty: no etcd."""

    ca: Path | None = None
    """Certificate authority that etcd's server certificates come from, PEM."""

    certificate: Path | None = None
    """This directory's client certificate, PEM; etcd demands one with --client-cert-auth."""

    key: Path | None = None
    """Its key, PEM."""

    user: str = ""
    """Name at etcd, with etcd's authentication switched on; empty without."""

    password_file: Path | None = None
    """File with the user's password."""

    prefix: str = "/watari/"
    """What all keys begin with: several federations may share an etcd."""
