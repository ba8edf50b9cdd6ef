"""What a broker remembers of clouds that refused: of whom it speaks, and for how long."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import snapshot
from broker.refusals import Refusals, RefusalSettings, Wish
from broker.values import Cloud
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari import errors

FULL = errors.Exhausted("INSUFFICIENT_CAPACITY", "no host has room")
OVER = errors.Exhausted("QUOTA_EXCEEDED", "the quota does not allow it")
SILENT = errors.Unavailable("PEER_UNAVAILABLE", "nobody answers")
ACME, GLOBEX = ("tokyo.example", "acme"), ("tokyo.example", "globex")
SETTINGS = RefusalSettings(seconds_max=10.0, remembered_max=20, per_cloud_max=4)


def wish(vcpus: int, memory: int = 8, tenant: tuple[str, str] = ACME) -> Wish:
    return Wish(tenant, {"vcpus": vcpus, "memory": memory})


def cloud(cloud_id: str = "osaka") -> Cloud:
    published = [records.cloud(cloud_id), records.capacity(cloud_id)]
    return snapshot.build(published, revision=7, taken_at=NOW).clouds[cloud_id]


def changed(of: Cloud) -> Cloud:
    """The same cloud with a newer capacity record."""
    newer = {
        region: replace(each, updated_at=each.updated_at + timedelta(seconds=1))
        for region, each in of.capacities.items()
    }
    return replace(of, capacities=newer)


def after(error: errors.WatariError, asked: Wish, settings: RefusalSettings = SETTINGS) -> Refusals:
    """A memory of one refusal by osaka."""
    made = Refusals(settings)
    made.note(cloud(), asked, error, NOW)
    return made


def test_want_of_room_speaks_of_whoever_needs_as_much_of_everything() -> None:
    memory = after(FULL, wish(4, 8))
    for asked in (wish(4, 8), wish(5, 8), wish(4, 9, GLOBEX)):
        found = memory.of(cloud(), asked, NOW)
        assert found is not None
        assert found.error is FULL
    for asked in (wish(3, 8), wish(8, 7)):
        assert memory.of(cloud(), asked, NOW) is None
    assert memory.of(cloud("kobe"), wish(4, 8), NOW) is None


def test_a_quota_speaks_of_its_tenant_and_silence_of_everybody() -> None:
    memory = after(OVER, wish(4))
    assert memory.of(cloud(), wish(4), NOW) is not None
    assert memory.of(cloud(), wish(4, tenant=GLOBEX), NOW) is None
    assert memory.of(cloud(), wish(3), NOW) is None
    assert after(SILENT, wish(4)).of(cloud(), wish(1, 1, GLOBEX), NOW) is not None


@pytest.mark.parametrize("reason", ["VM_ALREADY_THERE", "ID_REUSED", "MANDATE_INVALID"])
def test_what_speaks_of_one_machine_is_not_remembered(reason: str) -> None:
    memory = after(errors.FailedPrecondition(reason, "no"), wish(4))
    assert memory.of(cloud(), wish(4), NOW) is None
    assert len(memory) == 0


def test_it_is_forgotten_after_its_time_and_when_a_capacity_record_changes() -> None:
    memory = after(FULL, wish(4))
    almost = NOW + timedelta(seconds=9.9)
    assert memory.of(cloud(), wish(4), almost) is not None
    assert memory.of(cloud(), wish(4), NOW + timedelta(seconds=10)) is None
    assert memory.of(changed(cloud()), wish(4), almost) is None


def test_with_no_time_nothing_is_remembered() -> None:
    memory = after(FULL, wish(4), replace(SETTINGS, seconds_max=0.0))
    assert memory.of(cloud(), wish(4), NOW) is None


def test_what_a_newer_refusal_says_already_is_not_kept_twice() -> None:
    memory = after(FULL, wish(4))
    memory.note(cloud(), wish(2), FULL, NOW + timedelta(seconds=5))
    assert len(memory) == 1
    memory.note(cloud(), wish(2), OVER, NOW)
    assert len(memory) == 2
    found = memory.of(cloud(), wish(4), NOW + timedelta(seconds=12))
    assert found is not None
    assert found.wish == wish(2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["kobe", "nagoya", "osaka", "sendai", "oita", "otsu", "tsu"]),
            st.integers(1, 9),
            st.integers(1, 9),
            st.sampled_from([FULL, OVER, SILENT]),
        ),
        max_size=60,
    )
)
def test_memory_is_bounded_and_what_it_says_was_said(
    told: list[tuple[str, int, int, errors.WatariError]],
) -> None:
    memory = Refusals(SETTINGS)
    clouds = {name: cloud(name) for name, *_ in told}
    for name, vcpus, size, error in told:
        memory.note(clouds[name], wish(vcpus, size), error, NOW)
        found = memory.of(clouds[name], wish(vcpus, size), NOW)
        assert found is not None, "the newest is there"
        assert len(memory) <= SETTINGS.remembered_max
    for name, of in clouds.items():
        for vcpus in range(1, 10):
            found = memory.of(of, wish(vcpus, 5), NOW)
            if found is not None:
                said = [(v, m, e) for n, v, m, e in told if n == name]
                asked = found.wish.needed
                assert (asked["vcpus"], asked["memory"], found.error) in said
