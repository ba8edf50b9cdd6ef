"""The paper's existing method: the whole image through IPsec, with nothing done to it (3.2.1).

A plain TCP stream inside the tunnel stands for the hypervisor's migration command: no copy of a
whole disk can do with less. Setting the tunnel up is not counted, as in the paper.
"""

from pathlib import Path

from bench.link import Link
from bench.methods import ipsec, plain
from bench.methods.result import Result, same, timed

NAME = "paper, existing (IPsec)"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Sends every byte of the image, zeros too."""
    target = folder / "disk.img"
    with (
        ipsec.tunnel(link, folder) as (_, inside),
        plain.receiving(link.destination, inside, target) as finish,
    ):
        with timed(link) as measured:
            plain.send_from(link.source, inside, image)
        finish()
    return measured.result(NAME, same(image, target))
