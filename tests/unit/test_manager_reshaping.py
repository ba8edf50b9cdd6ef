"""Renaming and splitting resource classes on a real database: what moves, and what is refused."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from manager import capacity, reshape_checks, reshape_rows, shape_rows
from manager.accounting.price_sheet import Component, Measure, PriceBook, PriceSheet, Tier
from manager.inventory import POOL, HostView
from manager.ownership import EVERYTHING
from manager.reshaping import Reshaping
from manager.settings.hosts import ClassSettings
from manager.settings.store import StoreSettings
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, Rig, reason_of, request
from watari import errors
from watari.identity import SpiffeId
from watari.v1 import manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
GPU, A100, ADDRESS = "accelerator:gpu", "accelerator:a100", "public_ipv4"


@pytest.fixture
def rig(federation: Federation, tmp_path: Path, database: StoreSettings) -> Iterator[Rig]:
    made = Rig(
        tmp_path,
        federation.party(OSAKA),
        database,
        pool={ADDRESS: ClassSettings(total=6)},
        inventory={GPU: ClassSettings(total=8, allocation_ratio=1.0, max_unit=4)},
    )
    yield made
    made.store.close()


def wants(gpus: int, name: str = GPU, **changes: object) -> manager_pb2.ReserveRequest:
    made = request(ttl_seconds=3600, **changes)
    made.resources.other[name] = gpus
    return made


def reserved(rig: Rig, gpus: int, name: str = GPU) -> str:
    """The id of a new reservation."""
    asked = wants(gpus, name)
    return rig.reservations.reserve(asked, TOKYO).reservation.reservation_id


def rename(rig: Rig, old: str, new: str) -> manager_pb2.ReshapeInventoryResponse:
    return reshape(rig, manager_pb2.ReshapeInventoryRequest(resource_class=old, rename_to=new))


def split(
    rig: Rig,
    units: dict[str, int],
    moves: dict[str, str] | None = None,
    name: str = GPU,
    host_id: str = "h1",
    generation: int = 0,
) -> manager_pb2.ReshapeInventoryResponse:
    said = manager_pb2.ClassSplit(
        host_id=host_id, units=units, moves=moves or {}, generation=generation
    )
    return reshape(rig, manager_pb2.ReshapeInventoryRequest(resource_class=name, split=said))


def reshape(
    rig: Rig, asked: manager_pb2.ReshapeInventoryRequest
) -> manager_pb2.ReshapeInventoryResponse:
    reshape_checks.require_request(asked)
    return Reshaping(rig.settings, rig.store, rig.clock).reshape(asked, OPERATOR)


def views(rig: Rig) -> tuple[HostView, HostView]:
    """The host and the pool."""
    with rig.store.read() as connection:
        (host,) = capacity.views(connection, rig.settings.agents)
        return host, capacity.pool(connection, rig.settings.pool)


def test_a_class_gets_another_name_everywhere(rig: Rig) -> None:
    key = reserved(rig, 3)
    quota = manager_pb2.Quota(tenant="acme", tenant_domain="tokyo.example")
    quota.hard.other[GPU] = 5
    rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)
    answer = rename(rig, GPU, A100)
    assert (answer.changed, answer.consumers, answer.quotas) == (True, 1, 1)
    host, _ = views(rig)
    assert (host.total[A100], host.held[A100], host.units[A100].most) == (8, 3, 4)
    assert GPU not in host.total
    assert rig.reservations.get(key, TOKYO).message().resources.other == {A100: 3}
    (shown,) = rig.quotas.page(EVERYTHING, None, after=None, limit=10)
    assert shown.hard.other == {A100: 5}
    assert shown.used.other[A100] == 3
    # Who says the old name means the new one, and is limited by it.
    assert reason_of(rig.reservations.reserve, wants(3), TOKYO) == "QUOTA_EXCEEDED"
    reserved(rig, 2)
    assert views(rig)[0].held[A100] == 5
    assert not rename(rig, GPU, A100).changed
    entries = [each for each in rig.audit() if each.action == "inventory.reshaped"]
    assert [each.details["renamed_to"] for each in entries] == [A100]
    rename(rig, A100, GPU)
    assert views(rig)[0].held[GPU] == 5


def test_a_class_of_the_pool_gets_another_name_and_stays_the_pools(rig: Rig) -> None:
    reserved(rig, 2, ADDRESS)
    rename(rig, ADDRESS, "address")
    assert views(rig)[1].held == {"address": 2}
    reserved(rig, 1, ADDRESS)
    with rig.store.write() as connection:
        capacity.open_pool(connection, rig.settings.pool)  # As a manager does that starts.
    host, pool = views(rig)
    assert (pool.held, pool.free["address"]) == ({"address": 3}, 3)
    assert "address" not in host.held


def test_nobody_is_left_with_a_class_of_the_pool_that_is_none_any_more(rig: Rig) -> None:
    moved, left = reserved(rig, 1, ADDRESS), reserved(rig, 1, ADDRESS)
    split(rig, {"public:a": 2}, {moved: "public:a", left: "public:a"}, ADDRESS, POOL)
    before = views(rig)
    back = {moved: ADDRESS}
    assert reason_of(split, rig, {}, back, ADDRESS, POOL) == "RESHAPE_OVERCOMMITS"
    assert views(rig) == before


def test_units_become_another_class_with_the_allocations_that_use_them(rig: Rig) -> None:
    first, second = reserved(rig, 3), reserved(rig, 2)
    answer = split(rig, {A100: 4}, {first: A100})
    assert (answer.changed, answer.consumers) == (True, 1)
    host, _ = views(rig)
    assert (host.total[GPU], host.total[A100]) == (4, 4)
    assert (host.held[GPU], host.held[A100]) == (2, 3)
    assert host.units[A100].most == 4
    (shown,) = answer.inventories
    assert shown.shape.split[GPU].units == {A100: 4}
    assert rig.reservations.get(second, TOKYO).message().resources.other == {GPU: 2}
    assert reason_of(rig.reservations.reserve, wants(3), TOKYO) == "INSUFFICIENT_CAPACITY"
    reserved(rig, 1, A100)
    # And back again.
    everything = dict.fromkeys(consumers(rig), GPU)
    split(rig, {}, everything)
    host, _ = views(rig)
    assert (host.total[GPU], host.held[GPU]) == (8, 6)
    assert A100 not in host.total


def consumers(rig: Rig) -> list[str]:
    with rig.store.read() as connection:
        return [key for _, key in capacity.by_consumer(connection)]


def test_what_is_booked_is_of_its_new_class_when_it_is_claimed(rig: Rig) -> None:
    asked = wants(4)
    asked.starts_at.FromDatetime(rig.clock.now() + timedelta(hours=1))
    asked.ends_at.FromDatetime(rig.clock.now() + timedelta(hours=2))
    rig.reservations.reserve(asked, TOKYO)
    booked = asked.reservation_id
    with pytest.raises(errors.Exhausted) as refused:
        split(rig, {A100: 6})
    assert (refused.value.reason, refused.value.metadata["resource"]) == (
        "RESHAPE_OVERCOMMITS",
        GPU,
    )
    split(rig, {A100: 6}, {booked: A100})
    rig.clock.advance(3600)
    answer = rig.reservations.reserve(asked, TOKYO)
    assert answer.HasField("grant")
    host, _ = views(rig)
    assert (host.held, host.booked) == (host.held | {A100: 4}, {})
    assert rig.reservations.reserve(asked, TOKYO) == answer


def test_more_than_there_is_of_a_class_is_never_taken(rig: Rig) -> None:
    key = reserved(rig, 3)
    before = views(rig)
    for units, moves in (({A100: 6}, {}), ({A100: 2}, {key: A100}), ({A100: 8}, {})):
        assert reason_of(split, rig, units, moves) == "RESHAPE_OVERCOMMITS"
    assert reason_of(split, rig, {A100: 9}) == "INVALID_FIELD"
    assert views(rig) == before
    split(rig, {A100: 8}, {key: A100})
    assert views(rig)[0].total[GPU] == 0


def test_a_split_is_of_the_inventory_that_was_looked_at(rig: Rig) -> None:
    generation = views(rig)[0].generation
    reserved(rig, 1)
    assert reason_of(split, rig, {A100: 4}, None, GPU, "h1", generation) == "GENERATION_CONFLICT"
    split(rig, {A100: 4}, generation=views(rig)[0].generation)
    # What is so already is so, whatever it was decided on.
    assert not split(rig, {A100: 4}, generation=generation).changed


def test_a_shape_is_swapped_against_its_generation(rig: Rig) -> None:
    with rig.store.write() as connection:
        shape = shape_rows.of(connection, "h1")
        assert reason_of(shape_rows.swap, connection, "h1", 99, shape) == "GENERATION_CONFLICT"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("nothing", A100, "CLASS_NOT_FOUND"),
        (GPU, ADDRESS, "CLASS_EXISTS"),
        (GPU, "vcpus", "INVALID_FIELD"),
        ("memory_bytes", A100, "INVALID_FIELD"),
        (GPU, "machines", "INVALID_FIELD"),
        (GPU, GPU, "INVALID_FIELD"),
        (GPU, "", "INVALID_FIELD"),
        (GPU, "x" * 65, "INVALID_FIELD"),
    ],
)
def test_a_name_that_means_something_is_not_given(rig: Rig, old, new, reason) -> None:
    assert reason_of(rename, rig, old, new) == reason


def test_a_name_that_was_given_away_is_not_used_again(rig: Rig) -> None:
    rename(rig, GPU, A100)
    assert reason_of(rename, rig, ADDRESS, GPU) == "CLASS_EXISTS"
    assert reason_of(split, rig, {GPU: 1}, None, A100) == "CLASS_EXISTS"
    quota = manager_pb2.Quota(tenant="acme", tenant_domain="tokyo.example")
    quota.hard.other[GPU] = 1
    assert reason_of(rig.quotas.put, quota, str(uuid.uuid4()), OPERATOR) == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("units", "moves", "name", "host_id", "reason"),
    [
        ({ADDRESS: 1}, {}, GPU, "h1", "CLASS_EXISTS"),
        ({GPU: 1}, {}, ADDRESS, POOL, "CLASS_EXISTS"),
        ({A100: 1}, {}, "nothing", "h1", "CLASS_NOT_FOUND"),
        ({A100: 1}, {}, GPU, "h2", "CLASS_NOT_FOUND"),
        ({A100: 1}, {str(uuid.uuid4()): A100}, GPU, "h1", "INVALID_FIELD"),
        ({A100: 1}, {"web-1": A100}, GPU, "h1", "INVALID_ID"),
        ({A100: 0}, {str(uuid.uuid4()): A100}, GPU, "h1", "INVALID_FIELD"),
        ({f"c{each}": 1 for each in range(17)}, {}, GPU, "h1", "INVALID_FIELD"),
        ({"disk_bytes": 1}, {}, GPU, "h1", "INVALID_FIELD"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(
    rig: Rig, units, moves, name, host_id, reason
) -> None:
    assert reason_of(split, rig, units, moves, name, host_id) == reason


def test_what_was_split_off_is_split_with_what_it_was(rig: Rig) -> None:
    split(rig, {A100: 4})
    assert reason_of(split, rig, {"accelerator:h100": 1}, None, A100) == "INVALID_FIELD"
    split(rig, {A100: 3, "accelerator:h100": 2})
    assert views(rig)[0].total[GPU] == 3


def test_a_limit_is_not_escaped_by_a_split(rig: Rig) -> None:
    quota = manager_pb2.Quota(tenant="acme", tenant_domain="tokyo.example")
    quota.soft.other[GPU] = 5
    put = rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)
    with pytest.raises(errors.FailedPrecondition, match=r"acme of tokyo\.example") as refused:
        split(rig, {A100: 4})
    assert refused.value.reason == "CLASS_LIMITED"
    quota.soft.other[A100] = 2
    quota.generation = put.generation
    rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)
    assert split(rig, {A100: 4}).changed


def sheet(version: int, effective_from: int, *resources: str) -> PriceSheet:
    """One that charges for these classes by the hour that they are held."""
    components = [
        Component(f"c{number}", Measure.HELD, "unit-hour", (Tier(1),), name)
        for number, name in enumerate(resources)
    ]
    return PriceSheet(version, "JPY", effective_from, tuple(components))


def test_a_class_that_is_charged_for_is_not_renamed_into_one_that_is_not() -> None:
    book = PriceBook([sheet(1, 0, GPU), sheet(2, 100, GPU, A100)])
    for since, pinned, versions in ((99, (), [1, 2]), (100, (), [2]), (100, (1,), [1, 2])):
        found = reshape_checks.in_use(book, since, pinned)
        assert [each.version for each in found] == versions
    reshape_checks.require_priced(GPU, A100, [sheet(2, 100, GPU, A100)])
    reshape_checks.require_priced(ADDRESS, A100, [sheet(1, 0, GPU)])
    with pytest.raises(errors.FailedPrecondition) as refused:
        reshape_checks.require_priced(GPU, A100, [sheet(1, 0, GPU)])
    assert (refused.value.reason, refused.value.metadata["version"]) == ("CLASS_PRICED", "1")


def test_should_allocations_not_add_up_nothing_has_changed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved(rig, 3)
    before = views(rig)
    monkeypatch.setattr(reshape_rows, "rewrite", lambda *_arguments: None)
    assert reason_of(rename, rig, GPU, A100) == "INTERNAL"
    assert views(rig) == before


def test_a_dry_run_tells_and_changes_nothing(rig: Rig) -> None:
    reserved(rig, 3)
    before = views(rig)
    asked = manager_pb2.ReshapeInventoryRequest(resource_class=GPU, rename_to=A100, dry_run=True)
    answer = reshape(rig, asked)
    assert (answer.changed, answer.consumers) == (True, 1)
    assert [each.held.other[A100] for each in answer.inventories] == [3]
    assert views(rig) == before
    assert "inventory.reshaped" not in {each.action for each in rig.audit()}


def test_a_hold_is_adopted_by_either_name(rig: Rig) -> None:
    asked = wants(3)
    broker = SpiffeId.parse("spiffe://hub.example/broker/main")
    asked.tenant_domain = "tokyo.example"
    rig.reservations.hold(asked, broker, 2**50)
    rename(rig, GPU, A100)
    answer = rig.reservations.reserve(asked, TOKYO)
    assert answer.HasField("grant")
    assert views(rig)[0].held[A100] == 3
    assert rig.reservations.get(asked.reservation_id, TOKYO).needs.other == {A100: 3}
    with rig.store.read() as connection:
        assert capacity.miscounted(connection) == {}
