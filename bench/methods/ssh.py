"""An SSH server at the destination, with keys and a configuration of its own."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.link import Link
from bench.methods import daemons
from bench.methods.staged import Step

PORT = 2222
CIPHER = "aes128-gcm@openssh.com"
"""The fastest that OpenSSH has on processors with AES, and the paper's key length."""


@dataclass(frozen=True)
class Login:
    """How the source reaches the destination."""

    options: tuple[str, ...]
    """Command `ssh` with its options, without the host."""
    host: str


def copy(link: Link, login: Login, here: Path, there: Path) -> Step:
    """`scp` of a file from the source to the destination: the old protocol, no compression."""
    options = ["-P" if each == "-p" else each for each in login.options[1:]]
    return Step(
        "copy", link.source, ("scp", "-q", "-O", *options, here, f"{login.host}:{there}"), there
    )


@contextlib.contextmanager
def server(link: Link, folder: Path) -> Iterator[Login]:
    """Serves for the length of the block. `folder` takes the keys. Raises RuntimeError."""
    daemon = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    if daemon is None:
        raise RuntimeError("sshd is missing; run bench/setup.sh")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host_key, key = folder / "host_key", folder / "key"
    for path in (host_key, key):
        _make_key(path)
    known = folder / "known_hosts"
    address = link.destination.address
    known.write_text(f"[{address}]:{PORT} {host_key.with_suffix('.pub').read_text()}")
    config = folder / "sshd_config"
    config.write_text(_configuration(address, host_key, key.with_suffix(".pub")))
    with (folder / "sshd.log").open("ab") as log:
        process = subprocess.Popen(
            link.destination.command(daemon, "-D", "-e", "-f", config), stdout=log, stderr=log
        )
    try:
        daemons.await_listening(link.destination.control, PORT, process)
        options = ("ssh", "-F", "none", "-p", str(PORT), "-i", str(key), "-c", CIPHER)
        settings = ("BatchMode=yes", f"UserKnownHostsFile={known}", "IdentitiesOnly=yes")
        joined = tuple(part for each in settings for part in ("-o", each))
        yield Login((*options, *joined), f"root@{address}")
    finally:
        process.terminate()
        process.wait(daemons.START_SECONDS_MAX)


def _make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(path)]
    subprocess.run(command, check=True)


def _configuration(address: str, host_key: Path, authorized: Path) -> str:
    return f"""ListenAddress 0.0.0.0:{PORT}
HostKey {host_key}
AuthorizedKeysFile {authorized}
PidFile none
UsePAM no
StrictModes no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
Ciphers {CIPHER}
AllowUsers root@{".".join(address.split(".")[:3])}.*
"""
