"""The options that say what a transfer may use."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from watari import units, validate, windows
from watari.v1 import common_pb2

WindowsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit-window",
        metavar="HH:MM-HH:MM=RATE",
        help="Another limit for a part of the day, in the sending host's time; 0 for none. May be "
        "repeated; the first that covers the moment counts.",
    ),
]


@dataclass(frozen=True)
class Transfer:
    """What the transfer may use."""

    streams: Annotated[
        int,
        typer.Option(
            min=0, max=16, metavar="N", help="Parallel data connections; 0 leaves it to the agent."
        ),
    ] = 0
    cipher_bits: Annotated[
        Literal["128", "256"] | None, typer.Option(help="AES-GCM key length; the agent's if unset.")
    ] = None
    limit: Annotated[
        str, typer.Option(metavar="RATE", help="At most so much a second, such as 50MiB.")
    ] = ""
    limit_window: WindowsOption = None

    def options(self) -> common_pb2.TransferOptions:
        """The message. Raises InvalidArgument INVALID_QUANTITY and INVALID_FIELD."""
        return common_pb2.TransferOptions(
            streams=self.streams,
            cipher_key_bits=int(self.cipher_bits or 0),
            limit_bytes_per_second=rate(self.limit) if self.limit else 0,
            limit_schedule=schedule(self.limit_window),
        )


DEFAULT_TRANSFER = Transfer()
"""Everything left to the agent."""


def rate(text: str) -> int:
    """The cap that RATE means. Raises InvalidArgument INVALID_QUANTITY and INVALID_FIELD."""
    return validate.require_limit(units.parse_rate(text), "limit_bytes_per_second")


def schedule(texts: list[str] | None) -> list[common_pb2.LimitWindow]:
    """The windows of the repeated option. Raises as `rate` does."""
    found = [windows.parse(text) for text in texts or ()]
    windows.require(found, "limit-window")
    return found


def shown(limit: int, limit_windows: list[common_pb2.LimitWindow]) -> str:
    """Such as "9.5 MiB/s (08:00-18:00 1.0 MiB/s)", for people."""
    cap = units.format_rate(limit) if limit else "no limit"
    parts = ", ".join(map(windows.show, limit_windows))
    return f"{cap} ({parts})" if parts else cap
