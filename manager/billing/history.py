"""What happened to machines here since the first record, as the accounting's events."""

from sqlalchemy.engine import Connection

from manager.accounting.events import Event
from manager.accounts import facts, rows
from manager.accounts.facts import Cloud
from manager.accounts.rows import Positions


def events(connection: Connection, cloud: Cloud, until: int) -> list[Event]:
    """All events before `until`, by instant. Reads everything that was ever recorded."""
    recorded = [each for each in rows.facts(connection, Positions()) if each.at < until]
    told = facts.told(recorded, {}, since=0, cloud=cloud)
    return sorted(told.events, key=lambda each: (each.at, each.sequence, each.event_id))
