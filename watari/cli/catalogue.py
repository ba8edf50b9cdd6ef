"""What can be wrong with a catalogue that every single record of which was accepted. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from watari.cli.plain import enum_name
from watari.v1 import directory_pb2

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """Something that an operator should know."""

    severity: str
    record: str
    problem: str


def name_of(key: directory_pb2.RecordKey) -> str:
    """Such as "offer tokyo/standard"."""
    kind = enum_name(directory_pb2.RecordKind.DESCRIPTOR, key.kind)
    return f"{kind} {key.cloud_id}/{key.name}"


def check(revision: int, records: Sequence[directory_pb2.Record], now: datetime) -> list[Finding]:
    """Findings in a listing of one revision, in its order."""
    clouds = {
        record.key.cloud_id
        for record in records
        if record.key.kind == directory_pb2.RECORD_KIND_CLOUD
    }
    found, seen, last = [], set[str](), ("", "", "")
    for record in records:
        name = name_of(record.key)
        order = (f"{record.key.kind:09}", record.key.cloud_id, record.key.name)
        problems = [*_errors(record, clouds, revision)]
        if name in seen:
            problems.append("is listed twice")
        elif order < last:
            problems.append("is not listed in its order")
        seen.add(name)
        last = order
        found += [Finding(ERROR, name, problem) for problem in problems]
        found += [Finding(WARNING, name, problem) for problem in _warnings(record, clouds, now)]
    return found


def compare(
    earlier: Iterable[directory_pb2.Record], now: Iterable[directory_pb2.Record]
) -> list[Finding]:
    """What a listing has lost since an earlier one: it can only be newer."""
    present = {name_of(record.key): record for record in now}
    found = []
    for before in earlier:
        name = name_of(before.key)
        after = present.get(name)
        if after is None:
            found.append(Finding(WARNING, name, "was there, and was deleted or has vanished"))
        elif after.revision < before.revision:
            problem = f"is of revision {after.revision}, and was of {before.revision} in the dump"
            found.append(Finding(ERROR, name, problem))
        elif after.revision == before.revision and after != before:
            found.append(Finding(ERROR, name, f"differs from the dump at {after.revision}"))
    return found


def _errors(record: directory_pb2.Record, clouds: set[str], revision: int) -> Iterator[str]:
    if record.key.cloud_id not in clouds:
        yield "its cloud has no record of its own: nobody can reach its manager"
    if not 0 < record.revision <= revision:
        yield f"its revision {record.revision} is not one of the catalogue, which is at {revision}"
    if record.generation < 1:
        yield "it has no generation"
    if not record.HasField("updated_at"):
        yield "it has no time of change"
    capacity = record.capacity
    for name in ("vcpus", "memory_bytes", "disk_bytes"):
        free, total = getattr(capacity.free, name), getattr(capacity.total, name)
        if free > total:
            yield f"{free} {name} are free of {total}"


def _warnings(record: directory_pb2.Record, clouds: set[str], now: datetime) -> Iterator[str]:
    if record.stale:
        yield "stale: its lease has expired"
    if record.HasField("link") and record.link.to_cloud_id not in clouds:
        yield f"leads to cloud {record.link.to_cloud_id}, which has no record"
    for body in (record.offer, record.link):
        if body.HasField("valid_until") and _moment(body.valid_until) <= now:
            yield f"was valid until {body.valid_until.ToJsonString()}"
    if record.HasField("offer") and not record.offer.HasField("prices"):
        yield "has no prices"


def _moment(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)
