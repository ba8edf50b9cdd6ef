"""A month is posted once, through kill -9 of the manager that posts it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manager.accounting import exact, ledger
from manager.accounting import rows as ledger_rows
from manager.settings.accounts import AccountSettings, PriceSettings
from manager.store import Store
from tests.conftest import Federation
from tests.faults.cut_off import process
from tests.support.clouds import Cloud, eventually, two_clouds
from watari import failpoint
from watari.v1 import agent_pb2, common_pb2

MACHINES, HOURS = 250, 240
"""More charges than one transaction posts."""

PRICES = PriceSettings(currency="EUR", vcpu_hour="0.5")


@pytest.fixture
def tokyo(federation: Federation, tmp_path: Path) -> Iterator[Cloud]:
    """Whose manager does not run, and whose host has last month to tell of."""
    with two_clouds(federation, tmp_path) as (cloud, _):
        cloud.change(prices=PRICES, accounts=AccountSettings(book_seconds=3600, close_seconds=0))
        now = federation.clock.now()
        last = (datetime(now.year, now.month, 1, tzinfo=UTC) - timedelta(days=1)).replace(day=10)
        resources = common_pb2.Resources(vcpus=2)
        for number in range(MACHINES):
            vm = f"6f1f2d2e-0000-4000-8000-{number:012}"
            told = {"resources": resources, "tenant": f"t{number % 5}"}
            running = agent_pb2.GUEST_STATE_RUNNING
            cloud.agent.tell("APPEARED", vm, at=last, state=running, **told)
            cloud.agent.tell("REMOVED", vm, at=last + timedelta(hours=HOURS), **told)
        yield cloud


def closed(cloud: Cloud) -> bool:
    """Whether the first month that there is anything of is closed."""
    with closing(sqlite3.connect(cloud.settings.store.path)) as connection:
        query = "SELECT state FROM book_months ORDER BY start_at LIMIT 1"
        return connection.execute(query).fetchone() == ("closed",)


def posted(cloud: Cloud) -> tuple[int, int]:
    """Charges in the ledger, and what is owed by it, once it is known to be sound."""
    store = Store(cloud.settings.store)
    with store.read() as connection:
        chained = list(ledger_rows.everything(connection))
    store.close()
    ledger.verify(chained)
    entries = [each.entry for each in chained]
    balances = ledger.balances(entries)
    assert sum(balances.values()) == 0
    owed = sum(nanos for (_, name), nanos in balances.items() if name.startswith("receivable:"))
    return len({entry.entry_id for entry in entries}), owed


@pytest.mark.parametrize(
    ("point", "times"),
    [("after_rated", 1), ("in_post", 1), ("in_post", 2), ("after_post", 1), ("after_closed", 1)],
)
def test_a_manager_that_is_killed_as_it_closes_a_month_posts_every_charge_once(
    tokyo: Cloud, point: str, times: int
) -> None:
    with process(tokyo) as manager:
        manager.start()
        eventually(lambda: len(tokyo.usage_events()) == 2 * MACHINES, "all is recorded")
    tokyo.change(accounts=AccountSettings(book_seconds=0.2, close_seconds=0))
    before = f"{times - 1}*off->" if times > 1 else ""
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"manager.accounts.{point}={before}1*kill"})
        manager.wait_killed(90)
        manager.start()
        eventually(lambda: closed(tokyo), "the month is closed")
    assert posted(tokyo) == (MACHINES, MACHINES * 2 * HOURS * exact.NANOS // 2)
