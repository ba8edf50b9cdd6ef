"""How a host's libvirtd is configured: for a machine without systemd, D-Bus, virtlogd, cgroups.

Pure but for `write`.
"""

import uuid
from pathlib import Path

TCP_PORT = 16509
"""Of a libvirtd that others on the link may ask, without a question in return: lab only."""

_USER = "libvirt-qemu"
"""QEMU's, which libvirtd looks up even where its configuration names another one. A package with
units for systemd would make it; here it is in the host's own /etc/passwd.
"""
_USER_ID = 64_055

_NAMESPACE = uuid.UUID("6d7b0a5e-5c1f-4f2e-9a3b-2f6c1d1a7e10")

_QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
"""


def host_uuid(name: str) -> str:
    """The same for a name in every run."""
    return str(uuid.uuid5(_NAMESPACE, name))


def write(folder: Path, name: str, address: str) -> None:
    """The files of /etc/libvirt. With an address it is to listen there."""
    (folder / "qemu.conf").write_text(_QEMU_CONF)
    (folder / "libvirtd.conf").write_text(_libvirtd_conf(name, address))


def users(passwd: str, group: str) -> tuple[str, str]:
    """The machine's two files with what libvirtd looks up."""
    return (
        _with_line(passwd, f"{_USER}:x:{_USER_ID}:{_USER_ID}::/nonexistent:/usr/sbin/nologin"),
        _with_line(group, f"{_USER}:x:{_USER_ID}:"),
    )


def command(address: str) -> list[str]:
    """The command line of the daemon, in the foreground."""
    listen = ["--listen"] if address else []
    return ["/usr/sbin/libvirtd", *listen, "--pid-file", "/run/libvirt/libvirtd.pid"]


def _libvirtd_conf(name: str, address: str) -> str:
    lines = [
        f'host_uuid = "{host_uuid(name)}"',
        'auth_unix_rw = "none"',
        'auth_unix_ro = "none"',
        "listen_tls = 0",
        f"listen_tcp = {int(bool(address))}",
    ]
    if address:
        lines += [f'listen_addr = "{address}"', f'tcp_port = "{TCP_PORT}"', 'auth_tcp = "none"']
    return "\n".join(lines) + "\n"


def _with_line(text: str, line: str) -> str:
    known = any(each.startswith(f"{_USER}:") for each in text.splitlines())
    return text if known else f"{text.rstrip()}\n{line}\n"
