"""Many clients want the last units of capacity while managers are killed.

    python -m tests.faults.race [--database sqlite|postgresql] [--seconds 60] [--seed 1]

64 clients reserve, confirm, release and give up at random, and repeat whatever is not answered.
Managers get kill -9 at random, some after they stood still for longer than their lease, and are
started again: one on SQLite, three on one PostgreSQL. At every moment no more is taken than there
is. Afterwards whatever was answered as confirmed is still so, nothing is pending once its time is
over, and what is taken is what is confirmed.
"""

import argparse
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import structlog

from manager.settings.store import StoreSettings
from tests.support import managers, postgresql, reservations
from tests.support.managers import Managers, Rows
from watari import audit, errors
from watari.rpc import client
from watari.v1 import manager_pb2, manager_pb2_grpc

CLIENTS = 64
VCPUS = 8
MACHINE_VCPUS_MAX = 3
TTL_SECONDS = 10
PROCESSES = {"sqlite": 1, "postgresql": 3}
KILL_SECONDS_MIN, KILL_SECONDS_MAX = 3.0, 8.0
PAUSED, PAUSE_SECONDS = 0.3, managers.LEASE_SECONDS * 2
"""Of the managers that are killed while they work, so many stand still first."""

SETTLE_SECONDS_MAX = TTL_SECONDS + 20.0
LOOK_SECONDS = 0.05

_Answer = TypeVar("_Answer")
_Stub = manager_pb2_grpc.ReservationServiceStub


class Race:
    """One run."""

    def __init__(self, place: Managers, rows: Rows, seconds: float, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.confirmed: set[str] = set()
        """Whose confirmation was answered, and whose release nobody asked for."""
        self.problems: list[str] = []
        self._place, self._rows = place, rows
        self._seed = seed
        self._until = time.monotonic() + seconds
        self._over = threading.Event()

    def run(self) -> None:
        """Until the time is over and everything has settled."""
        watching = threading.Thread(target=self._watch, name="watch")
        killing = threading.Thread(target=self._kill, name="kill")
        watching.start()
        killing.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(self._client, range(CLIENTS)))
        finally:
            self._over.set()
            killing.join()
        self._settle()
        watching.join()

    def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed}-{number}")
        stubs = self._place.stubs()
        for _ in range(rng.randrange(CLIENTS)):
            next(stubs)
        while time.monotonic() < self._until:
            self._one(rng, stubs.__next__)

    def _one(self, rng: random.Random, stub: Callable[[], _Stub]) -> None:
        asked = reservations.request(rng.randint(1, MACHINE_VCPUS_MAX), ttl_seconds=TTL_SECONDS)
        key = asked.reservation_id
        try:
            self._insist(stub, lambda it: client.call(it.Reserve, asked))
        except errors.Exhausted:
            self.counts["no room"] += 1
            time.sleep(rng.uniform(0, 0.05))
            return
        self.counts["reserved"] += 1
        if rng.random() < 0.1:
            self.counts["given up"] += 1
            return
        if rng.random() < 0.8:
            confirm = manager_pb2.ConfirmReservationRequest(reservation_id=key)
            try:
                self._insist(stub, lambda it: client.call(it.ConfirmReservation, confirm))
            except errors.FailedPrecondition as error:
                if error.reason != "RESERVATION_EXPIRED":
                    raise
                self.counts["expired"] += 1
                return
            self.counts["confirmed"] += 1
            self.confirmed.add(key)
            time.sleep(rng.uniform(0, 0.2))
            get = manager_pb2.GetReservationRequest(reservation_id=key)
            found = self._insist(stub, lambda it: client.call(it.GetReservation, get)).reservation
            if found.state != manager_pb2.RESERVATION_STATE_CONFIRMED:
                self.problems.append(f"{key} was confirmed and is {found}")
            if time.monotonic() > self._until:
                return
            self.confirmed.discard(key)
        release = manager_pb2.ReleaseReservationRequest(reservation_id=key)
        self._insist(stub, lambda it: client.call(it.ReleaseReservation, release))
        self.counts["released"] += 1

    def _insist(self, stub: Callable[[], _Stub], call: Callable[[_Stub], _Answer]) -> _Answer:
        deadline = time.monotonic() + managers.ANSWER_SECONDS_MAX
        chosen = stub()
        while True:
            try:
                return call(chosen)
            except errors.Exhausted as error:
                if error.reason == "INSUFFICIENT_CAPACITY":
                    raise
                self._repeat(error, deadline)
            except errors.WatariError as error:
                if not managers.again(error):
                    raise
                self._repeat(error, deadline)
            chosen = stub()

    def _repeat(self, error: errors.WatariError, deadline: float) -> None:
        self.counts["repeated"] += 1
        if time.monotonic() > deadline:
            raise error
        time.sleep(0.05)

    def _watch(self) -> None:
        """What is taken, many times a second."""
        while not self._over.wait(LOOK_SECONDS):
            taken = self._rows.vcpus()
            self.counts["looks"] += 1
            self.counts["full"] += taken == VCPUS
            if taken > VCPUS:
                self.problems.append(f"{taken} of {VCPUS} CPUs are taken")

    def _kill(self) -> None:
        rng = random.Random(self._seed)
        while not self._over.wait(rng.uniform(KILL_SECONDS_MIN, KILL_SECONDS_MAX)):
            working = [each for each in self._place.processes if each.serving()]
            victim = rng.choice(working + rng.sample(self._place.processes, 1))
            self.counts["killed"] += 1
            self.counts["killed while working"] += victim in working
            if victim in working and rng.random() < PAUSED:
                self.counts["paused"] += 1
                victim.pause(PAUSE_SECONDS)  # Longer than its lease: it wakes up replaced.
            victim.end()
            victim.launch()

    def _settle(self) -> None:
        """Nobody asks for anything any more."""
        self._place.await_answer()
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while "PENDING" in (states := self._rows.states()).values():
            if time.monotonic() > deadline:
                self.problems.append("a reservation is pending after its time")
                break
            time.sleep(0.2)
        confirmed = {key for key, state in states.items() if state == "CONFIRMED"}
        self.problems += [f"{key} is {states.get(key)}" for key in self.confirmed - confirmed]
        self.problems += [f"{key} was never asked for" for key in confirmed - self.confirmed]
        taken, held = self._rows.vcpus(), self._rows.vcpus_of(confirmed)
        if taken != held:
            self.problems.append(f"{taken} CPUs are taken, {held} by confirmed reservations")
        audit.verify(entries := self._rows.audit())
        told = sum(entry.action == "reservation.confirmed" for entry in entries)
        if told < self.counts["confirmed"]:
            self.problems.append(f"{told} confirmations in the audit log")
        self.counts["audit entries"] = len(entries)


def run(database: str, seconds: float, seed: int, folder: Path) -> Race:
    """A race on a database of its own."""
    with ExitStack() as stack:
        if database == "sqlite":
            store = StoreSettings(path=folder / "manager.sqlite")
        else:
            server = stack.enter_context(postgresql.server(folder / "postgresql"))
            store = server.settings()
        place = stack.enter_context(
            managers.managers(folder, store, count=PROCESSES[database], vcpus=VCPUS)
        )
        rows = Rows(store)
        stack.callback(rows.close)
        race = Race(place, rows, seconds, seed)
        race.run()
        return race


def main() -> None:
    """Exit status 1 when something was not as it must be."""
    parser = argparse.ArgumentParser("python -m tests.faults.race", description=__doc__)
    parser.add_argument("--database", choices=sorted(PROCESSES), action="append")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed = False
    for database in arguments.database or sorted(PROCESSES):
        with tempfile.TemporaryDirectory(prefix="watari-race-") as name:
            race = run(database, arguments.seconds, arguments.seed, Path(name))
        counts = ", ".join(f"{what} {count}" for what, count in sorted(race.counts.items()))
        sys.stdout.write(f"{database}, seed {arguments.seed}: {counts}\n")
        for problem in race.problems[:20]:
            sys.stdout.write(f"  {problem}\n")
        failed = failed or bool(race.problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
