"""The highest of many sums, some of whose summands are rough: those that exact sums would give."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from broker import choosing
from broker.choosing import STEPS, Part


def expected(exact: np.typing.NDArray[np.float64], count: int) -> list[int]:
    """By all sums, one at a time."""
    steps = [round(each * STEPS) for each in exact.tolist()]
    return sorted(range(len(steps)), key=lambda place: (-steps[place], place))[:count]


@given(
    st.integers(0, 2**32),
    st.integers(1, 5000),
    st.integers(1, 40),
    st.sampled_from([2, 50, 10**6]),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-3, 0.5, 2.0]),
)
def test_the_highest_are_those_of_exact_sums_and_the_first_of_equal_ones(
    seed: int, length: int, count: int, different: int, error: float
) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.integers(0, different, length) / different
    if rng.random() < 0.5:
        exact = np.sort(exact)  # the best side by side
    rough = exact + rng.uniform(-error, error, length)
    other = rng.integers(0, different, length) / different
    parts = [Part(other), Part(rough, error, exact.take)]
    assert choosing.highest(parts, count).tolist() == expected(other + exact, count)


def test_sums_that_differ_by_less_than_a_step_are_equal() -> None:
    values = np.array([0.1, 0.1 + 0.2 / STEPS, 0.1 - 0.2 / STEPS, 0.1 + 3 / STEPS])
    assert choosing.highest([Part(values)], 3).tolist() == [3, 0, 1]
