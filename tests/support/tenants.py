"""Tenants of a local federation, with the command line."""

import tomllib
from typing import Any

from tests.support.command_line import CommandLine
from watari.cli.federation import configs

DOMAIN = "tokyo.internal"


def options_of(watari: CommandLine, name: str) -> list[str]:
    """Makes a tenant of Tokyo; the options that make the command line that tenant's."""
    folder = watari.state / f"user-{name}"
    ca = watari.state / "config" / "pki" / DOMAIN / "ca"
    watari.run("ca", "issue", "user", name, "--dir", str(ca), "--out", str(folder))
    settings: dict[str, Any] = tomllib.loads((watari.state / "client.toml").read_text())
    shown = {
        "certificate": str(folder / "cert.pem"),
        "key": str(folder / "key.pem"),
        "trust": str(folder / "trust"),
        "issuer": settings["client"]["clouds"]["tokyo"]["manager"],
    }
    settings["client"]["identity"] = shown
    for cloud in settings["client"]["clouds"].values():
        cloud["identity"] = shown
    path = watari.state / f"{name}.toml"
    path.write_text(configs.toml(settings))
    return ["--config", str(path)]
