"""Every step of a migration, with every process killed and every connection cut just then.

    python -m tests.faults.matrix [--kinds kill cut lost] [--seed N --sample K] [--jobs J]

A case: the process that reaches a fail point stops itself there; the fault is done to somebody; the
process goes on, if it is still there; everything is started again, and then: one owner, one usable
copy with the content that it had, no reservation, hold or file left over, books that agree; and the
machine can be migrated again as if nothing had been.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

import structlog

from tests.faults import points, world
from tests.faults.world import CLI, PAIRS, World
from tests.support import local
from watari import errors
from watari.v1 import manager_pb2

CUT_SECONDS = 5.0
LOST_SECONDS_MAX = 25.0
"""Until a migration whose peer is gone for good has either ended or waits for an operator."""

VICTIMS = ("tokyo-manager", "osaka-manager", "tokyo-agent", "osaka-agent", "broker", CLI)


@dataclass(frozen=True)
class Case:
    """One fault at one moment."""

    holder: str
    """The process that stops itself."""
    point: str
    passes: int
    """How often it passes the point before."""
    kind: str
    """kill, cut (for 5 s) or lost (cut for good)."""
    target: str
    """A process, or a pair of them."""
    also: str = ""
    """A second process that is killed."""

    def __str__(self) -> str:
        also = f" + kill {self.also}" if self.also else ""
        times = f"#{self.passes + 1}" if self.passes else ""
        return f"{self.holder} {self.point}{times}: {self.kind} {self.target}{also}"


def moments() -> Iterator[tuple[str, str, int]]:
    """(process, fail point, how often it is passed before): each step on the way once."""
    for holder, names in points.ON_THE_WAY.items():
        for point in names:
            for passes in range(points.PASSES.get(point, 1)):
                yield holder, point, passes


def cases(kinds: Sequence[str]) -> list[Case]:
    """All of them."""
    targets = {"kill": VICTIMS, "cut": PAIRS, "lost": PAIRS}
    return [
        Case(*moment, kind, target)
        for kind in kinds
        for moment in moments()
        for target in targets[kind]
    ]


def pairs_of_faults(seed: int, count: int) -> list[Case]:
    """Two faults at one moment, by chance: a cut, and a process killed meanwhile."""
    rng = random.Random(seed)
    every = list(moments())
    return [
        Case(*rng.choice(every), "cut", rng.choice(PAIRS), also=rng.choice(VICTIMS[:4]))
        for _ in range(count)
    ]


def run(place: World, case: Case, folder: Path) -> manager_pb2.Migration:
    """Runs a case. Raises AssertionError when something is not as it must be."""
    vm_id, original = place.machine(folder)
    if case.point == "agent.receiving.offer_answered":  # there has to be something to compare with
        place.wait_ended(place.migrate(place.machine(folder)[0]))
    place.arm(case.holder, case.point, case.passes)
    migration_id = str(uuid.uuid4())
    place.begin(vm_id, migration_id)
    try:
        place.await_stopped(case.holder, vm_id, migration_id)
        _do(place, case)
        if case.kind == "lost":
            _resolve(place, case, migration_id)
    finally:
        place.heal(drop=case.kind == "lost")
        place.end_cli()
        place.go_on(case.holder)
        place.up()
    _asked_again(place, vm_id, migration_id)
    ended = local.check_one_usable_copy(place, vm_id, migration_id, original)
    if ended.state != manager_pb2.MIGRATION_STATE_SUCCEEDED:
        again = place.migrate(vm_id)
        ended = local.check_one_usable_copy(place, vm_id, again, original)
        assert ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, ended
    original.unlink()
    return ended


def _do(place: World, case: Case) -> None:
    if case.kind == "kill":
        place.kill_any(case.target)
        place.go_on(case.holder)
        return
    place.cut(case.target)
    place.go_on(case.holder)
    if case.also:
        time.sleep(CUT_SECONDS / 2)
        place.kill(case.also)
    if case.kind == "cut":
        time.sleep(CUT_SECONDS)


def _resolve(place: World, case: Case, migration_id: str) -> None:
    """What an operator does who knows that the other side will never answer again."""
    if case.target != "tokyo-manager - osaka-manager":
        time.sleep(CUT_SECONDS)  # nothing that an operator decides: it waits, or it went back
        return
    waiting = manager_pb2.MIGRATION_STATE_HANDED_OVER
    states = (*local.FINAL, waiting)

    def settled() -> bool:
        try:
            found = place.migration(migration_id)
        except errors.WatariError:
            return False
        return found.state in states and (found.state != waiting or found.HasField("waiting_for"))

    if not world.eventually(settled, LOST_SECONDS_MAX):
        return
    if place.migration(migration_id).state == waiting:
        place.resolve(migration_id)


def _asked_again(place: World, vm_id: str, migration_id: str) -> None:
    """A command line or broker that was killed before it had asked has asked for nothing."""
    try:
        place.migration(migration_id)
    except errors.NotFound:
        place.migrate(vm_id, migration_id=migration_id)


def run_all(chosen: Sequence[Case], jobs: int, folder: Path) -> list[str]:
    """Runs cases in so many federations side by side; what went wrong."""
    waiting: Queue[Case] = Queue()
    for case in chosen:
        waiting.put(case)
    wrong: list[str] = []
    done = [0]

    def work(number: int) -> None:
        home = folder / f"world{number}"
        home.mkdir(parents=True)
        with world.running(home / "federation") as place:
            while (case := _next(waiting)) is not None:
                began = time.monotonic()
                try:
                    run(place, case, home)
                except Exception as error:  # noqa: BLE001 - every case is told of
                    wrong.append(f"{case}: {type(error).__name__}: {error}"[-3000:])
                    print("FAILED", wrong[-1], flush=True)
                    place.begin_anew()
                done[0] += 1
                print(
                    f"{done[0]}/{len(chosen)} {case} {time.monotonic() - began:.1f} s", flush=True
                )

    with ThreadPoolExecutor(jobs) as pool:
        for each in [pool.submit(work, number) for number in range(jobs)]:
            each.result()
    return wrong


def _next(waiting: "Queue[Case]") -> Case | None:
    """The next case, of which another thread may take the last one at any moment."""
    try:
        return waiting.get_nowait()
    except Empty:
        return None


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["kill", "cut", "lost"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sample", type=int, default=0, help="so many by chance instead of all")
    parser.add_argument("--pairs", type=int, default=0, help="so many of two faults, by chance")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose text has this in it")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = [case for case in cases(chosen.kinds) if chosen.only in str(case)]
    if chosen.sample:
        found = random.Random(chosen.seed).sample(found, min(chosen.sample, len(found)))
    found += pairs_of_faults(chosen.seed, chosen.pairs)
    with tempfile.TemporaryDirectory() as folder:
        wrong = run_all(found, chosen.jobs, Path(folder))
    print(f"{len(found)} cases (seed {chosen.seed}), {len(wrong)} of them wrong")
    for each in wrong:
        print(each)
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
