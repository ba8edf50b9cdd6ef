"""The accounts of a cloud, on every database: months, budgets' totals, late facts, crashes."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from manager import usage
from manager.accounting import exact, sheet_documents
from manager.accounting.periods import micros
from manager.accounts import rows
from manager.accounts.sheets import Sheets
from manager.ownership import Tenant
from manager.settings.accounts import AccountSettings
from manager.settings.store import StoreSettings
from tests.support.accounting_books import BEGIN, PRICES, AccountWorld
from watari import errors, failpoint

DAY = timedelta(days=1)
SETTINGS = AccountSettings(close_seconds=3 * 86_400, seal_seconds=20 * 86_400)
ACME = Tenant("tokyo.example", "acme")

RUNNING_HOUR, DISK_HOUR = Decimal(2), Decimal("0.01")
MARCH_HOURS = 31 * 24


@pytest.fixture
def world(database: StoreSettings) -> Iterator[AccountWorld]:
    made = AccountWorld(database, SETTINGS)
    yield made
    made.store.close()


def spent(world: AccountWorld, tenant: Tenant = ACME) -> Decimal:
    """What budgets see."""
    with world.store.read() as connection:
        return world.spending.in_month(connection, tenant, world.clock.now())


def nanos(amount: Decimal) -> int:
    return exact.scaled(str(amount), exact.NANOS, "amount")


def test_a_running_month_is_added_up_for_budgets_and_posted_nowhere(world: AccountWorld) -> None:
    assert spent(world) == 0
    world.run("web")
    world.go_to(2)
    world.books.book()
    assert spent(world) == 24 * (RUNNING_HOUR + DISK_HOUR)
    world.go_to(3)
    assert spent(world) == 24 * (RUNNING_HOUR + DISK_HOUR), "as of the last time"
    world.books.book()
    assert spent(world) == 48 * (RUNNING_HOUR + DISK_HOUR)
    assert spent(world, Tenant("tokyo.example", "globex")) == 0
    assert world.ledger() == []


def test_a_month_is_posted_some_days_after_its_end_and_the_next_one_goes_on(
    world: AccountWorld,
) -> None:
    world.run("web")
    for day in (10, 20):
        world.go_to(day)
        world.books.book()
    world.go_to(3, month=4)
    world.books.book()
    assert (world.state("2026-03"), world.owed()) == ("open", 0)
    world.go_to(4, month=4)
    world.books.book()
    hour = RUNNING_HOUR + DISK_HOUR
    assert (world.state("2026-03"), world.owed()) == ("closed", nanos(MARCH_HOURS * hour))
    assert spent(world) == 3 * 24 * hour
    before = world.ledger()
    world.books.book()
    assert world.ledger() == before, "once"
    world.go_to(20, month=5)
    world.books.book()
    assert [world.state(each) for each in ("2026-03", "2026-04", "2026-05")] == [
        "sealed",
        "closed",
        "open",
    ]
    assert world.owed() == nanos((MARCH_HOURS + 30 * 24) * hour)


def test_what_is_told_late_corrects_a_closed_month_and_what_follows(world: AccountWorld) -> None:
    world.run("web")
    world.go_to(5, month=4)
    world.books.book()
    owed = world.owed()
    stopped = datetime(2026, 3, 31, tzinfo=UTC)
    world.tell("STOPPED", "web", at=stopped)
    world.books.book()
    assert world.owed() == owed - nanos(24 * RUNNING_HOUR)
    corrections = [each for each in world.ledger() if each.kind == "correction"]
    assert corrections
    assert all(
        each.refers_to and "after the month was closed" in each.description for each in corrections
    )
    assert spent(world) == 4 * 24 * DISK_HOUR, "and it does not run in April"
    world.books.book()
    assert len([each for each in world.ledger() if each.kind == "correction"]) == len(corrections)


def test_what_is_told_after_a_month_was_sealed_changes_nothing_and_is_told(
    world: AccountWorld,
) -> None:
    world.run("web")
    for day, month in ((5, 4), (25, 4)):
        world.go_to(day, month=month)
        world.books.book()
    owed = world.owed()
    world.tell("STOPPED", "web", at=BEGIN + 3 * DAY)
    world.books.book()
    assert world.owed() == owed
    with world.store.read() as connection:
        ((_, problem),) = rows.problems(connection)
    assert problem.vm_id == "web"
    assert "sealed" in problem.words


def test_a_machine_is_charged_from_the_hand_over_that_brought_it_to_the_one_that_took_it(
    world: AccountWorld,
) -> None:
    other = Tenant("osaka.example", "globex")
    world.migrated(usage.ARRIVED, "web", tenant="globex", domain="osaka.example")
    world.go_to(2)
    world.migrated(usage.LEFT, "web", tenant="globex", domain="osaka.example")
    world.go_to(9)
    world.books.book()
    assert spent(world, other) == 24 * DISK_HOUR + 2, "its disk, and a GiB that left"
    world.go_to(4, month=4)
    world.books.book()
    assert world.owed("peer:osaka.example") == nanos(24 * DISK_HOUR + 2)


def test_usage_of_before_the_accounts_were_kept_is_booked_in_its_months(
    world: AccountWorld,
) -> None:
    world.run("web")
    world.go_to(10, month=6)
    world.books.book()
    assert world.owed() == nanos((31 + 30 + 31) * 24 * (RUNNING_HOUR + DISK_HOUR))
    assert spent(world) == 9 * 24 * (RUNNING_HOUR + DISK_HOUR)


POINTS = (
    "manager.accounts.after_rated",
    "manager.accounts.in_post",
    "manager.accounts.after_post",
    "manager.accounts.after_closed",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_cut_off_anywhere_is_repeated_and_posts_everything_once(
    world: AccountWorld, point: str
) -> None:
    for number in range(5):
        world.run(f"vm-{number}")
    world.go_to(4, month=4)
    with failpoint.armed(point, "1*error(SERVER_UNAVAILABLE)"), pytest.raises(errors.WatariError):
        world.books.book()
    world.tell("STOPPED", "vm-0", at=datetime(2026, 3, 31, tzinfo=UTC))
    world.restart()
    world.books.book()
    hours = 5 * MARCH_HOURS * (RUNNING_HOUR + DISK_HOUR) - 24 * RUNNING_HOUR
    assert (world.state("2026-03"), world.owed()) == ("closed", nanos(hours))


def test_months_are_those_of_the_time_zone_and_join_where_it_is_changed(
    database: StoreSettings,
) -> None:
    world = AccountWorld(database, replace(SETTINGS, time_zone="Europe/Berlin"))
    world.run("web")
    world.go_to(4, month=4)
    world.books.book()
    # Midnight of April in Berlin is two hours before that of UTC.
    assert world.owed() == nanos((MARCH_HOURS - 2) * (RUNNING_HOUR + DISK_HOUR))
    world.settings = replace(SETTINGS, time_zone="America/New_York")
    world.restart()
    world.go_to(4.5, month=5)
    world.books.book()
    with world.store.read() as connection:
        found = [row.month for row in rows.months(connection)]
    assert [month.label for month in found] == ["2026-03", "2026-04", "2026-05"]
    assert all(first.end == second.start for first, second in itertools.pairwise(found))
    world.store.close()


def test_a_price_that_changes_holds_from_then_on_and_never_for_what_was_used(
    world: AccountWorld,
) -> None:
    world.run("web")
    world.go_to(11)
    dearer = replace(PRICES, version=2, vcpu_hour="1.5")
    begins = micros(world.clock.now() + timedelta(hours=1))
    world.sheets.record(sheet_documents.from_settings(dearer, begins))
    assert world.sheets.current().version == 1
    world.go_to(12)
    assert world.sheets.current().version == 2
    world.books.book()
    hours = 11 * 24
    assert spent(world) == hours * (RUNNING_HOUR + DISK_HOUR) + 23 * 2


def test_a_sheet_that_would_change_the_past_or_another_version_is_refused(
    world: AccountWorld,
) -> None:
    sheet = sheet_documents.from_settings(replace(PRICES, version=2), micros(BEGIN - DAY))
    with pytest.raises(errors.InvalidArgument, match="in effect already"):
        world.sheets.record(sheet)
    later = replace(sheet, effective_from=micros(BEGIN + DAY))
    world.sheets.record(later)
    world.sheets.record(later)
    with pytest.raises(errors.Conflict) as caught:
        world.sheets.record(replace(later, effective_from=micros(BEGIN + 2 * DAY)))
    assert caught.value.reason == "ID_REUSED"


def test_settings_whose_amounts_changed_without_another_version_are_refused(
    world: AccountWorld,
) -> None:
    for wrong in (
        replace(PRICES, vcpu_hour="9"),
        replace(PRICES, version=2, currency="JPY"),
    ):
        with pytest.raises(errors.InvalidArgument) as caught:
            Sheets(wrong, world.store, world.clock)
        assert caught.value.reason == "CONFIG_INVALID"
    world.go_to(2)
    newer = Sheets(replace(PRICES, version=2, vcpu_hour="9"), world.store, world.clock)
    assert newer.current().version == 2
    again = Sheets(PRICES, world.store, world.clock)
    assert again.current().version == 2, "a version that is there already is left behind"
