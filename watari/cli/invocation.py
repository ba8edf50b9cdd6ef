"""What every command has in common: its options, and what it is given to work with."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import platformdirs
import typer

from watari import errors
from watari.cli import settings
from watari.cli.clients import Clients
from watari.cli.federation import control
from watari.cli.federation.layout import Layout
from watari.cli.output import Format, Output
from watari.clock import Clock, SystemClock

STATE_VARIABLE = "WATARI_STATE_DIR"
"""Environment variable that names the local federation's folder."""

LOCAL_PANEL, FEDERATION_PANEL, MACHINES_PANEL = "This machine", "Federation", "Virtual machines"
"""Headings of the list of commands."""

P = ParamSpec("P")

_OutputOption = Annotated[
    Format,
    typer.Option(
        "--output", "-o", help="Tables for people, or JSON for programs.", rich_help_panel="Common"
    ),
]
_StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar=STATE_VARIABLE,
        metavar="DIR",
        help="Folder of the local federation.",
        rich_help_panel="Common",
    ),
]
_ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=settings.CONFIG_VARIABLE,
        metavar="FILE",
        help="Client settings; by default client.toml of the local federation.",
        rich_help_panel="Common",
    ),
]


@dataclass
class Invocation:
    """One run of a command. Close it by leaving its `with` block."""

    output: Output
    layout: Layout
    config: Path
    """Client settings."""
    clock: Clock = field(default_factory=SystemClock)
    _clients: Clients | None = field(default=None, init=False)

    @property
    def clients(self) -> Clients:
        """The federation's servers.

        Raises FailedPrecondition FEDERATION_DOWN when there is none or it is switched off.
        """
        if self._clients is None:
            loaded = settings.load(self.config, os.environ)
            if self.config == self.layout.client and not control.is_anything_running(self.layout):
                raise errors.FailedPrecondition(
                    "FEDERATION_DOWN",
                    f"the federation in {self.layout.root} is not running",
                    hint="watari up",
                )
            self._clients = Clients(loaded)
        return self._clients

    def __enter__(self) -> "Invocation":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._clients is not None:
            self._clients.close()


def begin(output: Format, state_dir: Path | None, config: Path | None) -> Invocation:
    """The invocation that the common options ask for."""
    root = state_dir or platformdirs.user_state_path("watari")
    layout = Layout(root.expanduser().absolute())
    return Invocation(Output(output), layout, config or layout.client)


Command = Callable[Concatenate[Invocation, P], None]


def command(
    app: typer.Typer, name: str, *, epilog: str, panel: str | None = None, places: bool = True
) -> Callable[[Command[P]], Command[P]]:
    """Adds a function to `app` as a command. Its first argument is the Invocation, the others are
    its options, to which the common ones are added. An argument that is a dataclass stands for its
    fields: a group of options that commands share. Without `places` there are no options that name
    a federation.
    """

    def register(function: Command[P]) -> Command[P]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        groups: dict[str, Any] = {
            each.name: each.annotation for each in own if is_dataclass(each.annotation)
        }

        def run(
            *,
            output: Format,
            state_dir: Path | None = None,
            config: Path | None = None,
            **given: Any,
        ) -> None:
            for group, cls in groups.items():
                given[group] = cls(**{each.name: given.pop(each.name) for each in fields(cls)})
            with begin(output, state_dir, config) as invocation:
                function(invocation, **given)  # type: ignore[call-arg]

        parameters = [option for each in own for option in _options(each)] + _common(places)
        # Typer reads the options from here.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = function.__doc__
        app.command(name, epilog=epilog, rich_help_panel=panel)(run)
        return function

    return register


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The parameter by name only, or one for each field of the group that it stands for."""
    kind = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=kind)]
    hints = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(each.name, kind, default=each.default, annotation=hints[each.name])
        for each in fields(parameter.annotation)
    ]


def _common(places: bool) -> list[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    output = inspect.Parameter("output", kind, default=Format.TABLE, annotation=_OutputOption)
    if not places:
        return [output]
    return [
        output,
        inspect.Parameter("state_dir", kind, default=None, annotation=_StateOption),
        inspect.Parameter("config", kind, default=None, annotation=_ConfigOption),
    ]
