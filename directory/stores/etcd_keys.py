"""What stands in etcd: keys that people can read, and their values. Pure.

Below the configured prefix, `/watari/` unless set otherwise:

| key | value |
|---|---|
| `records/<cloud>/<kind>/<name>` | a line of JSON (`lease`, `stale_since`), then the Record |
| `clouds/<cloud>` | JSON: `owner` (a trust domain), `records` (how many there are) |
| `providers/<owner>` | JSON: `clouds` (how many there are) |
| `leases/<lease id>` | JSON: `cloud`, `owner`, `ttl_seconds`; written again at each renewal |
| `requests/<request id>` | JSON: `digest`, `at` (Unix time), `revision` (null: this key's own) |
| `head` | empty; written with every change of records |
| `mark` | empty; written by a server that wants to know how far its replica is |

etcd counts for us: a record's generation is its key's `version`, its revision the `mod_revision`,
and the catalogue's revision is that of `head`. So the Record in a value has neither.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Self

from google.protobuf.message import DecodeError

from directory.records import KINDS, Key, kind_name
from watari.v1 import directory_pb2


@dataclass(frozen=True)
class Document:
    """A value that is one JSON object."""

    def encode(self) -> bytes:
        """As it stands in etcd."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises ValueError. What a later release added is left out."""
        found = json.loads(value)
        names = {field.name: field.type for field in fields(cls)}
        whole = isinstance(found, dict) and all(
            name in found and isinstance(found[name], kind)  # type: ignore[arg-type]
            for name, kind in names.items()
        )
        if not whole:
            raise ValueError(f"no object with {', '.join(names)}")
        return cls(**{name: found[name] for name in names})


@dataclass(frozen=True)
class Cloud(Document):
    """The value of a cloud's key."""

    owner: str
    records: int


@dataclass(frozen=True)
class Provider(Document):
    """The value of a provider's key."""

    clouds: int


@dataclass(frozen=True)
class Lease(Document):
    """The value of a lease's key."""

    cloud: str
    owner: str
    ttl_seconds: int


@dataclass(frozen=True)
class Request(Document):
    """The value of a request's key."""

    digest: str
    """Hexadecimal."""

    at: float
    """Unix time."""

    revision: int | None
    """What was answered; None: the revision of the key itself."""


@dataclass(frozen=True)
class _Liveness(Document):
    lease: str
    stale_since: float | None


@dataclass(frozen=True)
class Stored:
    """The value of a record's key."""

    record: directory_pb2.Record
    """With the time of its change, and without its generation and revision."""

    lease_id: str
    """Empty once the lease has expired."""

    stale_since: float | None
    """Unix time."""

    def encode(self) -> bytes:
        """As it stands in etcd."""
        head = _Liveness(self.lease_id, self.stale_since).encode()
        return head + b"\n" + self.record.SerializeToString()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises ValueError."""
        head, _, body = value.partition(b"\n")
        liveness = _Liveness.decode(head)
        try:
            record = directory_pb2.Record.FromString(body)
        except DecodeError as error:
            raise ValueError(f"no record: {error}") from error
        return cls(record, liveness.lease, liveness.stale_since)


class Keys:
    """The names of keys below one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.head = self.prefix + b"head"
        self.mark = self.prefix + b"mark"
        self.records = self.prefix + b"records/"
        self.clouds = self.prefix + b"clouds/"
        self.leases = self.prefix + b"leases/"
        self.requests = self.prefix + b"requests/"
        self._providers = self.prefix + b"providers/"

    def record(self, key: Key) -> bytes:
        """Of a record. Cloud ids and names have no slash in them."""
        return self.records + f"{key.cloud_id}/{kind_name(key.kind).lower()}/{key.name}".encode()

    def record_key(self, name: bytes) -> Key:
        """The other way round. Raises ValueError."""
        parts = name.removeprefix(self.records).decode().split("/")
        if len(parts) != 3 or parts[1].upper() not in KINDS:
            raise ValueError(f"{name!r} is not the key of a record")
        return Key(KINDS[parts[1].upper()], parts[0], parts[2])

    def cloud(self, cloud_id: str) -> bytes:
        """Of a cloud."""
        return self.clouds + cloud_id.encode()

    def provider(self, owner: str) -> bytes:
        """Of a provider."""
        return self._providers + owner.encode()

    def lease(self, lease_id: str) -> bytes:
        """Of a lease."""
        return self.leases + lease_id.encode()

    def request(self, request_id: str) -> bytes:
        """Of a publish that was answered."""
        return self.requests + request_id.encode()
