"""The paper's proposal, whole VM: encrypt the image, copy it, decrypt it (its section 3.2.2).

`openssl` AES-128 as in the paper, with a key from a passphrase file; `scp` without compression.
"""

from pathlib import Path

from bench.link import Link
from bench.methods import openssl, ssh, staged
from bench.methods.result import Result, same, timed

NAME = "paper, whole VM"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Three steps, one after another."""
    source, destination = openssl.ends(folder)
    sealed, arrived = source / "disk.img.enc", destination / "disk.img.enc"
    target = destination / "disk.img"
    with ssh.server(link, folder) as login:
        steps = [
            openssl.encrypt(link, folder, image, sealed),
            ssh.copy(link, login, sealed, arrived),
            openssl.decrypt(link, folder, arrived, target),
        ]
        with timed(link) as measured:
            stages = staged.run(steps)
    return measured.result(NAME, same(image, target), **stages)
