"""A process keeps to the processors that its settings name."""

import os
import threading
from collections.abc import Iterator

import pytest

from watari import errors, processors


@pytest.fixture
def there() -> Iterator[set[int]]:
    """What may be used; put back afterwards."""
    found = os.sched_getaffinity(0)
    yield found
    os.sched_setaffinity(0, found)


def test_what_is_started_from_now_on_keeps_to_them(there: set[int]) -> None:
    processors.keep_to([])
    assert os.sched_getaffinity(0) == there
    chosen = {max(there)}
    processors.keep_to(chosen)
    told = []
    thread = threading.Thread(target=lambda: told.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    assert told == [chosen]


def test_one_that_is_not_there_is_a_wrong_setting_and_changes_nothing(there: set[int]) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"there is no {max(there) + 1}") as refused:
        processors.keep_to([min(there), max(there) + 1])
    assert refused.value.reason == "CONFIG_INVALID"
    assert os.sched_getaffinity(0) == there
