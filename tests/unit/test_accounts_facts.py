"""What clouds recorded of machines always comes to events that can be metered, and that join."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.accounting import metering
from manager.accounting.events import Pin
from manager.accounting.metering import Holding
from manager.accounts import facts, openings
from manager.accounts.facts import Cloud, Fact, Told, What

SECOND = 1_000_000
TOKYO = Cloud("tokyo", "tokyo.example")
SMALL = {"vcpus": 1, "memory_bytes": 1 << 30, "disk_bytes": 8 << 30}
LARGE = {"vcpus": 4, "memory_bytes": 4 << 30, "disk_bytes": 8 << 30}
HOST = ("h1", "log-1")

_numbers = itertools.count(1)


def fact(what: What, second: float, **more: object) -> Fact:
    """A fact of acme's machine `web`; of host h1 unless it is one of a migration."""
    position = next(_numbers)
    values: dict[str, object] = {
        "fact_id": f"f{position}",
        "position": position,
        "what": what,
        "at": round(second * SECOND),
        "vm_id": "web",
        "tenant_domain": "tokyo.example",
        "tenant": "acme",
        "resources": SMALL,
        "running": what is What.STARTED,
        "host": ("", "") if what in facts.BY_RECORD else HOST,
    }
    return Fact(**(values | more))  # type: ignore[arg-type]


def told(*recorded: Fact, opening: Holding | None = None, since: int = 0) -> Told:
    return facts.told(
        recorded, {"web": opening} if opening else {}, since=since * SECOND, cloud=TOKYO
    )


def kinds(found: Told) -> list[tuple[str, float]]:
    return [(each.kind.value, each.at / SECOND) for each in found.events]


def test_a_machine_of_a_host_is_here_from_when_it_appeared_to_when_it_was_removed() -> None:
    found = told(
        fact(What.APPEARED, 1),
        fact(What.STARTED, 2),
        fact(What.RESIZED, 3, running=True, resources=LARGE),
        fact(What.STOPPED, 4, resources=LARGE),
        fact(What.REMOVED, 5),
    )
    assert kinds(found) == [
        ("stopped", 1),
        ("started", 2),
        ("resized", 3),
        ("stopped", 4),
        ("deleted", 5),
    ]
    assert not found.problems
    assert {each.payer for each in found.events} == {"tenant:acme"}


def test_a_migration_decides_when_a_machine_comes_and_goes_whatever_clocks_of_hosts_say() -> None:
    found = told(
        fact(What.BROUGHT, 8, migration_id="m1"),
        fact(What.STARTED, 9),
        fact(What.ARRIVED, 10, migration_id="m1", peer="osaka", wire_bytes=7, pin=Pin(3, 99)),
        fact(What.STOPPED, 32),
        fact(What.LEFT, 30, migration_id="m2", peer="osaka", wire_bytes=9),
        fact(What.TAKEN, 33, migration_id="m2"),
    )
    assert kinds(found) == [("arrived", 10), ("started", 10), ("departed", 30)]
    arrived, _, departed = found.events
    assert (arrived.pin, arrived.received_bytes, arrived.peer) == (Pin(3, 99), 7, "osaka")
    assert departed.sent_bytes == 9
    assert not found.problems


def test_what_a_migration_brought_and_gave_back_was_never_here() -> None:
    found = told(
        fact(What.BROUGHT, 8, migration_id="m1"),
        fact(What.STARTED, 9),
        fact(What.REMOVED, 11),
    )
    assert (found.events, found.problems) == ([], [])


def test_a_machine_that_was_given_back_never_left() -> None:
    found = told(
        fact(What.APPEARED, 1), fact(What.STARTED, 2), fact(What.STOPPED, 5), fact(What.STARTED, 9)
    )
    assert kinds(found) == [("stopped", 1), ("started", 2), ("stopped", 5), ("started", 9)]


def test_a_machine_that_appears_after_it_left_is_a_new_one() -> None:
    found = told(
        fact(What.APPEARED, 1),
        fact(What.LEFT, 5, migration_id="m1"),
        fact(What.STARTED, 6),
        fact(What.APPEARED, 7),
    )
    assert kinds(found) == [("stopped", 1), ("departed", 5), ("stopped", 7)]


def test_a_machine_that_left_and_was_never_told_of_is_charged_for_the_move_only() -> None:
    found = told(fact(What.LEFT, 5, migration_id="m1", wire_bytes=4))
    assert kinds(found) == [("stopped", 5), ("departed", 5)]
    assert [each.vm_id for each in found.problems] == ["web"]
    metered = metering.meter(found.events, 9 * SECOND)
    assert (metered.intervals, len(metered.crossings)) == ([], 1)


def test_a_machine_that_arrives_where_it_is_already_begins_anew() -> None:
    found = told(fact(What.APPEARED, 1), fact(What.ARRIVED, 5, migration_id="m1"))
    assert kinds(found) == [("stopped", 1), ("deleted", 5), ("arrived", 5)]
    assert len(found.problems) == 1


def test_a_log_that_begins_again_changes_nothing_of_what_is_known() -> None:
    """A host that lost its log tells of all machines as if they had appeared."""
    again = ("h1", "log-2")
    found = told(
        fact(What.APPEARED, 1),
        fact(What.STARTED, 2),
        fact(What.APPEARED, 8, host=again, running=False),
        fact(What.STARTED, 8, host=again),
    )
    assert kinds(found) == [("stopped", 1), ("started", 2), ("stopped", 8), ("started", 8)]
    assert not found.problems


def test_another_tenant_pays_from_when_the_machine_is_its() -> None:
    found = told(
        fact(What.APPEARED, 1),
        fact(What.STARTED, 2),
        fact(What.RESIZED, 4, tenant="b", running=True),
    )
    assert kinds(found)[2:] == [("deleted", 4), ("started", 4)]
    assert [each.payer for each in found.events[2:]] == ["tenant:acme", "tenant:b"]


def test_what_hosts_say_nothing_of_stays_as_it_was_given() -> None:
    found = told(
        fact(What.ARRIVED, 1, migration_id="m1", resources=SMALL | {"public_ipv4": 1}),
        fact(What.STARTED, 2, resources=LARGE),
    )
    assert found.events[-1].resources == LARGE | {"public_ipv4": 1}


def test_a_machine_that_went_to_another_host_of_the_cloud_stays_here() -> None:
    other = ("h2", "log-9")
    found = told(
        fact(What.APPEARED, 1),
        fact(What.APPEARED, 4, host=other),
        fact(What.REMOVED, 5),
        fact(What.REMOVED, 9, host=other),
    )
    assert kinds(found) == [("stopped", 1), ("deleted", 9)]


def test_a_month_goes_on_from_its_opening_and_earlier_facts_are_context_only() -> None:
    opening = Holding("web", "", "tenant:acme", "acme", SMALL, True, 10 * SECOND)
    found = told(fact(What.STARTED, 9), fact(What.STOPPED, 12), since=10, opening=opening)
    assert kinds(found) == [("stopped", 12)]
    assert not found.problems


@given(st.lists(st.sampled_from(list(What)), max_size=12), st.data())
def test_whatever_was_recorded_can_be_metered(recorded: list[What], data: st.DataObject) -> None:
    made = [
        fact(
            what,
            data.draw(st.integers(0, 9)),
            migration_id=data.draw(st.sampled_from(["m1", "m2"])),
            host=("", "")
            if what in facts.BY_RECORD
            else data.draw(st.sampled_from([HOST, ("h2", "l")])),
            tenant=data.draw(st.sampled_from(["acme", "b"])),
            running=data.draw(st.booleans()),
            resources=data.draw(st.sampled_from([SMALL, LARGE])),
        )
        for what in recorded
    ]
    found = told(*made)
    metered = metering.meter(found.events, 10 * SECOND)
    assert told(*reversed(made)).events == found.events, "in whatever order it is read"
    held = sorted((each.start, each.end) for each in metered.intervals)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(held))


SKEW = st.integers(-3 * SECOND, 3 * SECOND)


@given(
    hops=st.lists(st.integers(20, 100), min_size=1, max_size=6),
    skews=st.tuples(SKEW, SKEW),
    late=st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_the_stays_at_both_clouds_join_without_gap_or_overlap(
    hops: list[int], skews: tuple[int, int], late: list[int]
) -> None:
    """A machine to and fro; each host's clock goes wrong by up to three seconds, and a machine runs
    again some seconds after each hand-over.
    """
    recorded: dict[int, list[Fact]] = {0: [fact(What.APPEARED, 1), fact(What.STARTED, 1)], 1: []}
    at, hands_over = 10, []
    for number, (hop, after) in enumerate(zip(hops, late, strict=False)):
        at += hop
        here, there = number % 2, 1 - number % 2
        skewed = [at - 1 + skews[here] / SECOND, at + skews[there] / SECOND]
        moved = {"migration_id": f"m{number}", "wire_bytes": 5}
        recorded[here] += [
            fact(What.STOPPED, skewed[0]),
            fact(What.LEFT, at, **moved),
            fact(What.TAKEN, skewed[0] + 2, **moved),
        ]
        recorded[there] += [
            fact(What.BROUGHT, skewed[1], **moved),
            fact(What.STARTED, skewed[1] + after),
            fact(What.ARRIVED, at, **moved),
        ]
        hands_over.append(at * SECOND)
    end = (at + 10) * SECOND
    intervals = []
    for cloud in recorded.values():
        found = told(*cloud)
        assert not found.problems
        intervals += metering.meter(found.events, end).intervals
    held = sorted((each.start, each.end) for each in intervals)
    assert held[0][0] == SECOND
    assert held[-1][1] == end
    assert all(first[1] == second[0] for first, second in itertools.pairwise(held))
    assert {*hands_over} <= {start for start, _ in held}
    running = sorted((each.start, each.end) for each in intervals if each.running)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(running))


@pytest.mark.parametrize("pin", [None, Pin(2, 7)])
def test_what_is_here_is_kept_as_it_is(pin: Pin | None) -> None:
    held = [
        Holding("b", "b", "tenant:a", "a", SMALL, True, 5, pin, 3, True),
        Holding("a", "ä", "peer:x", "y", {}, False, 5, pin),
    ]
    document = openings.to_json(held)
    assert openings.from_json(document) == sorted(held, key=lambda each: each.vm_id)
    assert openings.to_json(reversed(held)) == document
