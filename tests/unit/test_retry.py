import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watari import errors, retry
from watari.clock import FakeClock

STEADY = retry.Backoff(initial_seconds=1, factor=2, max_seconds=5, attempts_max=5, jitter=0)


class Flaky:
    """Fails with each error in turn, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def unavailable() -> errors.Unavailable:
    return errors.Unavailable("PEER_UNAVAILABLE", "away")


def test_delays_grow_up_to_their_limit():
    assert list(retry.delays(STEADY, random.Random(1))) == [1, 2, 4, 5]


@given(st.integers(), st.floats(0, 1), st.integers(1, 20))
def test_jitter_keeps_every_delay_within_its_share(seed, jitter, attempts):
    backoff = retry.Backoff(jitter=jitter, attempts_max=attempts)
    plain = list(retry.delays(retry.Backoff(jitter=0, attempts_max=attempts), random.Random()))
    shaken = list(retry.delays(backoff, random.Random(seed)))
    assert len(shaken) == attempts - 1
    for delay, base in zip(shaken, plain, strict=True):
        assert base * (1 - jitter) - 1e-9 <= delay <= base * (1 + jitter) + 1e-9


def test_a_retryable_error_is_retried_until_the_answer_comes():
    clock, flaky = FakeClock(auto_advance=True), Flaky(unavailable(), unavailable())
    assert retry.call(flaky, backoff=STEADY, clock=clock) == "answer"
    assert (flaky.calls, clock.monotonic()) == (3, 3)


def test_the_last_error_is_raised_when_the_attempts_are_used_up():
    last = errors.Unavailable("SERVER_UNAVAILABLE", "last")
    flaky = Flaky(*(unavailable() for _ in range(4)), last)
    with pytest.raises(errors.Unavailable) as caught:
        retry.call(flaky, backoff=STEADY, clock=FakeClock(auto_advance=True))
    assert (caught.value, flaky.calls) == (last, 5)


@pytest.mark.parametrize("error", [errors.NotFound("VM_NOT_FOUND", ""), KeyError("bug")])
def test_other_errors_are_raised_at_once(error):
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        retry.call(flaky, backoff=STEADY, clock=FakeClock())
    assert flaky.calls == 1


def test_a_stop_ends_the_retries_with_the_last_error():
    stop, flaky = threading.Event(), Flaky(unavailable())
    stop.set()
    with pytest.raises(errors.Unavailable):
        retry.call(flaky, backoff=STEADY, clock=FakeClock(), stop=stop)
    assert flaky.calls == 1


def test_a_backoff_without_attempts_is_refused():
    with pytest.raises(ValueError, match="attempt"):
        retry.Backoff(attempts_max=0)
