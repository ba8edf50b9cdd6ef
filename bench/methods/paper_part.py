"""The paper's proposal, meaningful part: compress, encrypt, copy, decrypt, decompress (3.2.3).

The paper does not name its compressor; gzip is what its Debian had. What gzip writes back is the
whole image, zeros and all.
"""

from pathlib import Path

from bench.link import Link
from bench.methods import openssl, ssh, staged
from bench.methods.result import Result, same, timed

NAME = "paper, meaningful part"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Five steps, one after another."""
    source, destination = openssl.ends(folder)
    packed, sealed = source / "disk.img.gz", source / "disk.img.gz.enc"
    arrived, opened = destination / "disk.img.gz.enc", destination / "disk.img.gz"
    target = destination / "disk.img"
    unpack = ("gzip", "-d", "-c", opened)
    with ssh.server(link, folder) as login:
        steps = [
            staged.Step("compress", link.source, ("gzip", "-c", image), packed, stdout=True),
            openssl.encrypt(link, folder, packed, sealed),
            ssh.copy(link, login, sealed, arrived),
            openssl.decrypt(link, folder, arrived, opened),
            staged.Step("decompress", link.destination, unpack, target, stdout=True),
        ]
        with timed(link) as measured:
            stages = staged.run(steps)
    return measured.result(NAME, same(image, target), **stages)
