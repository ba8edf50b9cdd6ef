"""What a destination makes of a hand-over: functions of values, so that all of it can be tested.

A reservation that was handed over ends in one of two ways, and one transaction decides which: USED,
and the machine may be started, or RELINQUISHED, and it never is.
"""

from enum import Enum, auto

from manager.reservation_rows import State
from watari import errors


class Answer(Enum):
    """What a hand-over means for its reservation."""

    RECORD = auto()
    """It is new: record it, then go on."""

    GO_ON = auto()
    """It is recorded already."""

    RELINQUISH = auto()
    """The room is gone and nothing was activated: record that the machine is given back."""

    RELINQUISHED = auto()
    """The machine was given back: say so again, for ever."""

    REFUSE = auto()
    """It is not what the source may send now."""


def on_hand_over(state: State, recorded: bytes | None, arrived: bytes) -> Answer:
    """What follows from a hand-over of payload `arrived` for a reservation in `state`, of which
    `recorded` is on disk.
    """
    if state is State.RELINQUISHED:
        return Answer.RELINQUISHED
    if recorded is not None:
        return Answer.GO_ON if recorded == arrived else Answer.REFUSE
    if state in (State.CONFIRMED, State.USED):
        # USED without one: an operator took the machine over, and the source agrees after all.
        return Answer.RECORD
    if state in (State.RELEASED, State.EXPIRED):
        return Answer.RELINQUISH
    return Answer.REFUSE


def is_final(error: errors.WatariError) -> bool:
    """Whether an agent that answers this to an activation will never do better. That it does not
    believe this manager, or broke, says nothing of the machine.
    """
    unsaid = isinstance(error, errors.Unauthenticated | errors.Denied | errors.Internal)
    return not error.retryable and not unsaid


def gives_up(
    error: errors.WatariError, *, run: bool, kept: bool, waited_seconds: float, seconds_max: float
) -> bool:
    """Whether a machine that could not be activated is given back to its source.

    Only what is `run` is waited for with an end: it is made provisionally and deleted again. A
    machine that is off would be there for good if an activation had succeeded whose answer was
    lost, so only the agent's own word ends it. What an operator decided to keep never goes back.
    """
    if kept:
        return False
    return is_final(error) or (run and waited_seconds >= seconds_max)
