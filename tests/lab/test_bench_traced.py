"""The bench of machines that run traces steps by name, and a step that is renamed ends it."""

import functools
import importlib

import pytest

from bench.running import timeline, traced

STEPS = [step for steps in traced.STEPS.values() for step in steps]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_that_the_bench_traces_is_there(step: str) -> None:
    module, _, name = step.partition(":")
    assert callable(functools.reduce(getattr, name.split("."), importlib.import_module(module)))


def test_every_stage_of_the_gap_is_a_step_that_is_traced() -> None:
    shown = set[str]()
    for module, _, name in (step.partition(":") for step in STEPS):
        shown.add(name if "." in name else f"{module.rpartition('.')[2]}.{name}")
    assert {each.step for each in timeline.MARKS} <= shown
