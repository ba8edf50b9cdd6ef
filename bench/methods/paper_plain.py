"""The paper's existing method if IPsec cost nothing: the whole image over one TCP connection, open.

No way to move a machine, as nothing protects it. It is the least that any IPsec, in whatever kernel
or card, could take: what is measured for the existing method cannot be blamed on ours.
"""

from pathlib import Path

from bench.link import Link
from bench.methods import plain
from bench.methods.result import Result, same, timed

NAME = "paper, existing without IPsec"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Sends every byte of the image, zeros too."""
    target = folder / "disk.img"
    with plain.receiving(link.destination, link.destination.address, target) as finish:
        with timed(link) as measured:
            plain.send_from(link.source, link.destination.address, image)
        finish()
    return measured.result(NAME, same(image, target))
