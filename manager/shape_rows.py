"""How resource classes are called and split now: the shapes in the rows of hosts and of the pool.
Runs in the caller's transaction; decides nothing.

What was renamed was so in the whole cloud, and stands in the row of the pool, so that a host that
comes later finds it; what was split is the host's.
"""

from collections.abc import Mapping
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import tables
from manager.inventory import POOL
from manager.shapes import PLAIN, Shape, blob_of, of_blob
from watari import errors

_HOSTS = tables.hosts.c


def every(connection: Connection) -> dict[str, Shape]:
    """By host, and of the pool."""
    rows = connection.execute(sa.select(_HOSTS.host_id, _HOSTS.shape)).all()
    found = {host_id: of_blob(blob) for host_id, blob in rows}
    names = found.get(POOL, PLAIN).renamed
    return {host_id: replace(shape, renamed=names) for host_id, shape in found.items()}


def of(connection: Connection, host_id: str) -> Shape:
    """What holds for a machine on a host: of what the host has, and of what the pool has, which is
    nowhere else.
    """
    query = sa.select(_HOSTS.host_id, _HOSTS.shape).where(_HOSTS.host_id.in_([host_id, POOL]))
    found = {key: of_blob(blob) for key, blob in connection.execute(query)}
    pooled = found.get(POOL, PLAIN)
    return Shape(pooled.renamed, {**pooled.split, **found.get(host_id, PLAIN).split})


def renamed(connection: Connection) -> Mapping[str, str]:
    """Present names of classes, by every earlier one."""
    return of(connection, POOL).renamed


def generations(connection: Connection) -> dict[str, int]:
    """Of the inventories of every host and of the pool."""
    rows = connection.execute(sa.select(_HOSTS.host_id, _HOSTS.generation)).all()
    return {row.host_id: row.generation for row in rows}


def swap(connection: Connection, host_id: str, generation: int, shape: Shape) -> None:
    """Put a shape in place of another. Raises Conflict GENERATION_CONFLICT when the inventory
    is not of that generation any more.
    """
    kept = shape if host_id == POOL else Shape(split=shape.split)
    changed = connection.execute(
        tables.hosts.update()
        .where(_HOSTS.host_id == host_id, _HOSTS.generation == generation)
        .values(shape=blob_of(kept), generation=generation + 1)
    )
    if changed.rowcount != 1:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"the inventory of {host_id} changed meanwhile",
            hint="repeat the call",
            retryable=True,
            host=host_id,
        )
