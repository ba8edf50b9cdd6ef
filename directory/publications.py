"""From a publish request to a publication: every limit and form checked, nothing stored yet."""

import hashlib

from directory import records
from directory.stores import CHANGE_BYTES_MAX, CHANGES_PER_REVISION_MAX, Publication
from watari import errors, validate
from watari.v1 import directory_pb2


def from_request(request: directory_pb2.PublishRequest, owner: str) -> Publication:
    """The publication of `owner` (a provider's domain) that the request asks for.

    Raises Exhausted PUBLISH_TOO_LARGE, InvalidArgument INVALID_ID or INVALID_FIELD.
    """
    _require_size(request)
    puts = tuple(records.put_of(put, owner, f"puts[{at}]") for at, put in enumerate(request.puts))
    deletes = tuple(records.key_of(key, f"deletes[{at}]") for at, key in enumerate(request.deletes))
    _require_distinct([*(put.key for put in puts), *deletes])
    content = request.SerializeToString(deterministic=True)
    return Publication(
        request_id=validate.require_uuid(request.request_id, "request_id"),
        digest=hashlib.sha256(owner.encode() + b"\0" + content).digest(),
        lease_id=validate.require_uuid(request.lease_id, "lease_id"),
        owner=owner,
        puts=puts,
        deletes=deletes,
    )


def _require_size(request: directory_pb2.PublishRequest) -> None:
    count, size = len(request.puts) + len(request.deletes), request.ByteSize()
    if count > CHANGES_PER_REVISION_MAX or size > CHANGE_BYTES_MAX:
        raise errors.Exhausted(
            "PUBLISH_TOO_LARGE",
            f"{count} records and {size} bytes are too much for one change: at most "
            f"{CHANGES_PER_REVISION_MAX} records and {CHANGE_BYTES_MAX} bytes",
            hint="publish in several requests",
            records=count,
            bytes=size,
        )


def _require_distinct(keys: list[records.Key]) -> None:
    seen: set[records.Key] = set()
    for key in keys:
        if key in seen:
            raise validate.invalid_field(
                "puts", f"{key} occurs twice", "put or delete each record once in a request"
            )
        seen.add(key)
