"""The peer: libvirt's own live migration with its disks, over TLS.

`virsh migrate --live --copy-storage-all --tls`: libvirt's control connection, QEMU's stream of the
memory and its NBD stream of the disk are TLS, each side with a certificate of an authority of the
run. Memory goes along while the guest runs, which Watari does not do.
"""

import subprocess
import time
from pathlib import Path

from bench.running.guests import DISK
from tests.lab.guests import Guest
from tests.lab.hosts import Host
from tests.lab.link import Lab

TLS_PORT = 16514
DOWNTIME_MS = 2000
"""What QEMU may stop the guest for: as much as Watari's target."""

MIGRATE_SECONDS_MAX = 600.0
PLAIN_SECONDS_MAX = 180.0
"""For a mirror that may never catch up with the guest."""

GUEST_SECONDS_MAX = 30.0
_FILES = {
    "cacert.pem": "authority.pem",
    "ca-cert.pem": "authority.pem",
    "servercert.pem": "cert.pem",
    "server-cert.pem": "cert.pem",
    "clientcert.pem": "cert.pem",
    "client-cert.pem": "cert.pem",
    "serverkey.pem": "key.pem",
    "server-key.pem": "key.pem",
    "clientkey.pem": "key.pem",
    "client-key.pem": "key.pem",
}
"""What libvirt and QEMU call them; each host's certificate serves in both directions."""

_LIBVIRTD_CONF = """\
tls_port = "{port}"
ca_file = "{keys}/cacert.pem"
cert_file = "{keys}/servercert.pem"
key_file = "{keys}/serverkey.pem"
"""
_QEMU_CONF = """\
default_tls_x509_cert_dir = "{keys}"
default_tls_x509_verify = 1
"""


def prepare(lab: Lab) -> None:
    """Both libvirtds listen with TLS, and so will their QEMUs."""
    authority = lab.tokyo.work / "authority"
    authority.mkdir()
    new = ("req", "-x509", *_NEW_KEY, "-days", 2, "-subj", "/CN=bench")
    _openssl(*new, "-keyout", authority / "key.pem", "-out", authority / "cert.pem")
    for host in lab.hosts:
        keys = _certificate(host, authority)
        conf = host.folder / "etc" / "libvirtd.conf"
        lines = conf.read_text().replace("listen_tls = 0", "listen_tls = 1")
        conf.write_text(lines + _LIBVIRTD_CONF.format(port=TLS_PORT, keys=keys))
        with (host.folder / "etc" / "qemu.conf").open("a") as file:
            file.write(_QEMU_CONF.format(keys=keys))
        host.kill_libvirtd()
        host.start_libvirtd()


def migrate(
    lab: Lab, guest: Guest, kind: str, disk_bytes: int, *, synchronous: bool
) -> dict[str, str]:
    """Moves the guest from tokyo to osaka; what libvirt tells of it afterwards.

    `synchronous`: what the guest writes is at the destination before the guest is told that it is
    written. Without, a guest that never rests is never mirrored to its end: raises TimeoutExpired.
    """
    there = lab.osaka.work / guest.spec.name / guest.disk(DISK).name
    there.parent.mkdir()
    create = ("qemu-img", "create", "-q", "-f", kind, there, disk_bytes)
    lab.osaka.run(create)
    xml = lab.tokyo.virsh("dumpxml", "--migratable", guest.spec.name)
    moved = lab.tokyo.work / "moved.xml"
    moved.write_text(xml.replace(str(guest.disk(DISK)), str(there)))
    lab.tokyo.virsh("migrate-setmaxdowntime", guest.spec.name, DOWNTIME_MS)
    keys = lab.tokyo.work / "keys"
    uri = f"qemu+tls://{lab.osaka.name}:{TLS_PORT}/system?pkipath={keys}"
    how = ["--live", "--persistent", "--undefinesource", "--copy-storage-all", "--tls"]
    how += ["--copy-storage-synchronous-writes"] if synchronous else []
    how += ["--xml", str(moved), "--persistent-xml", str(moved)]
    seconds = MIGRATE_SECONDS_MAX if synchronous else PLAIN_SECONDS_MAX
    lab.tokyo.virsh("migrate", *how, guest.spec.name, uri, timeout_seconds=seconds)
    return _told(lab.osaka, guest.spec.name)


def _told(host: Host, name: str) -> dict[str, str]:
    """Of the migration that has ended, as libvirt tells it where the guest is now."""
    deadline = time.monotonic() + GUEST_SECONDS_MAX
    while True:
        done = host.run(["virsh", "--quiet", "domjobinfo", name, "--completed"], check=False)
        pairs = (line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
        told = {key.strip(): " ".join(value.split()) for key, value in pairs}
        if told or time.monotonic() > deadline:
            return told
        time.sleep(0.1)


def _certificate(host: Host, authority: Path) -> Path:
    keys = host.work / "keys"
    keys.mkdir()
    signed = ("-CA", authority / "cert.pem", "-CAkey", authority / "key.pem")
    names = f"subjectAltName=DNS:{host.name},IP:{host.address}"
    extensions = ("-addext", names, "-addext", "basicConstraints=critical,CA:FALSE")
    leaf = ("req", "-x509", *_NEW_KEY, "-days", 2, "-subj", f"/CN={host.name}")
    _openssl(*leaf, *signed, *extensions, "-keyout", keys / "key.pem", "-out", keys / "cert.pem")
    (keys / "authority.pem").write_bytes((authority / "cert.pem").read_bytes())
    for name, source in _FILES.items():
        (keys / name).symlink_to(source)
    return keys


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    command = ["openssl", *(str(each) for each in arguments)]
    subprocess.run(command, check=True, capture_output=True)
