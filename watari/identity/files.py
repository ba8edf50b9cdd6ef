"""Certificates and keys on disk: written whole or not at all, keys for their owner only."""

import os
import stat
import uuid
from pathlib import Path

from watari import errors

PEM_BYTES_MAX = 256 * 1024
"""A larger certificate, key or trust file is refused before it is read."""


def save_key(path: Path, pem: bytes) -> None:
    """Write a private key, readable by its owner only, in place of what was there."""
    _replace(path, pem, 0o600)


def save_certificate(path: Path, pem: bytes) -> None:
    """Write a certificate or a trust bundle in place of what was there."""
    _replace(path, pem, 0o644)


def load_key(path: Path) -> bytes:
    """The private key at `path`, PEM.

    Raises FailedPrecondition: KEY_FILE_TOO_OPEN when group or others have any access,
    CREDENTIALS_UNREADABLE when it cannot be read.
    """
    return _read(path, private=True, bytes_max=PEM_BYTES_MAX)


def load_certificate(path: Path, bytes_max: int = PEM_BYTES_MAX) -> bytes:
    """The certificate or trust bundle at `path`, PEM.

    Raises FailedPrecondition CREDENTIALS_UNREADABLE.
    """
    return _read(path, private=False, bytes_max=bytes_max)


def _read(path: Path, *, private: bool, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            # The mode of what was opened, not of what the path names a moment later.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if private and mode & 0o077:
                raise errors.FailedPrecondition(
                    "KEY_FILE_TOO_OPEN",
                    f"{path} has mode {mode:04o}: others than its owner can reach this key",
                    hint=f"chmod 600 {path}; issue a new key if others may have read it",
                    path=path,
                )
            pem = file.read(bytes_max + 1)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if len(pem) > bytes_max:
        raise unreadable(path, f"larger than {bytes_max} bytes")
    return pem


def unreadable(path: Path, problem: str) -> errors.FailedPrecondition:
    """The error for a credentials file that cannot be used."""
    return errors.FailedPrecondition(
        "CREDENTIALS_UNREADABLE",
        f"{path}: {problem}",
        hint="check the path, or issue the identity again",
        path=path,
    )


def _replace(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # The mode is set at creation, so that a key is at no moment readable by others.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
