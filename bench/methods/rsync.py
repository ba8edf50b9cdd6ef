"""`rsync -S -z --zc=zstd` over ssh, to a destination that has nothing of the image."""

import shlex
import subprocess
import time
from pathlib import Path

from bench.link import Link
from bench.methods import ssh
from bench.methods.result import Result, same, timed

NAME = "rsync"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Flushing is told apart from the move: rsync does not flush."""
    target = folder / "arrived.raw"
    with ssh.server(link, folder) as login:
        shell = shlex.join(login.options)
        options = ("-S", "-z", "--zc=zstd", "--zl=3", "-e", shell)
        command = ("rsync", *options, image, f"{login.host}:{target}")
        with timed(link) as measured:
            subprocess.run(link.source.command(*command), check=True)
        flushing = time.monotonic()
        subprocess.run(["sync", str(target)], check=True)
        flushed = time.monotonic() - flushing
    return measured.result(NAME, same(image, target), flush_after=flushed)
