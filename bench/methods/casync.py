"""`casync make` into a store at the destination over ssh, and `casync extract` there.

Chunks are cut by content, compressed by zstd, and each is sent once; zeros are chunks like others.
The store is empty: casync has no memory of what the destination's disks hold.
"""

import os
import shlex
from pathlib import Path

from bench.link import Link
from bench.methods import ssh, staged
from bench.methods.result import Result, same, timed

NAME = "casync"


def run(link: Link, image: Path, folder: Path) -> Result:
    """Two steps, one after another, as casync has no way to do both at once."""
    store, index = folder / "disk.castr", folder / "disk.caibx"
    target = folder / "disk.img"
    with ssh.server(link, folder) as login:
        program = _program(folder / "ssh.sh", login)
        pushing = ("--store", f"{login.host}:{store}", "make", f"{login.host}:{index}", image)
        steps = [
            staged.Step(
                "push",
                link.source,
                ("casync", "--compression=zstd", *pushing),
                index,
                environ=os.environ | {"CASYNC_SSH_PATH": str(program)},
                quiet=True,
            ),
            staged.Step(
                "extract",
                link.destination,
                ("casync", "--store", store, "extract", index, target),
                target,
            ),
        ]
        with timed(link) as measured:
            stages = staged.run(steps)
    return measured.result(NAME, same(image, target), **stages)


def _program(path: Path, login: ssh.Login) -> Path:
    """What casync runs instead of `ssh`: it knows no other options than a host."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(login.options)} "$@"\n')
    path.chmod(0o755)
    return path
