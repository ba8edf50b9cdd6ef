"""One move of one guest by one method: two fresh hosts, a fresh link, and what was seen.

The link counts from the order to the end, and both consoles are followed meanwhile.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.link import Link, Shape
from bench.running import guests, live, sampling, timeline, traced
from bench.running.following import Following, Heard
from bench.running.guests import Load
from bench.running.sampling import Sampling
from bench.running.timeline import Mark, Move, Span
from tests.conftest import Federation
from tests.lab import console
from tests.lab.clouds import Cloud, Clouds
from tests.lab.guests import Guest
from tests.lab.image import Image
from tests.lab.link import Lab
from watari.v1 import common_pb2, manager_pb2

MIGRATION_SECONDS_MAX = 900.0
GUEST_SECONDS_MAX = 60.0
AFTERWARDS_SECONDS = 3.0
"""For the guest to count on where it is, and the source to say no more."""

DOWNTIME_SECONDS_TARGET = 2

CARRIED_SECONDS_MAX = 10.0
"""Of a longer standstill it is not kept what the link carried when: it is the whole copy."""

MODES = {
    "cold": common_pb2.MIGRATION_MODE_COLD,
    "suspend": common_pb2.MIGRATION_MODE_SUSPEND,
    "warm": common_pb2.MIGRATION_MODE_WARM,
}
PEERS = {"live": False, "live-sync": True}
"""Whether what the guest writes waits for the destination."""

METHODS = (*MODES, *PEERS)
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all methods have in common."""

    shape: Shape
    load: Load
    image: Image
    federation: Federation


@dataclass
class Seen:
    """What a method tells of its move, beside what the guest tells."""

    started: float = 0.0
    downtime_seconds: float = 0.0
    spans: Sequence[Span] = ()
    told: Any = None


Run = Callable[[], Seen]


def one(setting: Setting, method: str, kind: str, disk: Path, folder: Path) -> Row:
    """Moves a guest with a copy of `disk`, once. Raises what the method raises; a peer that comes
    to no end gives a row that says so.
    """
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(folder / "l", setting.shape))
        if method in PEERS:
            live.prepare(lab)
        guest = guests.create(
            lab.tokyo, setting.image, setting.load, kind, disk, live=method in PEERS
        )
        there = _console_there(lab, method)
        boot_seconds = guest.boot()
        if method in PEERS:
            run = _live(lab, guest, kind, setting.load, synchronous=PEERS[method])
        else:
            clouds = _clouds(lab, setting, kind, folder)
            stack.enter_context(clouds)
            run = _watari(clouds, guest, MODES[method])
        here = stack.enter_context(Following(lambda: guest.console.path))
        following = stack.enter_context(Following(there))
        time.sleep(setting.load.before_seconds)
        row = _measured(lab.link, run, here, following)
    return {"method": method, "disk": kind, "boot_seconds": round(boot_seconds, 3), **row}


def _measured(link: Link, run: Run, here: Following, there: Following) -> Row:
    before, ordered = link.counters(), time.time()
    with Sampling(link) as sampled:
        try:
            seen = run()
        except subprocess.TimeoutExpired as expired:
            return _endless(before, link.counters(), here, ordered, expired.timeout)
        ended = time.time()
        first = there.wait_ack(GUEST_SECONDS_MAX)
    after = link.counters()
    time.sleep(AFTERWARDS_SECONDS)
    last = here.acks()[-1]
    move = Move(
        ordered=ordered,
        last_ack=last.at,
        first_ack=first.at,
        ended=ended,
        started=seen.started,
        boots=_boot_id(last) != _boot_id(first),
    )
    row = _row(move, seen, here.heard(), there.heard()) | _wire(before, after)
    still = seen.started or move.first_ack
    if still - move.last_ack <= CARRIED_SECONDS_MAX:
        row["link"] = sampling.within(sampled.samples(), move.last_ack, still)
    return row


def _row(move: Move, seen: Seen, here: Sequence[Heard], there: Sequence[Heard]) -> Row:
    said = [each.event for each in (*here, *there)]
    acks = [each for each in here if isinstance(each.event, console.Ack)]
    pace = timeline.pace([each.at for each in acks], acks[0].at, move)
    spans = timeline.within(seen.spans, move)
    return {
        "seconds": round(move.ended - move.ordered, 3),
        "gap_seconds": round(move.gap, 3),
        "told_downtime_seconds": round(seen.downtime_seconds, 3),
        "boot_kept": not move.boots,
        "problems": console.problems(said),
        "phases": _rounded(move.phases()),
        "pace": _rounded(asdict(pace)),
        "stages": _rounded(timeline.stages(seen.spans, move)) if seen.spans else {},
        "steps": [each.as_dict(move.last_ack) for each in spans],
        "told": seen.told,
    }


def _endless(
    before: dict[str, Any], after: dict[str, Any], here: Following, ordered: float, seconds: float
) -> Row:
    """Of a method that was given up; the guest runs where it was."""
    now = time.time()
    move = Move(ordered=ordered, last_ack=now, first_ack=now, ended=now)
    acks = [each.at for each in here.acks()]
    return {
        "gave_up_seconds": seconds,
        "problems": console.problems([each.event for each in here.heard()]),
        "phases": _rounded(move.phases()),
        "pace": _rounded(asdict(timeline.pace(acks, acks[0], move))),
        "stages": {},
        **_wire(before, after),
    }


def _watari(clouds: Clouds, guest: Guest, mode: int) -> Run:
    vm_id = guest.spec.vm_id
    clouds.tokyo.wait_owns(vm_id, "running")

    def run() -> Seen:
        ordered = time.time()
        migration_id = clouds.tokyo.migrate(
            vm_id, mode, downtime_seconds_target=DOWNTIME_SECONDS_TARGET
        )
        ended = clouds.tokyo.wait_ended(migration_id, MIGRATION_SECONDS_MAX)
        if ended.state != manager_pb2.MIGRATION_STATE_SUCCEEDED:
            raise RuntimeError(f"not moved: {ended}")
        spans = [each for cloud in clouds.both for each in _spans(cloud)]
        release = Mark("", "osaka-agent", "lifecycle.release")
        return Seen(
            started=timeline.moment(spans, release, ordered) or 0.0,
            downtime_seconds=ended.downtime_seconds,
            spans=spans,
            told={"rounds": _rounds(clouds.tokyo), "wire_bytes": ended.progress.wire_bytes},
        )

    return run


def _live(lab: Lab, guest: Guest, kind: str, load: Load, *, synchronous: bool) -> Run:
    def run() -> Seen:
        size = load.disk_mib * guests.MIB
        told = live.migrate(lab, guest, kind, size, synchronous=synchronous)
        downtime = told.get("Total downtime", "0 ms").removesuffix(" ms")
        return Seen(downtime_seconds=float(downtime) / 1000, told=told)

    return run


def _clouds(lab: Lab, setting: Setting, kind: str, folder: Path) -> Clouds:
    """Whose servers trace their steps."""
    more = {"agent": f'disk_format = "{kind}"'}
    clouds = Clouds(lab, setting.federation, folder / "c", setting.image, more)
    for server in clouds.servers.values():
        server.module = traced.__name__
    return clouds


def _console_there(lab: Lab, method: str) -> Callable[[], Path | None]:
    """Where the guest's serial port writes when it has arrived."""
    if method in PEERS:
        return lambda: lab.osaka.log / f"{guests.NAME}.console"
    pattern = "agent*/machines/*/console.log"
    return lambda: next(iter(lab.osaka.work.glob(pattern)), None)


def _spans(cloud: Cloud) -> list[Span]:
    """What a cloud's two processes traced."""
    found = []
    for name, server in cloud.servers.items():
        path = server.log.with_suffix(traced.SUFFIX)
        found += [Span(name, **json.loads(line)) for line in path.read_text().splitlines()]
    return found


def _rounds(cloud: Cloud) -> list[Row]:
    """Of the rounds with the machine running, as the agent logged them."""
    lines = [
        json.loads(line)
        for line in cloud.agent.log.read_text().splitlines()
        if line.startswith("{")
    ]
    names = ("number", "sent_bytes", "seconds", "expected_downtime_seconds")
    return [{name: line[name] for name in names} for line in lines if line["event"] == "round"]


def _wire(before: dict[str, Any], after: dict[str, Any]) -> Row:
    there, back = (
        int(after[way]["offered_bytes"]) - int(before[way]["offered_bytes"])
        for way in ("there", "back")
    )
    return {"wire_bytes": there, "back_bytes": back}


def _boot_id(heard: Heard) -> str:
    assert isinstance(heard.event, console.Ack)  # noqa: S101 - of those that `acks` gives
    return heard.event.boot_id


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in values.items()}
