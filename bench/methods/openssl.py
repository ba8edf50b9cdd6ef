"""`openssl enc` with AES-128 as a step, and the folders between which the paper's methods copy."""

import secrets
from pathlib import Path

from bench.link import Link
from bench.methods.staged import Step

CIPHER = "-aes-128-cbc"
"""What the paper's openssl had; `openssl enc` has no authenticated mode to this day."""

ITERATIONS = 10_000
"""OpenSSL's default for -pbkdf2."""


def ends(folder: Path) -> tuple[Path, Path]:
    """Folders for what the source and the destination have, and the key that both know."""
    made = folder / "source", folder / "destination"
    for path in made:
        path.mkdir()
    key = folder / "passphrase"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32) + "\n")
    return made


def encrypt(link: Link, folder: Path, plain: Path, sealed: Path) -> Step:
    """At the source."""
    return Step("encrypt", link.source, _command(folder, "-e", plain, sealed), sealed)


def decrypt(link: Link, folder: Path, sealed: Path, plain: Path) -> Step:
    """At the destination."""
    return Step("decrypt", link.destination, _command(folder, "-d", sealed, plain), plain)


def _command(folder: Path, way: str, read: Path, write: Path) -> tuple[object, ...]:
    derived = ("-pbkdf2", "-iter", ITERATIONS, "-pass", f"file:{folder / 'passphrase'}")
    return ("openssl", "enc", way, CIPHER, *derived, "-in", read, "-out", write)
