"""A wrapper around QEMU for pre-copy under TCG.

QEMU 7.2 under TCG loses dirty bits of RAM that is a multiple of 64 pages, and so corrupts a guest
that writes while it is migrated live. 8 KiB more than libvirt asked for avoid that. Save and
restore, post-copy and KVM are not concerned. Source and destination must both use it.
"""

import sys
from pathlib import Path

QEMU = "/usr/bin/qemu-system-x86_64"
EXTRA_KIB = 8

_PROGRAM = """\
#!{python} -I
import os, re, sys

def memory(text):
    found = re.fullmatch(r"(size=)?(\\d+)([kKmM]?)", text)
    kib = int(found[2]) * (1 if found[3] in ("k", "K") else 1024) if found else 0
    return f"{{found[1] or ''}}{{kib + {extra}}}K" if found else text

def backend(text):
    more = lambda found: found[1] + str(int(found[2]) + {extra} * 1024)
    return re.sub(r'("size":)(\\d+)', more, text) if "memory-backend" in text else text

argv = sys.argv[1:]
for number, option in enumerate(argv[:-1], start=1):
    if option == "-m":
        argv[number] = memory(argv[number])
    elif option == "-object":
        argv[number] = backend(argv[number])
os.execv("{qemu}", ["{qemu}", *argv])
"""


def write(folder: Path) -> Path:
    """Makes the wrapper there, for `Spec.emulator`."""
    path = folder / "qemu-system-x86_64"
    path.write_text(_PROGRAM.format(python=sys.executable, extra=EXTRA_KIB, qemu=QEMU))
    path.chmod(0o755)
    return path
