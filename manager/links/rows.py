"""The rows of measured links. Runs in the caller's transaction; decides what replaces what."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from manager.links import tables
from manager.links.observing import Observed

_ROWS = tables.links.c


@dataclass(frozen=True)
class LinkRow:
    """The way to one cloud. Times are microseconds since 1970; 0 of a measurement is none."""

    to_cloud: str
    round_trip_micros: int = 0
    round_trip_at: int = 0
    throughput: int = 0
    """Sealed bytes per second."""
    throughput_at_least: bool = False
    throughput_at: int = 0


def every(connection: Connection) -> dict[str, LinkRow]:
    """All that was ever measured, by cloud."""
    found = connection.execute(sa.select(tables.links)).mappings()
    return {row["to_cloud"]: _row(row) for row in found}


def put_round_trip(connection: Connection, to_cloud: str, micros: int, now: int) -> None:
    """A round trip that was measured now."""
    _put(connection, to_cloud, {"round_trip_micros": micros, "round_trip_at": now})


def put_observed(
    connection: Connection, to_cloud: str, observed: Observed, now: int, valid_micros: int
) -> None:
    """What a migration that ended now reached. That the way carries at least so much says nothing
    new of one that is known to have carried more.
    """
    known = (
        connection.execute(sa.select(tables.links).where(_ROWS.to_cloud == to_cloud))
        .mappings()
        .one_or_none()
    )
    if known is not None and observed.at_least:
        fresh = now < known["throughput_at"] + valid_micros
        if fresh and known["throughput"] >= observed.throughput:
            return
    values = {
        "throughput": observed.throughput,
        "throughput_at_least": observed.at_least,
        "throughput_at": now,
    }
    _put(connection, to_cloud, values)


def _put(connection: Connection, to_cloud: str, values: dict[str, int | bool]) -> None:
    changed = connection.execute(
        tables.links.update().where(_ROWS.to_cloud == to_cloud).values(**values)
    )
    if not changed.rowcount:
        empty = LinkRow(to_cloud)
        connection.execute(tables.links.insert().values({**vars(empty), **values}))


def _row(row: RowMapping) -> LinkRow:
    return LinkRow(**row)
