"""Pages of lists: the size of a page, and opaque tokens that say where the next one begins.

A token carries a position (a few strings and numbers that the service chose) and is bound to the
query by a checksum, so that a slip (an altered token, another filter) is refused rather than
answered wrongly. It is no secret and grants nothing: whoever calls is authorised by certificate on
every page, and a service treats a decoded position as it treats any other request field.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from watari import errors, validate

PAGE_SIZE_DEFAULT = 100
"""Entries a page when the request says 0."""

PAGE_SIZE_MAX = 1000
"""Most entries a page; bounds the memory of one answer."""

TOKEN_CHARS_MAX = 2048
"""Longer tokens are refused before they are decoded; ours are far shorter."""

INTEGER_MAX = 2**63 - 1
"""Largest integer in a position: what SQLite holds."""

Position = tuple[Any, ...]
"""Where a page begins: strings and integers, as the service chose."""

_CHECKSUM_BYTES = 12
_VERSION = b"\x01"
_PAGING_FIELDS = ("page_size", "page_token")


def page_size(requested: int) -> int:
    """Entries for this page. Raises InvalidArgument INVALID_FIELD beyond PAGE_SIZE_MAX."""
    return validate.require_range(requested, "page_size", 0, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT


def fingerprint(request: Message) -> bytes:
    """What a token is bound to: the request without its paging fields."""
    query = type(request)()
    query.CopyFrom(request)
    for field in _PAGING_FIELDS:
        query.ClearField(field)
    name = query.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + query.SerializeToString(deterministic=True)).digest()


def encode(query: bytes, position: Sequence[str | int]) -> str:
    """The token for the page of `query` (a fingerprint) that begins at `position`."""
    body = json.dumps(list(position), separators=(",", ":")).encode()
    raw = _VERSION + _checksum(query, body) + body
    return _text(raw)


def decode(query: bytes, token: str, shape: tuple[type, ...]) -> Position | None:
    """The position in `token`, of the types in `shape`; None for the empty token (first page).

    Raises InvalidArgument PAGE_TOKEN_INVALID when the token was altered, belongs to another query
    or holds another shape.
    """
    if not token:
        return None
    position = _parsed(_verified(query, _raw(token)))
    if [type(part) for part in position] != list(shape):
        raise _invalid("belongs to another release")
    return tuple(position)


def _raw(token: str) -> bytes:
    if len(token) > TOKEN_CHARS_MAX:
        raise _invalid(f"has {len(token)} characters")
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _invalid("is not a token") from error
    # Base64 has spare bits at its end: one position has exactly one token.
    if _text(raw) != token:
        raise _invalid("was altered")
    return raw


def _verified(query: bytes, raw: bytes) -> bytes:
    start = len(_VERSION) + _CHECKSUM_BYTES
    checksum, body = raw[len(_VERSION) : start], raw[start:]
    if not raw.startswith(_VERSION) or checksum != _checksum(query, body):
        raise _invalid("was altered or belongs to another query")
    return body


def _parsed(body: bytes) -> list[Any]:
    try:
        position = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _invalid("is not a token") from error
    if not isinstance(position, list):
        raise _invalid("is not a token")
    for part in position:
        if isinstance(part, int) and not 0 <= part <= INTEGER_MAX:
            raise _invalid("is out of bounds")
    return position


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _checksum(query: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=query, digest_size=_CHECKSUM_BYTES).digest()


def _invalid(problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "PAGE_TOKEN_INVALID",
        f"page_token {problem}",
        hint="repeat the query without a page token, and keep its fields unchanged between pages",
        field="page_token",
    )
