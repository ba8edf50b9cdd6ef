"""What the directory is told of the ways to other clouds. Pure."""

from collections.abc import Iterable

from manager.links.rows import LinkRow
from manager.settings.publishing import LinkSettings
from watari.v1 import directory_pb2


def records(
    cloud_id: str, rows: Iterable[LinkRow], now: int, settings: LinkSettings
) -> list[directory_pb2.Record]:
    """A record for each way of which something is still valid, by cloud; at most `links_max`, those
    that migrations took first. `now` in microseconds since 1970.
    """
    found = []
    for row in sorted(rows, key=lambda row: (not row.throughput_at, row.to_cloud)):
        link = directory_pb2.Link(to_cloud_id=row.to_cloud)
        _add_round_trip(link, row, now, _micros(settings.valid_seconds))
        _add_throughput(link, row, now, _micros(settings.throughput_valid_seconds))
        if link.rtt_ms or link.throughput_bytes_per_second:
            kind = directory_pb2.RECORD_KIND_LINK
            key = directory_pb2.RecordKey(kind=kind, cloud_id=cloud_id, name=row.to_cloud)
            found.append(directory_pb2.Record(key=key, link=link))
    return found[: settings.links_max]


def _add_round_trip(link: directory_pb2.Link, row: LinkRow, now: int, valid: int) -> None:
    until = row.round_trip_at + valid
    if row.round_trip_micros and now < until:
        link.rtt_ms = row.round_trip_micros / 1000
        link.measured_at.FromMicroseconds(row.round_trip_at)
        link.valid_until.FromMicroseconds(until)


def _add_throughput(link: directory_pb2.Link, row: LinkRow, now: int, valid: int) -> None:
    until = row.throughput_at + valid
    if row.throughput and now < until:
        link.throughput_bytes_per_second = row.throughput
        link.throughput_at_least = row.throughput_at_least
        link.throughput_measured_at.FromMicroseconds(row.throughput_at)
        link.throughput_valid_until.FromMicroseconds(until)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)
