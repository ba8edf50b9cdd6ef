"""The paper's existing method: the whole image through IPsec, with nothing done to it (3.2.1).

A plain TCP stream inside the tunnel stands for the hypervisor's migration command: no copy of a
whole disk can do with less. Setting the tunnel up is not counted, as in the paper.
"""

import subprocess
import sys
from pathlib import Path

from bench.link import Link
from bench.methods import ipsec, plain
from bench.methods.result import Result, same, timed

NAME = "paper, existing (IPsec)"
SECONDS_MAX = 7200.0


def run(link: Link, image: Path, folder: Path) -> Result:
    """Sends every byte of the image, zeros too."""
    target = folder / "disk.img"
    with ipsec.tunnel(link, folder) as (_, inside):
        command = link.destination.command(
            sys.executable, plain.__file__, "receive", inside, target
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None  # noqa: S101 - for the type checker
            receiver.stdout.readline()
            send = link.source.command(sys.executable, plain.__file__, "send", inside, image)
            with timed(link) as measured:
                subprocess.run(send, check=True, timeout=SECONDS_MAX)
            code = receiver.wait(SECONDS_MAX)
    if code:
        raise RuntimeError(f"the receiver ended with {code}")
    return measured.result(NAME, same(image, target))
