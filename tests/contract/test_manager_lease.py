"""Managers that share a PostgreSQL: one works, and who was taken for dead writes nothing more."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from manager import audit
from manager.lease import Lease
from manager.settings.store import StoreSettings
from manager.store import Store
from tests.support import postgresql
from watari import errors
from watari.clock import SystemClock

SECONDS = 4.0
"""Of a lease: less than it takes a busy machine to come back to who renews it."""
WAIT_SECONDS_MAX = 60.0


class Party:
    """What one manager process has."""

    def __init__(self, settings: StoreSettings) -> None:
        self.lost = threading.Event()
        self.store = Store(settings)
        self.lease = Lease(self.store, SystemClock(), SECONDS, self.lost.set)

    def write(self) -> None:
        """Something."""
        with self.store.write() as connection:
            audit.append(connection, 1, actor="a", action="b", subject="c")

    def written(self) -> int:
        """How often something was written, by anybody."""
        with self.store.read() as connection:
            return audit.head(connection).sequence


@pytest.fixture
def parties(postgresql_server: postgresql.Server) -> Iterator[list[Party]]:
    settings = postgresql_server.settings()
    with ExitStack() as stack:
        made = [Party(settings) for _ in range(2)]
        for each in made:
            stack.callback(each.store.close)
        yield made


def test_one_works_until_it_gives_the_lease_back(parties: list[Party]) -> None:
    first, second = parties
    first.lease.await_turn()
    waiting = threading.Thread(target=second.lease.await_turn)
    waiting.start()
    for _ in range(4):
        waiting.join(SECONDS / 3)
        assert waiting.is_alive(), "it took a lease that another one holds"
        first.lease.renew()
    first.write()
    first.lease.give_back()
    waiting.join(WAIT_SECONDS_MAX)
    assert not waiting.is_alive()
    second.write()
    assert second.written() == 2


def test_who_was_taken_for_dead_neither_writes_nor_reads_nor_renews(parties: list[Party]) -> None:
    first, second = parties
    first.lease.await_turn()
    with first.store.read():
        pass
    second.lease.await_turn()
    for call in (first.write, first.written):
        with pytest.raises(errors.Unavailable, match="ran out"):
            call()
    first.lease._valid_until += 1000  # As if it had been renewed a moment ago.
    with pytest.raises(errors.FailedPrecondition) as caught:
        first.write()
    assert caught.value.reason == "LEASE_LOST"
    assert not first.lost.is_set()
    with pytest.raises(errors.FailedPrecondition):
        first.lease.renew()
    assert first.lost.is_set()
    assert second.written() == 0
    second.write()


def test_a_lease_that_ran_out_is_renewed_while_nobody_else_has_it(parties: list[Party]) -> None:
    first, _ = parties
    first.lease.await_turn()
    first.lease._valid_until = 0.0
    with pytest.raises(errors.Unavailable):
        first.write()
    first.lease.renew()
    first.write()
    assert first.written() == 1
