"""Capacity arithmetic of the manager."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager import inventory
from manager.inventory import DISK, MEMORY, STORAGE, VCPUS, HostView
from watari import errors
from watari.v1 import common_pb2

GIB = 1024**3


def host(host_id: str = "h1", **changes: object) -> HostView:
    """8 CPUs, 16 GiB, 100 GiB, all free unless changed."""
    values: dict[str, object] = {
        "host_id": host_id,
        "total": {VCPUS: 8, MEMORY: 16 * GIB, DISK: 100 * GIB},
        "reserved": {},
        "ratios": {},
        "storage_free_bytes": 100 * GIB,
    }
    return HostView(**(values | changes))  # type: ignore[arg-type]


def test_free_is_total_less_reserved_times_ratio_less_what_is_consumed() -> None:
    seen = host(
        reserved={VCPUS: 2}, ratios={VCPUS: 4.0}, allocated={VCPUS: 5}, held={VCPUS: 3, MEMORY: GIB}
    )
    assert seen.free[VCPUS] == (8 - 2) * 4 - 5 - 3
    assert seen.free[MEMORY] == 15 * GIB


def test_free_is_never_negative_even_where_more_is_consumed_than_there_is() -> None:
    assert host(allocated={VCPUS: 20}).free[VCPUS] == 0
    assert host(reserved={MEMORY: 32 * GIB}).free[MEMORY] == 0


def test_the_fullest_host_that_fits_is_chosen() -> None:
    hosts = [host("empty"), host("fuller", allocated={VCPUS: 4}), host("full", held={VCPUS: 8})]
    assert inventory.choose(hosts, {VCPUS: 2}).host_id == "fuller"


def test_a_host_that_does_not_answer_is_never_chosen() -> None:
    with pytest.raises(errors.Unavailable, match="none of the cloud's 1 hosts answers") as caught:
        inventory.choose([host(reachable=False)], {VCPUS: 1})
    assert caught.value.retryable


def test_a_cloud_without_hosts_says_so() -> None:
    with pytest.raises(errors.Exhausted, match="no host yet"):
        inventory.choose([], {VCPUS: 1})


def test_a_refusal_names_the_resource_what_was_asked_what_is_free_and_what_would_fit() -> None:
    hosts = [host("small", held={MEMORY: 15 * GIB}), host("near", held={MEMORY: 10 * GIB})]
    with pytest.raises(errors.Exhausted) as caught:
        inventory.choose(hosts, {MEMORY: 8 * GIB, VCPUS: 1})
    refusal = caught.value
    assert refusal.reason == "INSUFFICIENT_CAPACITY"
    assert refusal.metadata == {
        "resource": MEMORY,
        "asked": str(8 * GIB),
        "free": str(6 * GIB),
        "host": "near",
    }
    assert "8.0 GiB of memory_bytes asked, 6.0 GiB free" in refusal.message
    assert "6.0 GiB of memory_bytes" in refusal.hint


def test_a_class_that_no_host_has_is_refused() -> None:
    with pytest.raises(errors.Exhausted) as caught:
        inventory.choose([host()], {"gpu": 1})
    assert caught.value.metadata["resource"] == "gpu"


def test_bytes_to_be_written_must_fit_the_storage_that_is_really_free() -> None:
    thin = host(storage_free_bytes=GIB)
    assert inventory.lacking(thin, {DISK: 50 * GIB, STORAGE: GIB}) == []
    assert inventory.lacking(thin, {DISK: 50 * GIB, STORAGE: GIB + 1}) == [STORAGE]


def test_the_largest_fit_is_one_hosts_and_not_a_sum() -> None:
    hosts = [host("a", held={MEMORY: 4 * GIB}), host("b", held={MEMORY: 6 * GIB})]
    assert inventory.largest_fit(hosts)[MEMORY] == 12 * GIB


amount = st.integers(0, 20)
amounts = st.fixed_dictionaries({VCPUS: amount, MEMORY: amount, DISK: amount})


@given(st.lists(st.tuples(amounts, amounts, st.booleans()), max_size=5), amounts.map(lambda a: a))
def test_what_is_chosen_always_fits_and_nothing_that_fits_is_refused(hosts, asked) -> None:
    seen = [
        host(f"h{number}", total=total, held=held, reachable=reachable, storage_free_bytes=0)
        for number, (total, held, reachable) in enumerate(hosts)
    ]
    fitting = {
        each.host_id
        for each in seen
        if each.reachable and all(each.free[name] >= asked[name] for name in asked)
    }
    needed = {name: value for name, value in asked.items() if value}
    if fitting:
        assert inventory.choose(seen, needed).host_id in fitting
        return
    if seen and not any(each.reachable for each in seen):
        with pytest.raises(errors.Unavailable):
            inventory.choose(seen, needed)
        return
    with pytest.raises(errors.Exhausted) as caught:
        inventory.choose(seen, needed)
    assert int(caught.value.metadata["asked"]) > int(caught.value.metadata["free"])


@given(amounts)
def test_amounts_survive_their_message(values) -> None:
    known = {name: value for name, value in values.items() if value}
    assert inventory.amounts(inventory.to_resources(known)) == known


@pytest.mark.parametrize(
    "resources",
    [
        common_pb2.Resources(vcpus=0),
        common_pb2.Resources(vcpus=1, memory_bytes=2**53),
        common_pb2.Resources(vcpus=1, other={f"c{n}": 1 for n in range(33)}),
        common_pb2.Resources(vcpus=1, other={"": 1}),
        common_pb2.Resources(vcpus=1, other={"memory_bytes": 1}),
        common_pb2.Resources(vcpus=1, other={"x" * 65: 1}),
    ],
)
def test_resources_out_of_bounds_are_refused(resources: common_pb2.Resources) -> None:
    with pytest.raises(errors.InvalidArgument):
        inventory.require_resources(resources, "resources")
