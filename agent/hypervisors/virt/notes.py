"""What is noticed of a definition: worth knowing, or in the way. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from watari import errors
from watari.v1 import agent_pb2

SHOWN_CHARACTERS_MAX = 100


@dataclass(frozen=True)
class Note:
    """One finding; `error` says what and what to do."""

    fatal: bool
    error: errors.WatariError

    def message(self) -> agent_pb2.Finding:
        """As the contract has it."""
        severity = agent_pb2.SEVERITY_ERROR if self.fatal else agent_pb2.SEVERITY_WARNING
        return agent_pb2.Finding(severity=severity, problem=errors.to_problem(self.error))


def dropped(device: str, why: str = "") -> Note:
    """A device or setting that does not come along."""
    text = f"{shown(device)} does not come along" + (f": {why}" if why else "")
    hint = "the machine runs without it; set it up again afterwards if it is needed"
    return Note(
        fatal=False,
        error=errors.FailedPrecondition("VM_NOT_MOVABLE", text, hint=hint, device=shown(device)),
    )


def unmovable(device: str, why: str, hint: str = "") -> Note:
    """A device that keeps its machine here."""
    return Note(
        fatal=True,
        error=errors.FailedPrecondition(
            "VM_NOT_MOVABLE",
            f"{shown(device)} cannot be moved: {why}",
            hint=hint or "take it out of the machine's definition, then migrate",
            device=shown(device),
        ),
    )


def incompatible(requirement: str, text: str, hint: str, *, fatal: bool = True) -> Note:
    """Something that the destination's host lacks."""
    error = errors.FailedPrecondition(
        "HOST_INCOMPATIBLE", text, hint=hint, requirement=shown(requirement)
    )
    return Note(fatal=fatal, error=error)


def network(source: str) -> Note:
    """A network without a counterpart."""
    name = shown(source)
    return Note(
        fatal=True,
        error=errors.FailedPrecondition(
            "NETWORK_UNKNOWN",
            f"this host has no counterpart of the network {name!r}",
            hint=f'set [agent.networks] "{name}" = "bridge:NAME" or "network:NAME" at the host',
            network=name,
        ),
    )


def raise_first(notes: Iterable[Note]) -> None:
    """Raises the first that is in the way."""
    for each in notes:
        if each.fatal:
            raise each.error


def shown(text: str) -> str:
    """A stranger's text, fit for a message."""
    return "".join(each if each.isprintable() else "?" for each in text[:SHOWN_CHARACTERS_MAX])
