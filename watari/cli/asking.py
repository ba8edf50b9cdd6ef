"""Asks a person before something that cannot be taken back; programs say --yes."""

from typing import Annotated

import typer

from watari import errors
from watari.cli.output import Output

YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking: for scripts.")]


def require_yes(output: Output, *, yes: bool) -> None:
    """Raises InvalidArgument INVALID_FIELD for a program that does not confirm."""
    if output.is_json and not yes:
        raise errors.InvalidArgument(
            "INVALID_FIELD", "a program confirms by --yes", hint="add --yes, or leave -o json"
        )


def confirm(question: str) -> None:
    """Goes on with a yes. Raises Cancelled CANCELLED otherwise, also where nobody can answer."""
    try:
        if typer.confirm(question, err=True):
            return
    except typer.Abort:  # the end of the input
        pass
    raise _nothing_done()


def confirm_by_name(what: str, name: str) -> None:
    """Goes on when the name is typed. Raises Cancelled CANCELLED otherwise."""
    try:
        if typer.prompt(f"Type {what} to go on", err=True, default="", show_default=False) == name:
            return
    except typer.Abort:
        pass
    raise _nothing_done()


def _nothing_done() -> errors.Cancelled:
    return errors.Cancelled("CANCELLED", "nothing was done", hint="repeat it when you are sure")
