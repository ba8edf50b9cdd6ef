"""What the guest and its movers told, put on one line of time. Pure.

    order          last ACK here                       starts there    first ACK there      ended
      |-- copying ----|------------- standing still ---------|----- boot -----|--------------|

All times are seconds since 1970, of one machine.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Span:
    """One step of one process."""

    process: str
    """Such as "tokyo-agent"."""
    name: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    def as_dict(self, origin: float) -> dict[str, object]:
        """For JSON, in seconds since `origin`."""
        return asdict(self) | {
            "began": round(self.began - origin, 4),
            "ended": round(self.ended - origin, 4),
        }


@dataclass(frozen=True)
class Move:
    """The moments of one move that everybody can see."""

    ordered: float
    last_ack: float
    """At the source."""
    first_ack: float
    """At the destination."""
    ended: float
    """The migration, as who ordered it is told."""
    started: float = 0.0
    """When the destination let it run; 0 where nobody tells."""
    boots: bool = False
    """Whether the guest began anew."""

    @property
    def gap(self) -> float:
        """How long nobody was served."""
        return self.first_ack - self.last_ack

    def phases(self) -> dict[str, float]:
        """Seconds of each part of the line, in its order."""
        started = self.started if self.boots and self.started else self.first_ack
        return {
            "copying": self.last_ack - self.ordered,
            "standing still": started - self.last_ack,
            "booting": self.first_ack - started,
            "afterwards": max(0.0, self.ended - self.first_ack),
        }


@dataclass(frozen=True)
class Mark:
    """Where a stage of the standstill ends: when a step of a process began, or ended."""

    stage: str
    process: str
    step: str
    at: str = "ended"
    first: bool = False
    """Of several within the standstill the first one counts, else the last."""


SOURCE, DESTINATION = "tokyo", "osaka"

MARKS = (
    Mark("stop asked", f"{SOURCE}-agent", "lifecycle.shut_down", "began"),
    Mark("guest stops", f"{SOURCE}-agent", "lifecycle.shut_down"),
    Mark("memory saved", f"{SOURCE}-agent", "Saving.save"),
    Mark("out of libvirt", f"{SOURCE}-agent", "Libvirt.quiesce"),
    Mark("disks opened", f"{SOURCE}-agent", "Sending.run", "began"),
    Mark("data", f"{SOURCE}-agent", "Line.complete", "began"),
    Mark("receipt", f"{SOURCE}-agent", "Line.complete"),
    Mark("manager told", f"{SOURCE}-manager", "Copier.run"),
    Mark("confirm", f"{SOURCE}-manager", "Peers.confirm"),
    Mark("commit", f"{SOURCE}-manager", "Peers.hand_over", "began"),
    Mark("hand-over arrives", f"{DESTINATION}-manager", "Arriving.finish", "began", first=True),
    Mark("defined, prepared", f"{DESTINATION}-manager", "Agents.activate"),
    Mark("owned", f"{DESTINATION}-manager", "Agents.start", "began"),
    Mark("started", f"{DESTINATION}-agent", "lifecycle.release"),
)
"""Of Watari's standstill, in their order. A mark that a mode does not pass is left out."""

LAST_STAGE = "boot, first count"


def moment(spans: Iterable[Span], mark: Mark, after: float) -> float | None:
    """When a mark was passed, of steps that ended after a moment; None when it was not."""
    found = [
        each.began if mark.at == "began" else each.ended
        for each in spans
        if each.process == mark.process and each.name == mark.step and each.ended > after
    ]
    if not found:
        return None
    return min(found) if mark.first else max(found)


def stages(spans: Sequence[Span], move: Move) -> dict[str, float]:
    """The standstill cut at the marks: seconds of each stage. They add up to the gap."""
    cuts = [("", move.last_ack)]
    for mark in MARKS:
        at = moment(spans, mark, move.last_ack)
        if at is not None and at <= move.first_ack:
            cuts.append((mark.stage, max(at, cuts[-1][1])))
    cuts.append((LAST_STAGE, move.first_ack))
    return {stage: at - before for (_, before), (stage, at) in itertools.pairwise(cuts)}


def within(spans: Iterable[Span], move: Move) -> list[Span]:
    """The steps that were under way while it stood still, in the order in which they began."""
    found = [each for each in spans if each.ended > move.last_ack and each.began < move.first_ack]
    return sorted(found, key=lambda each: (each.began, -each.ended))


@dataclass(frozen=True)
class Pace:
    """How well the guest was served while it was copied."""

    before: float
    """Acknowledgements a second before anybody moved it"""
    copying: float
    """and while it was copied."""
    longest_seconds: float
    """Between two acknowledgements while it was copied."""


def pace(acks: Sequence[float], began: float, move: Move) -> Pace:
    """`acks` are the moments of the source's acknowledgements from `began` on."""
    copying = [at for at in acks if move.ordered <= at <= move.last_ack]
    pauses = [later - earlier for earlier, later in itertools.pairwise(copying)]
    before = sum(began <= at < move.ordered for at in acks)
    seconds = max(1e-9, move.last_ack - move.ordered)
    return Pace(
        before / max(1e-9, move.ordered - began), len(copying) / seconds, max(pauses, default=0.0)
    )


def summed(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The keys of all, in order of the longest, each with its median over those that have it."""
    order = max(values, key=len, default={})
    keys = dict.fromkeys([*order, *(key for each in values for key in each)])
    found = {}
    for key in keys:
        those = sorted(each[key] for each in values if key in each)
        middle = len(those) // 2
        found[key] = those[middle] if len(those) % 2 else (those[middle - 1] + those[middle]) / 2
    return found
