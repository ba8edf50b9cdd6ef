"""What happened to machines here since the first record, as the accounting's events, and the quotes
with which machines left.
"""

from collections.abc import Iterable

import sqlalchemy as sa
from google.protobuf.message import DecodeError
from sqlalchemy.engine import Connection

from manager import tables
from manager.accounting.events import Event, Kind, Pin
from manager.accounts import facts, rows
from manager.accounts.facts import Cloud
from manager.accounts.rows import Positions
from watari.v1 import manager_pb2

ROWS_MAX = 500
"""Migrations that one query reads."""

_MIGRATIONS = tables.migrations.c


def events(connection: Connection, cloud: Cloud, until: int) -> list[Event]:
    """All events before `until`, by instant. Reads everything that was ever recorded."""
    recorded = [each for each in rows.facts(connection, Positions()) if each.at < until]
    told = facts.told(recorded, {}, since=0, cloud=cloud)
    return sorted(told.events, key=lambda each: (each.at, each.sequence, each.event_id))


def quotes(connection: Connection, found: Iterable[Event], cloud_id: str) -> dict[str, Pin]:
    """By migration: the quotes of a cloud with which machines went there.

    They are those that the migrations were asked with. The destination has verified each before it
    granted anything, and refused the migration otherwise: what has left was accepted.
    """
    gone = [
        each.migration_id for each in found if each.kind is Kind.DEPARTED and each.peer == cloud_id
    ]
    pins: dict[str, Pin] = {}
    for start in range(0, len(gone), ROWS_MAX):
        query = sa.select(_MIGRATIONS.migration_id, _MIGRATIONS.reserve_request).where(
            _MIGRATIONS.migration_id.in_(gone[start : start + ROWS_MAX]),
            _MIGRATIONS.reserve_request.is_not(None),
        )
        for row in connection.execute(query):
            pin = _pin(manager_pb2.ReserveRequest.FromString(row.reserve_request), cloud_id)
            if pin is not None:
                pins[row.migration_id] = pin
    return pins


def _pin(asked: manager_pb2.ReserveRequest, cloud_id: str) -> Pin | None:
    if not asked.HasField("quote"):
        return None
    try:
        quote = manager_pb2.Quote.FromString(asked.quote.payload)
    except DecodeError:
        return None
    if quote.cloud_id != cloud_id:
        return None
    return Pin(quote.price_version, quote.expires_at.ToMicroseconds(), quote.quote_id)
