"""`qemu-img convert` into an NBD export of the destination, under mutual TLS."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.link import Link
from bench.methods import daemons
from bench.methods.result import Result, same, timed

NAME = "qemu-img, NBD, TLS"
PORT = 10809
EXPORT = "disk"
HOST_NAME = "destination"
ANYWHERE = "0.0.0.0"  # noqa: S104 - on the link and beside it, in a namespace of its own
SECONDS_MAX = 7200.0
COROUTINES = 16
"""Requests under way at once: qemu-img's most."""


def run(link: Link, image: Path, folder: Path) -> Result:
    """Zeros are not sent; nothing is compressed."""
    target = folder / "disk.img"
    with target.open("wb") as file:
        file.truncate(image.stat().st_size)
    for end in ("server", "client"):
        _certificate(folder, end)
    with _export(link, folder, target):
        secret = f"tls-creds-x509,id=tls,endpoint=client,dir={folder / 'client'}"
        there = (
            f"driver=nbd,server.type=inet,server.host={link.destination.address},"
            f"server.port={PORT},export={EXPORT},tls-creds=tls,tls-hostname={HOST_NAME}"
        )
        convert = ("convert", "-n", "--target-is-zero", "-W", "-m", COROUTINES)
        command = ("qemu-img", *convert, "-f", "raw", "--object", secret, "--target-image-opts")
        with timed(link) as measured:
            whole = link.source.command(*command, image, there)
            subprocess.run(whole, check=True, timeout=SECONDS_MAX)
        flushing = time.monotonic()
        subprocess.run(["sync", str(target)], check=True)
        flushed = time.monotonic() - flushing
    return measured.result(NAME, same(image, target), flush_after=flushed)


@contextlib.contextmanager
def _export(link: Link, folder: Path, target: Path) -> Iterator[None]:
    secret = f"tls-creds-x509,id=tls,endpoint=server,dir={folder / 'server'},verify-peer=yes"
    options = ("--object", secret, "--tls-creds", "tls", "-x", EXPORT, "-f", "raw")
    listen = ("-b", ANYWHERE, "-p", PORT, "--persistent", "--shared", 2)
    with (folder / "qemu-nbd.log").open("wb") as log:
        process = subprocess.Popen(
            link.destination.command("qemu-nbd", *options, *listen, target), stdout=log, stderr=log
        )
    try:
        daemons.await_listening(link.destination.control, PORT, process)
        yield
    finally:
        process.terminate()
        process.wait(daemons.START_SECONDS_MAX)


def _certificate(folder: Path, end: str) -> None:
    """Key and certificate of one end, by an authority that is made with the first."""
    authority = folder / "authority"
    if not authority.exists():
        authority.mkdir()
        new = ("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", 2, "-subj", "/CN=bench")
        _openssl(*new, "-keyout", authority / "key.pem", "-out", authority / "cert.pem")
    own = folder / end
    own.mkdir()
    (own / "ca-cert.pem").write_bytes((authority / "cert.pem").read_bytes())
    name = HOST_NAME if end == "server" else "source"
    signed = ("-CA", authority / "cert.pem", "-CAkey", authority / "key.pem")
    named = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    plain = ("-addext", "basicConstraints=critical,CA:FALSE")
    key, cert = own / f"{end}-key.pem", own / f"{end}-cert.pem"
    leaf = ("req", "-x509", "-newkey", "ed25519", "-nodes", "-days", 2)
    _openssl(*leaf, *signed, *named, *plain, "-keyout", key, "-out", cert)


def _openssl(*arguments: object) -> None:
    command = ["openssl", *(str(each) for each in arguments)]
    subprocess.run(command, check=True, capture_output=True)
