"""`zstd -3 -T0 IMAGE | ssh DESTINATION zstd -d`: what somebody in a hurry types."""

import shlex
import subprocess
import time
from pathlib import Path

from bench.link import Link
from bench.methods import ssh
from bench.methods.result import Result, same, timed

NAME = "zstd | ssh"


def run(link: Link, image: Path, folder: Path) -> Result:
    """All processors compress, zeros become holes; flushing is told apart from the move."""
    target = folder / "arrived.raw"
    with ssh.server(link, folder) as login:
        compress = f"zstd -3 -T0 -q -c {shlex.quote(str(image))}"
        decompress = f"zstd -d -q -f --sparse -o {shlex.quote(str(target))}"
        over = shlex.join([*login.options, login.host, decompress])
        pipeline = f"set -o pipefail; {compress} | {over}"
        with timed(link) as measured:
            subprocess.run(link.source.command("bash", "-c", pipeline), check=True)
        flushing = time.monotonic()
        subprocess.run(["sync", str(target)], check=True)
        flushed = time.monotonic() - flushing
    return measured.result(NAME, same(image, target), flush_after=flushed)
