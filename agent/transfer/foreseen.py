"""What a dry run can tell of the two hosts' versions and the way between them. Pure.

Warnings only: a machine moves all the same, and may not do as well as somebody hoped.
"""

import re
from collections.abc import Iterator

from agent.hypervisors import SUSPEND, WARM, Mode
from agent.transfer.rounds import HANDSHAKES, STOP_SECONDS_EXPECTED
from watari import errors
from watari.v1 import agent_pb2

VERSION_CHARACTERS_MAX = 64
"""Of a version that the other side tells, in a message."""

ROUND_TRIP_SECONDS_SLOW = 0.5
"""From here on the steps of a transfer that wait for an answer are felt more than its bytes."""

_NUMBERS = re.compile(r"\d+")


def versions(
    *, agent: tuple[str, str], hypervisor: tuple[str, str], mode: Mode
) -> Iterator[agent_pb2.Finding]:
    """`agent` and `hypervisor`: versions at the source and at the destination, as each tells them;
    an empty one says nothing. A destination that is older is worth a word: a new agent may ask what
    an old one does not know, and an old hypervisor may not know what memory of a new one has in it
    (QEMU promises only the other direction).
    """
    if _older(*agent):
        yield _warning(
            "HOST_INCOMPATIBLE",
            f"the destination's agent is older ({_shown(agent[1])}) than the source's "
            f"({_shown(agent[0])})",
            "upgrade the destination's agent first",
            requirement="agent version",
        )
    same = _product(hypervisor[0]) == _product(hypervisor[1])
    if mode == SUSPEND and same and _older(*hypervisor):
        yield _warning(
            "HOST_INCOMPATIBLE",
            f"saved memory of {_shown(hypervisor[0])} may not load in the destination's older "
            f"{_shown(hypervisor[1])}; the machine goes back if it does not",
            "upgrade the destination's hypervisor, or move the machine in mode cold or warm",
            requirement="hypervisor version",
        )


def link(
    *, mode: Mode, running: bool, target_seconds: float, round_trip_seconds: float
) -> Iterator[agent_pb2.Finding]:
    """Of the way between the agents: whether the downtime that is aimed at can be reached over it,
    and whether it is slow to answer.
    """
    least = STOP_SECONDS_EXPECTED + HANDSHAKES * round_trip_seconds
    if mode == WARM and running and least > target_seconds:
        yield _warning(
            "LINK_TOO_SLOW",
            f"a round trip takes {round_trip_seconds:.3f} s: the machine stands still for "
            f"{least:.1f} s at least, not {target_seconds:g} s",
            f"accept --downtime-target {int(least) + 1}, or name a nearer cloud",
            round_trip_seconds=f"{round_trip_seconds:.3f}",
        )
    elif round_trip_seconds > ROUND_TRIP_SECONDS_SLOW:
        yield _warning(
            "LINK_TOO_SLOW",
            f"a round trip to the destination takes {round_trip_seconds:.1f} s",
            "look for a queue that something else fills on the way",
            round_trip_seconds=f"{round_trip_seconds:.3f}",
        )


def _older(source: str, destination: str) -> bool:
    """Whether the destination's version is below the source's, number by number."""
    asked, has = _numbers(source), _numbers(destination)
    return bool(asked and has) and has < asked


def _numbers(version: str) -> list[int]:
    return [int(each) for each in _NUMBERS.findall(version[:VERSION_CHARACTERS_MAX])[:3]]


def _product(version: str) -> str:
    return version.partition(" ")[0]


def _shown(text: str) -> str:
    """A stranger's text, fit for a message."""
    return "".join(each if each.isprintable() else "?" for each in text[:VERSION_CHARACTERS_MAX])


def _warning(reason: str, text: str, hint: str, **more: str) -> agent_pb2.Finding:
    problem = errors.FailedPrecondition(reason, text, hint=hint)
    problem.metadata = more
    return agent_pb2.Finding(
        severity=agent_pb2.SEVERITY_WARNING, problem=errors.to_problem(problem)
    )
