"""One guest that travels to and fro for as long as faults are done to whoever moves it.

    python -m tests.lab.faults [--sample K] [--pairs K] [--seed N]

A case: one migration. The process that reaches a fail point stops itself there; somebody is killed
with -9 (a manager, an agent, the libvirtd of a host) or the link between the hosts is cut, for 5 s
or for good; the process goes on, all is started again. Then the guest is asked what it saw: it
counts where it should, nothing that it acknowledged is lost, no second copy ever said a word; and
one host has it, nothing is reserved, held or left over, both books agree.
"""

import watari.tls  # noqa: F401, I001 - before grpc

import argparse
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from tests.conftest import Federation
from tests.faults.points import PASSES
from tests.lab import console, image, moving
from tests.lab.clouds import FINAL, Cloud, Clouds, Server, wait_until
from tests.lab.guests import Guest, Spec
from tests.lab.link import Lab
from tests.lab.moving import Traveller
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2

SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND
WARM = common_pb2.MIGRATION_MODE_WARM
CUT_SECONDS = 5.0
STOPPED_SECONDS_MAX = 90.0
SETTLED_SECONDS_MAX = 90.0
LOST_SECONDS_MAX = 30.0

POINTS = {
    "source-manager": [
        "manager.saga.after_hold",
        "manager.saga.after_reserve",
        "manager.saga.before_start_transfer",
        "manager.saga.after_start_transfer",
        "manager.saga.after_confirm",
        "manager.saga.in_commit",
        "manager.saga.after_commit",
        "manager.saga.after_hand_over",
        "manager.saga.after_retire",
        "manager.saga.before_state",
        "manager.saga.after_state",
    ],
    "destination-manager": [
        "manager.reservation.after_reserve",
        "manager.reservation.after_confirm",
        "manager.handover.before_record",
        "manager.handover.after_record",
        "manager.handover.after_activate",
        "manager.handover.after_start",
        "manager.handover.after_owned",
    ],
    "source-agent": [
        "agent.attempt.session_opened",
        "agent.attempt.before_stop",
        "agent.attempt.after_stop",
        "agent.sending.frame_sent",
        "agent.attempt.completed",
        "agent.attempt.after_round",
    ],
    "destination-agent": [
        "agent.receiving.frame_written",
        "agent.settling.recorded",
        "agent.receiving.flushed",
    ],
}
"""Fail points that the migration of a running machine passes, by who passes them."""

FAULTS = (
    *(f"kill {side}-{what}" for side in ("source", "destination") for what in ("manager", "agent")),
    *("kill source-libvirtd", "kill destination-libvirtd"),
    *("cut link", "lose link"),
)
PATIENCE = """peer_wait_seconds_max = 12
agent_wait_seconds_max = 30
"""


@dataclass(frozen=True)
class Case:
    """One fault at one moment of one migration."""

    holder: str
    point: str
    passes: int
    fault: str
    also: str = ""

    @property
    def mode(self) -> int:
        """Rounds are in mode warm only; all else is quicker without a boot."""
        return WARM if self.point == "agent.attempt.after_round" else SUSPEND

    def __str__(self) -> str:
        times = f"#{self.passes + 1}" if self.passes else ""
        also = f" + {self.also}" if self.also else ""
        return f"{self.holder} {self.point}{times}: {self.fault}{also}"


def cases() -> list[Case]:
    """All of single faults."""
    return [
        Case(holder, point, passes, fault)
        for holder, point, passes in moments()
        for fault in FAULTS
    ]


def moments() -> Iterator[tuple[str, str, int]]:
    """(who, fail point, how often it is passed before)."""
    for holder, names in POINTS.items():
        for point in names:
            for passes in range(PASSES.get(point, 1)):
                yield holder, point, passes


def pairs(seed: int, count: int) -> list[Case]:
    """Two faults at one moment, by chance."""
    rng, every = random.Random(seed), list(moments())
    found = []
    for _ in range(count):
        one, other = rng.sample(FAULTS[:-1], 2)
        found.append(Case(*rng.choice(every), one, other))
    return found


@dataclass
class Rig:
    """The clouds and their one guest."""

    clouds: Clouds
    traveller: Traveller
    begun: list[str] = field(default_factory=list)
    """Migrations, in order."""

    def server(self, role: str) -> Server:
        """A process by its part in the next migration."""
        side, _, what = role.partition("-")
        return self._cloud(side).servers[f"{self._cloud(side).cloud_id}-{what}"]

    def run(self, case: Case) -> bool:
        """One case; whether the guest arrived at the first try. Raises AssertionError."""
        source, vm_id = self.traveller.at, self.traveller.vm_id
        holder = self.server(case.holder)
        holder.kill()
        holder.start(WATARI_FAILPOINTS=f"{case.point}={case.passes}*off->1*stop")
        source.wait_owns(vm_id, "running", 60)
        migration_id = self._begin(source, case)
        try:
            wait_until(
                lambda: holder.stopped,
                STOPPED_SECONDS_MAX,
                lambda: f"{source.migration(migration_id)}\n{holder.log.read_text()[-1500:]}",
            )
            for fault in filter(None, (case.fault, case.also)):
                self._do(fault)
            holder.go_on()
            if "cut link" in (case.fault, case.also):
                time.sleep(CUT_SECONDS)
            if case.fault == "lose link":
                self._decide(source, migration_id)
        finally:
            self.clouds.lab.heal()
            holder.go_on()
            self.clouds.recover()
        arrived = self._ended(source, migration_id)
        self._check(source, migration_id, arrived=arrived)
        return arrived

    def _begin(self, source: Cloud, case: Case) -> str:
        """The answer may be lost with the manager that gives it."""
        migration_id = source.new_id()
        self.begun.append(migration_id)
        try:
            source.migrate(self.traveller.vm_id, case.mode, migration_id)
        except errors.WatariError as error:
            if not error.retryable:
                raise
        return migration_id

    def _do(self, fault: str) -> None:
        action, _, what = fault.partition(" ")
        if what == "link":
            self.clouds.lab.cut()
        elif what.endswith("-libvirtd"):
            self._cloud(what.partition("-")[0]).host.kill_libvirtd()
        else:
            assert action == "kill", fault
            self.server(what).kill()

    def _decide(self, source: Cloud, migration_id: str) -> None:
        """The link will never be there again: an operator who can see both hosts says what holds,
        where the managers cannot. Before the commit nobody is needed.
        """
        waiting = manager_pb2.MIGRATION_STATE_HANDED_OVER
        deadline = time.monotonic() + LOST_SECONDS_MAX
        while time.monotonic() < deadline:
            time.sleep(0.2)
            self.clouds.recover_servers()
            try:
                found = source.migration(migration_id)
            except errors.NotFound:
                return
            except errors.WatariError:
                continue
            if found.state in FINAL:
                return
            if found.state == waiting and found.HasField("waiting_for"):
                self._resolve(source, migration_id)
                return

    def _resolve(self, source: Cloud, migration_id: str) -> None:
        there = self.clouds.other(source)
        arrived = self.traveller.vm_id in there.vms()
        gone, kept = manager_pb2.RESOLUTION_GIVE_UP_HERE, manager_pb2.RESOLUTION_KEEP_HERE
        source.resolve(migration_id, gone if arrived else kept)
        if not arrived:
            there.resolve(migration_id, gone)

    def _ended(self, source: Cloud, migration_id: str) -> bool:
        try:
            source.migration(migration_id)
        except errors.NotFound:  # killed before it was recorded: nothing was asked for
            return False
        ended = source.wait_ended(migration_id, SETTLED_SECONDS_MAX)
        return ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED

    def _check(self, source: Cloud, migration_id: str, *, arrived: bool) -> None:
        traveller, there = self.traveller, self.clouds.other(source)
        owner, other = (there, source) if arrived else (source, there)
        owner.wait_owns(traveller.vm_id, "running", SETTLED_SECONDS_MAX)
        wait_until(lambda: traveller.vm_id not in other.vms(), 30)
        if arrived:
            traveller.arrived()
        else:
            traveller.stayed()
        traveller.console.wait_ack(more_than=traveller.last_n)
        assert console.problems(traveller.said()) == []
        name = traveller.guest
        assert moving.state_on(owner.host, name) == "running"
        wait_until(lambda: moving.state_on(other.host, name) == "", 30, lambda: "two copies")
        for cloud in self.clouds.both:
            wait_until(lambda each=cloud: not leftovers(each), 40, lambda c=cloud: leftovers(c))  # type: ignore[misc]
        usages = [
            [record.kind for record in cloud.usage(traveller.vm_id, migration_id)]
            for cloud in (source, there)
        ]
        left, came = [manager_pb2.USAGE_KIND_LEFT], [manager_pb2.USAGE_KIND_ARRIVED]
        assert usages == ([left, came] if arrived else [[], []]), usages

    def _cloud(self, side: str) -> Cloud:
        at = self.traveller.at
        return at if side == "source" else self.clouds.other(at)


def leftovers(cloud: Cloud) -> str:
    """What a migration that has ended may not leave: room, arrivals, holds."""
    held = [each.held.disk_bytes for each in cloud.inventories()]
    incoming = client.call(cloud.agent_calls.ListIncoming, agent_pb2.ListIncomingRequest())
    guests = client.call(cloud.agent_calls.ListGuests, agent_pb2.ListGuestsRequest()).guests
    holds = [guest.held_by for guest in guests if guest.held_by]
    saved = [path.name for path in (cloud.state / "held").glob("*.memory")]
    found = [
        *filter(None, held),
        *(each.migration_id for each in incoming.incoming),
        *holds,
        *saved,
    ]
    return f"{cloud.cloud_id}: {found}" if found else ""


def run_all(chosen: Sequence[Case], folder: Path) -> list[str]:
    """Runs cases, one after another, in one lab; what went wrong. A case that went wrong ends the
    guest's journey, and another guest begins one.
    """
    federation, booted = Federation(folder / "federation"), image.prepare()
    wrong: list[str] = []
    more = {"manager": PATIENCE}
    arrivals = 0
    with Lab(folder / "lab") as lab, Clouds(lab, federation, folder / "c", booted, more) as clouds:
        rig: Rig | None = None
        for number, case in enumerate(chosen, 1):
            began = time.monotonic()
            try:
                rig = rig or Rig(clouds, _guest(clouds, number))
                arrivals += rig.run(case)
            except Exception as error:  # noqa: BLE001 - every case is told of
                wrong.append(f"{case}: {type(error).__name__}: {error}"[:2000])
                print("FAILED", wrong[-1], flush=True)
                clouds.recover()
                rig = None
            print(f"{number}/{len(chosen)} {case} {time.monotonic() - began:.1f} s", flush=True)
    print(f"{arrivals} of {len(chosen)} arrived at the first try")
    return wrong


def _guest(clouds: Clouds, number: int) -> Traveller:
    disks = {"vda": "raw", "vdb": "qcow2"}
    spec = Spec(f"traveller{number}", disks=disks, disk_bytes=64 << 20)
    return moving.settle(clouds, Guest(clouds.tokyo.host, clouds.image, spec).create())


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="so many by chance instead of all")
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = [case for case in cases() if chosen.only in str(case)]
    if chosen.sample:
        found = random.Random(chosen.seed).sample(found, min(chosen.sample, len(found)))
    found += pairs(chosen.seed, chosen.pairs)
    with tempfile.TemporaryDirectory(prefix="w") as folder:
        wrong = run_all(found, Path(folder))
    print(f"{len(found)} cases with a running guest (seed {chosen.seed}), {len(wrong)} wrong")
    for each in wrong:
        print(each)
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
