"""The keys under which content is described, one for each scope: whoever may share content.

A scope is a name such as `alpha.example/tenant-1`. Its key comes from a secret that never leaves
this host, so nobody else can compute a digest or a fingerprint that means anything here, and two
scopes describe the same content differently.
"""

import os
import secrets
from pathlib import Path

from blake3 import blake3

from agent import files
from watari import errors

SECRET_BYTES = 32
"""The host's secret, and a key of a scope."""

SECRET_FILE = "scope-secret"  # noqa: S105 - the name of the file


class Scopes:
    """Derives the keys of all scopes from one secret file in `folder`, made at first start.

    Whoever deletes the file makes every index of this host outdated, and nothing worse. Raises
    FailedPrecondition CONFIG_INVALID when others may read the file or it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        path = files.ensure_folder(folder) / SECRET_FILE
        if not path.exists() and not path.is_symlink():
            files.write_bytes(path, secrets.token_bytes(SECRET_BYTES))
        self._secret = _read(path)

    def digest_key(self, scope: str) -> bytes:
        """32 bytes: keyed BLAKE3 of the name. Raises InvalidArgument INVALID_FIELD for no name."""
        if not scope:
            raise errors.InvalidArgument(
                "INVALID_FIELD", "a scope has a name: provider/tenant", field="scope"
            )
        return blake3(scope.encode(), key=self._secret).digest()


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise _unusable(path, f"it cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        content = file.read(SECRET_BYTES + 1)
    if mode & 0o077:
        raise _unusable(path, f"its mode is {mode:04o}, so others may read it")
    if len(content) != SECRET_BYTES:
        raise _unusable(path, f"it does not hold {SECRET_BYTES} bytes")
    return content


def _unusable(path: Path, why: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(
        "CONFIG_INVALID",
        f"{path} cannot be used: {why}",
        hint="delete the file: a new secret is made at the next start and indexes are built again",
        path=path,
    )
