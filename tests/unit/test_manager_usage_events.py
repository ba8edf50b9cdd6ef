"""Recorded events of hosts go when they are old, and no others."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from manager.metering import rows
from manager.metering.rows import Position
from manager.ownership import EVERYTHING
from manager.settings.store import StoreSettings
from manager.store import Store
from watari.v1 import manager_pb2

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AGES = (500, 401, 400, 30, 450, 1)
"""Days, in the order of recording: one was told late."""


@pytest.fixture
def store(database: StoreSettings) -> Iterator[Store]:
    made = Store(database)
    with made.write() as connection:
        for number, days in enumerate(AGES):
            event = manager_pb2.UsageEvent(event_id=f"e{number}", tenant="acme", tenant_domain="d")
            event.event.vm_id = "v"
            event.event.occurred_at.FromDatetime(NOW - timedelta(days=days))
            rows.write(connection, event)
        rows.move(connection, "h1", Position("log", len(AGES)))
    yield made
    made.close()


def left(store: Store) -> list[str]:
    """What is there still."""
    with store.read() as connection:
        page = rows.page(connection, EVERYTHING, tenant="", vm_id="", after=0, limit=100)
    return [event.event_id for _, event in page]


def test_the_first_that_are_old_go_up_to_one_that_is_not(store: Store) -> None:
    with store.write() as connection:
        assert rows.thin(connection, NOW - timedelta(days=400), 100) == 2
    assert left(store) == ["e2", "e3", "e4", "e5"]
    with store.read() as connection:
        assert rows.position(connection, "h1") == Position("log", len(AGES))
    with store.write() as connection:
        assert rows.thin(connection, NOW - timedelta(days=400), 100) == 0


def test_no_more_go_at_a_time_than_is_said(store: Store) -> None:
    with store.write() as connection:
        assert rows.thin(connection, NOW, 4) == 4
    assert left(store) == ["e4", "e5"]
