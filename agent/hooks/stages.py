"""The stages at which hooks are run, and what follows when one fails: functions of values."""

from collections.abc import Mapping
from enum import StrEnum

from watari import errors


class Stage(StrEnum):
    """When. The folder of its hooks is `<stage>.d`."""

    BEFORE_STOP = "before-stop"
    """Source: the machine is about to be stopped for its migration."""

    AFTER_STOP = "after-stop"
    """Source: it stands still; its last content is about to cross."""

    BEFORE_START = "before-start"
    """Destination: it belongs to this cloud and is about to run."""

    AFTER_START = "after-start"
    """Destination: it runs."""

    AFTER_UNHOLD = "after-unhold"
    """Source: the migration was rolled back, and the machine is as it was before."""

    AFTER_RETIRE = "after-retire"
    """Source: it is another cloud's for good, and no longer a machine here."""


class Failure(StrEnum):
    """What follows when a hook fails."""

    STOP = "stop"
    """The stage's step is not done; later hooks of the stage are not run."""

    WARN = "warn"
    """It is logged, and later hooks are run."""


MAY_STOP = frozenset({Stage.BEFORE_STOP, Stage.BEFORE_START})
"""Before the machine was stopped the migration rolls back; before it has run at the destination it
is given back. After something has happened there is no way back that a hook could ask for."""


def consequences(configured: Mapping[str, str]) -> dict[Stage, Failure]:
    """What follows at each stage: as configured; otherwise what may stop does.

    Raises InvalidArgument CONFIG_INVALID.
    """
    found = {stage: Failure.STOP if stage in MAY_STOP else Failure.WARN for stage in Stage}
    for key, value in configured.items():
        if key not in list(Stage):
            raise _invalid(f"{key!r} is no stage", f"the stages are {', '.join(Stage)}")
        if value not in list(Failure):
            raise _invalid(f"{key} = {value!r}", 'write "stop" or "warn"')
        stage, failure = Stage(key), Failure(value)
        if failure is Failure.STOP and stage not in MAY_STOP:
            raise _invalid(
                f'{stage} = "stop", but what it follows has happened already',
                f'write "warn"; only {" and ".join(sorted(MAY_STOP))} can stop anything',
            )
        found[stage] = failure
    return found


def _invalid(problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("CONFIG_INVALID", f"[agent.hooks.failure] {problem}", hint=hint)
