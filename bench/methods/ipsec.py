"""IPsec between the two ends of a link: ESP with AES-128 and HMAC-SHA1, pre-shared key.

strongSwan with `kernel-libipsec`: ESP in userspace over TUN, for kernels without it. That one only
has tunnel mode, so there is a pair of addresses inside; the paper used transport mode, which saves
20 bytes of each packet. Each end has network and mounts of its own; nothing of the machine's own
configuration is read.
"""

import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.link import Link, Side

INSIDE = ("10.78.0.1", "10.78.0.2")
"""Addresses of source and destination inside the tunnel."""

PROPOSALS = ("aes128-sha1-modp2048", "aes128-sha1")
"""Of IKE and of ESP: the paper's table 3."""

PLUGINS = (
    "openssl random nonce aes sha1 sha2 hmac kdf gmp pem pkcs1 x509 pubkey constraints"
    " kernel-libipsec kernel-netlink socket-default vici updown"
)
MARK = "0x42"
"""Keeps the packets that carry ESP out of the tunnel."""

START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 10.0
_CHARON = "/usr/lib/ipsec/charon"


@contextlib.contextmanager
def tunnel(link: Link, folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses inside, as long as the block runs. Raises RuntimeError, CalledProcessError."""
    if not Path(_CHARON).exists() or shutil.which("swanctl", path="/usr/sbin") is None:
        raise RuntimeError("strongSwan is missing; run bench/setup.sh")
    secret = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        sides = (link.source, link.destination)
        daemons = [
            stack.enter_context(_daemon(side, folder / f"ipsec{number}", number, sides, secret))
            for number, side in enumerate(sides)
        ]
        daemons[0].initiate()
        yield INSIDE


class Daemon:
    """charon at one end, in mounts of its own."""

    def __init__(self, side: Side, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self._side = side
        self._folder = folder
        self._process = process

    def swanctl(self, *arguments: str) -> None:
        """Raises RuntimeError with what charon said."""
        uri = ("--uri", f"unix://{self._folder / 'charon.vici'}")
        command = self._side.command("swanctl", *arguments, *uri)
        environ = {"SWANCTL_DIR": str(self._folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        timeout = 2 * START_SECONDS_MAX
        ended = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environ, timeout=timeout
        )
        if ended.returncode:
            log = (self._folder / "charon.log").read_text()[-3000:]
            said = f"{ended.stdout}{ended.stderr}"
            raise RuntimeError(f"swanctl {arguments[0]}: {said}\n{log}")

    def await_ready(self) -> None:
        """Until charon takes commands."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (self._folder / "charon.vici").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "charon.log").read_text()[-3000:]
                raise RuntimeError(f"charon does not start:\n{log}")
            time.sleep(0.05)

    def initiate(self) -> None:
        """Negotiates keys with the other end."""
        self.swanctl("--initiate", "--child", "disk", "--timeout", str(int(START_SECONDS_MAX)))


@contextlib.contextmanager
def _daemon(
    side: Side, folder: Path, number: int, sides: tuple[Side, Side], secret: str
) -> Iterator[Daemon]:
    folder.mkdir()
    (folder / "strongswan.conf").write_text(_daemon_configuration(folder))
    (folder / "swanctl.conf").write_text(_connection(number, sides, secret))
    (folder / "swanctl.conf").chmod(0o600)
    side.run("ip", "address", "add", f"{INSIDE[number]}/32", "dev", "lo")
    # A /run of its own, for the pid file that charon insists on.
    script = 'mount -t tmpfs run /run && exec "$0"'
    command = side.command("unshare", "--mount", "sh", "-c", script, _CHARON)
    environ = {
        "STRONGSWAN_CONF": str(folder / "strongswan.conf"),
        "PATH": "/usr/sbin:/usr/bin:/bin",
    }
    with (folder / "charon.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        daemon = Daemon(side, folder, process)
        daemon.await_ready()
        daemon.swanctl("--load-all", "--file", str(folder / "swanctl.conf"))
        yield daemon
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)


def _daemon_configuration(folder: Path) -> str:
    return f"""charon {{
  load = {PLUGINS}
  filelog {{
    stderr {{
      default = 1
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{folder / "charon.vici"}
    }}
    kernel-netlink {{
      fwmark = !{MARK}
    }}
    socket-default {{
      fwmark = {MARK}
    }}
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
  }}
}}
"""


def _connection(number: int, sides: tuple[Side, Side], secret: str) -> str:
    own, peer = sides[number], sides[1 - number]
    ike, esp = PROPOSALS
    return f"""connections {{
  bench {{
    version = 2
    local_addrs = {own.address}
    remote_addrs = {peer.address}
    proposals = {ike}
    local {{
      auth = psk
      id = {own.address}
    }}
    remote {{
      auth = psk
      id = {peer.address}
    }}
    children {{
      disk {{
        local_ts = {INSIDE[number]}/32
        remote_ts = {INSIDE[1 - number]}/32
        esp_proposals = {esp}
      }}
    }}
  }}
}}
secrets {{
  ike-bench {{
    id = {peer.address}
    secret = {secret}
  }}
}}
"""
