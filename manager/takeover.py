"""What a destination makes of a hand-over: functions of values, so that all of it can be tested.

A reservation that was handed over ends in one of two ways, and one transaction decides which: USED,
and the machine may be started, or RELINQUISHED, and it never is.
"""

from enum import Enum, auto

from manager.reservation import State
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


_SAYS_NO = (errors.FailedPrecondition, errors.NotFound, errors.InvalidArgument)
"""What an agent answers that has looked at the machine and can make none of it."""


def is_final(error: errors.WatariError) -> bool:
    """Whether an agent that answers this to an activation will never do better. That it is busy,
    broke, or does not believe this manager says nothing of the machine; nor does an answer without
    our details, which came from something in between.
    """
    said = isinstance(error, _SAYS_NO) and error.reason not in errors.REASONS_UNSAID
    return said and not error.retryable


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
