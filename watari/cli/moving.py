"""The options that say how a machine moves: off, saved, or while it runs."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from watari import errors, units
from watari.v1 import common_pb2

SECONDS_MIN, SECONDS_MAX = 1, 3600
"""What the contract takes for both times."""

MODES = {
    "cold": common_pb2.MIGRATION_MODE_COLD,
    "suspend": common_pb2.MIGRATION_MODE_SUSPEND,
    "warm": common_pb2.MIGRATION_MODE_WARM,
}


@dataclass(frozen=True)
class Moving:
    """How."""

    mode: Annotated[
        Literal["cold", "suspend", "warm"],
        typer.Option(
            help="cold: stopped, moved, started. suspend: with its saved memory. warm: copied "
            "while it runs, stopped for the last changes only."
        ),
    ] = "cold"
    downtime_target: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="warm: stop it once the rest is expected to take no longer."
        ),
    ] = ""
    stop_timeout: Annotated[
        str,
        typer.Option(metavar="TIME", help="What its guest has to shut down before it is forced."),
    ] = ""

    @property
    def value(self) -> common_pb2.MigrationMode.ValueType:
        """The contract's mode."""
        return MODES[self.mode]

    def into(self, options: common_pb2.TransferOptions) -> common_pb2.TransferOptions:
        """The options with these. Raises InvalidArgument INVALID_QUANTITY and INVALID_FIELD."""
        if self.downtime_target and self.mode != "warm":
            raise _invalid(
                "downtime-target", "is for machines that move while they run", "add --mode warm"
            )
        if self.stop_timeout and self.mode == "suspend":
            raise _invalid("stop-timeout", "its memory is saved, it is not shut down", "leave it")
        options.downtime_seconds_target = whole_seconds(self.downtime_target, "downtime-target")
        options.stop_seconds_max = whole_seconds(self.stop_timeout, "stop-timeout")
        return options


DEFAULT_MOVING = Moving()
"""Cold, with the agent's own times."""


def whole_seconds(text: str, option: str, least: int = SECONDS_MIN) -> int:
    """Such as 90 for "1m30s"; 0 for nothing. Raises InvalidArgument INVALID_QUANTITY and
    INVALID_FIELD.
    """
    if not text:
        return 0
    seconds = units.parse_duration(text)
    if seconds != int(seconds) or not least <= seconds <= SECONDS_MAX:
        raise _invalid(option, f"{text} does not do", f"whole seconds, {least}s to {SECONDS_MAX}s")
    return int(seconds)


def _invalid(option: str, problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"--{option}: {problem}", hint=hint, field=option
    )
