"""What classes are called now, and how they are split: arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager import shapes
from manager.settings.hosts import ClassSettings
from manager.shapes import PLAIN, Shape

GPU, A100, H100 = "gpu", "gpu:a100", "gpu:h100"
SPLIT = PLAIN.splitting(GPU, {A100: 4, H100: 2})
amounts = st.dictionaries(st.sampled_from([GPU, A100, "disk:ssd", "vcpus"]), st.integers(1, 9))
parts = st.dictionaries(st.sampled_from([A100, H100]), st.integers(0, 9))


@given(amounts, parts)
def test_a_split_makes_nothing_and_loses_nothing(told: dict[str, int], units: dict[str, int]):
    found = PLAIN.splitting(GPU, units).totals(told)
    assert sum(found.values()) == sum(told.values())
    assert all(amount >= 0 for amount in found.values())
    assert found.get(A100, 0) == told.get(A100, min(units.get(A100, 0), told.get(GPU, 0)))


@given(amounts, amounts, parts)
def test_what_a_machine_takes_is_as_much_whatever_it_is_called(told, known, units):
    found = PLAIN.splitting(GPU, units).divided(told, known)
    assert sum(found.values()) == sum(told.values())


@pytest.mark.parametrize(
    ("told", "known", "found"),
    [
        ({"vcpus": 2}, {"vcpus": 1, A100: 1}, {"vcpus": 2, A100: 1}),  # Nothing is said of it.
        ({GPU: 2}, {A100: 2}, {A100: 2}),
        ({GPU: 3}, {A100: 2}, {A100: 2, GPU: 1}),
        ({GPU: 1}, {A100: 2}, {A100: 1}),
        ({GPU: 0}, {A100: 2, "address": 1}, {"address": 1}),  # It is said to be gone.
        ({GPU: 2}, {GPU: 1}, {GPU: 2}),
        ({A100: 1}, {A100: 2}, {A100: 1}),
        ({"vcpus": 0}, {"vcpus": 1}, {}),
    ],
)
def test_a_machine_keeps_its_class_and_what_its_host_knows_nothing_of(told, known, found):
    assert SPLIT.seen(told, known) == found


def test_what_settings_and_hosts_say_by_an_earlier_name_holds_for_the_present_one():
    shape = PLAIN.renaming("xpu", "npu").splitting("npu", {A100: 4}).renaming("npu", GPU)
    assert shape == Shape({"xpu": GPU, "npu": GPU}, {GPU: {A100: 4}})
    assert shape.totals({"xpu": 6}) == {GPU: 2, A100: 4}
    said = shape.settings({"xpu": ClassSettings(total=6, reserved=1, allocation_ratio=2.0)})
    assert said[GPU].reserved == 1
    assert said[A100] == ClassSettings(allocation_ratio=2.0)
    assert shape.renaming(GPU, "xpu") == Shape({"npu": "xpu", GPU: "xpu"}, {"xpu": {A100: 4}})


def test_what_is_said_of_a_class_that_was_split_off_holds():
    assert SPLIT.totals({GPU: 3, A100: 5}) == {GPU: 1, A100: 5, H100: 2}
    assert SPLIT.settings({GPU: ClassSettings(), A100: ClassSettings(max_unit=1)})[A100].max_unit


def test_shapes_are_stored_as_they_are():
    for shape in (PLAIN, SPLIT, SPLIT.renaming(GPU, "xpu")):
        assert shapes.of_blob(shapes.blob_of(shape)) == shape
    assert shapes.blob_of(PLAIN) is None
    assert SPLIT.splitting(GPU, {A100: 0}) == PLAIN
