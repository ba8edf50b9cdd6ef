"""kill -9 of either agent at a random moment, again and again: what is sent twice, what arrives."""

import random
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.settings import TransferSettings
from bench.images import build
from bench.link import Link, Shape
from bench.methods import watari
from bench.methods.result import same
from bench.migration import Migration, new_machine
from bench.rows.context import Context
from watari import errors
from watari.v1 import agent_pb2

RECOVER_SECONDS_MAX = 20.0
AGAIN_SECONDS = 0.1
"""Between two tries to start a transfer again."""

QUEUE_BYTES = 8 << 20
"""Roomy, so that the link drops nothing and what is sent twice is the agents' doing."""


@dataclass
class Kill:
    """One disturbed transfer."""

    victim: str
    after_seconds: float
    seconds: float = 0.0
    attempts: int = 0
    told_wire_bytes: int = 0
    """Sum over the attempts, from Progress: up to a quarter of a second old at the kill."""
    link_bytes: int = 0
    """What passed the link towards the destination in all, headers included."""
    identical: bool = False
    last_problem: str = ""
    """What the last attempt that failed said."""


def undisturbed(context: Context, shape: Shape) -> Kill:
    """The same transfer in peace, to compare with."""
    return _one(context, shape, Kill("", 0.0))


def disturbed(context: Context, shape: Shape, rng: random.Random, seconds: float) -> Kill:
    """One kill at a random moment of a transfer that takes about `seconds`."""
    victim = rng.choice(("source", "destination"))
    return _one(context, shape, Kill(victim, rng.uniform(0, seconds)))


def resent(kills: list[Kill], calm: Kill) -> dict[str, Any]:
    """What the kills cost, against the credit window."""
    credit = int(getattr(TransferSettings(), "credit_bytes", 0))
    by_link = sorted(each.link_bytes - calm.link_bytes for each in kills)
    told = sorted(each.told_wire_bytes - calm.told_wire_bytes for each in kills)
    return {
        "credit_bytes": credit,
        "resent_bytes_max": by_link[-1],
        "resent_bytes_median": by_link[len(by_link) // 2],
        "told_resent_bytes_max": told[-1],
        "told_resent_bytes_median": told[len(told) // 2],
        "within_credit": sum(each <= credit for each in by_link),
        "identical": sum(each.identical for each in kills),
        "kills": [asdict(each) for each in kills],
        "undisturbed": asdict(calm),
    }


def _one(context: Context, shape: Shape, kill: Kill) -> Kill:
    with (
        context.link(shape) as link,
        context.folder() as folder,
        watari.hosts(link, folder) as pair,
    ):
        vm_id, disk = new_machine(pair[0], "first")
        build.copy(context.cache.root(), disk)
        migration = Migration(*pair, vm_id)
        migration.hold()
        _disturb(link, pair, migration, kill)
        kill.identical = _arrived(migration, disk)
    return kill


def _disturb(link: Link, pair: watari.Hosts, migration: Migration, kill: Kill) -> None:
    """Starts, kills once, starts again until it has succeeded. Raises the last WatariError."""
    victim = dict(zip(("source", "destination"), pair, strict=True)).get(kill.victim)
    timer = threading.Timer(kill.after_seconds, victim.kill if victim else lambda: None)
    start = time.monotonic()
    timer.start()
    try:
        while not _attempt(migration, kill):
            if victim is not None:
                timer.join()
                victim.start()
                victim = None
            elif time.monotonic() - start > RECOVER_SECONDS_MAX:
                raise TimeoutError(f"no success {RECOVER_SECONDS_MAX:g} s after the kill: {kill}")
            time.sleep(AGAIN_SECONDS)
        kill.seconds = time.monotonic() - start
    finally:
        timer.cancel()
        timer.join()
    kill.link_bytes = int(link.counters()["there"]["delivered_bytes"])
    if victim is not None and kill.after_seconds <= kill.seconds:
        victim.start()  # it was killed after all had been said; it still has to have it


def _attempt(migration: Migration, kill: Kill) -> bool:
    """One attempt; whether it succeeded. An agent that is away or just coming is no error."""
    last = agent_pb2.Transfer()
    try:
        migration.start()
        kill.attempts += 1
        for each in migration.watch(RECOVER_SECONDS_MAX):
            last = each
    except errors.WatariError as error:
        kill.last_problem = str(error)
    if last.HasField("problem"):
        kill.last_problem = f"{last.problem.reason}: {last.problem.message}"
    kill.told_wire_bytes += last.progress.wire_bytes
    return last.state == agent_pb2.TRANSFER_STATE_SUCCEEDED


def _arrived(migration: Migration, disk: Path) -> bool:
    return same(disk, migration.activate())
