"""The options that say on which conditions a cloud that is named gets a machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf.json_format import MessageToJson, Parse, ParseError

from watari import errors
from watari.v1 import common_pb2, manager_pb2

QUOTE_BYTES_MAX = 64 * 1024
"""Of a file with a quote: one has a few hundred."""

_PANEL = "Conditions"

_Texts = list[str] | None
_Request = TypeVar("_Request", manager_pb2.MigrateVmRequest, manager_pb2.ReserveRequest)


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class Conditions:
    """What is asked of the destination along with the reservation. Lists are options to repeat."""

    quote: Annotated[
        Path | None,
        _option("--quote", "FILE", "At this price: a file that `watari quote --out` wrote."),
    ] = None
    required: Annotated[
        _Texts, _option("--require-trait", "TRAIT", "Only to a host with this trait (cpu:avx2).")
    ] = None
    avoided: Annotated[
        _Texts, _option("--avoid-trait", "TRAIT", "Not to a host with this trait.")
    ] = None

    def into(self, request: _Request) -> _Request:
        """The request with these. Raises InvalidArgument INVALID_FIELD for a file without quote."""
        if self.quote is not None:
            request.quote.CopyFrom(read_quote(self.quote))
        request.required_traits.extend(self.required or ())
        request.forbidden_traits.extend(self.avoided or ())
        return request


NO_CONDITIONS = Conditions()


def write_quote(file: Path, quote: common_pb2.SignedDocument) -> None:
    """What `read_quote` reads. Raises InvalidArgument INVALID_FIELD."""
    try:
        file.write_text(MessageToJson(quote) + "\n", "utf-8")
    except OSError as error:
        raise errors.InvalidArgument(
            "INVALID_FIELD", f"{file}: {error.strerror}", hint="name a file that can be written"
        ) from error


def read_quote(file: Path) -> common_pb2.SignedDocument:
    """The signed document; whether it holds, its cloud says. Raises InvalidArgument."""
    try:
        with file.open("rb") as opened:
            content = opened.read(QUOTE_BYTES_MAX + 1)
        if len(content) > QUOTE_BYTES_MAX:
            raise _no_quote(file, "it is too large")
        return Parse(content.decode(), common_pb2.SignedDocument())
    except OSError as error:
        raise _no_quote(file, str(error.strerror)) from error
    except (ParseError, UnicodeDecodeError) as error:
        raise _no_quote(file, "it is none") from error


def _no_quote(file: Path, problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"{file}: {problem}", hint="name a file that `watari quote --out` wrote"
    )
