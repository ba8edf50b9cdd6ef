"""The main function that the four servers share: arguments, settings, logs, identity, serve.

Never: knows what a service does. `assemble` builds it and registers what must be stopped, in
reverse order, once the last call has drained.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from watari import (
    __version__,
    clock,
    config,
    configshow,
    ending,
    errors,
    failpoint,
    identity,
    keeper,
    logs,
)
from watari.periodic import Periodic
from watari.rpc import ChannelPool, Target
from watari.rpc.server import Server
from watari.settings import IdentitySettings, LogSettings, TelemetrySettings

EXIT_BAD_SETTINGS = 2
"""Exit status when the settings, keys or address cannot be used; messages say why."""


class ServiceSettings(Protocol):
    """What every service's settings have."""

    @property
    def identity(self) -> IdentitySettings:
        """Who the process is."""

    @property
    def telemetry(self) -> TelemetrySettings:
        """Where its traces go."""

    @property
    def log(self) -> LogSettings:
        """How it logs."""


@dataclass(frozen=True)
class Context:
    """What a service is given to assemble itself from."""

    clock: clock.Clock
    identity: identity.Identity
    stack: ExitStack
    """Closed after the server has drained: register clean-up here."""

    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process is told to end before it serves: whatever waits by then gives up, with
    Cancelled."""


_Settings = TypeVar("_Settings", bound=ServiceSettings)


def main(
    name: str,
    settings_cls: type[_Settings],
    assemble: Callable[[_Settings, Context], Server],
) -> None:
    """Runs service `name` until SIGTERM or SIGINT; ends the process with its exit status."""
    arguments = _arguments(name)
    try:
        settings = config.load(settings_cls, arguments.config, os.environ, section=name)
        if arguments.show_config:
            sys.stdout.write(configshow.show(settings, name))
            return
        logs.configure(name, settings.log.level, json=settings.log.format == "json")
        failpoint.arm_from_environment(os.environ)
        with ending.Signals() as signals:
            try:
                _serve(name, settings, assemble, signals.stopping)
            except errors.Cancelled:
                if not signals.stopping.is_set():
                    raise
        _end()
    except errors.WatariError as error:
        sys.stderr.write(f"watari-{name}: {error.reason}: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"  Next: {error.hint}\n")
        sys.exit(EXIT_BAD_SETTINGS)


def _serve(
    name: str,
    settings: _Settings,
    assemble: Callable[[_Settings, Context], Server],
    stopping: threading.Event,
) -> None:
    with ExitStack() as stack:
        context = Context(
            clock=clock.SystemClock(),
            identity=identity.Identity.load(
                settings.identity.certificate, settings.identity.key, settings.identity.trust
            ),
            stack=stack,
            stopping=stopping,
        )
        _keep(settings.identity, context)
        _trace(settings.telemetry, name, context)
        server = assemble(settings, context)
        if not stopping.is_set():
            server.serve_forever(stopping)


def _keep(settings: IdentitySettings, context: Context) -> None:
    """Has the certificate renewed and trust followed, where the settings name who does that."""
    if settings.issuer is None:
        return
    target = Target(settings.issuer.address, identity.SpiffeId.parse(settings.issuer.spiffe_id))
    channels = ChannelPool(context.identity)
    context.stack.callback(channels.close)
    issuer = keeper.ManagerIssuer(channels, target)
    keeping = keeper.Keeper(context.identity, issuer, context.clock)
    context.identity.trust.ask = keeping.ask
    context.stack.enter_context(
        Periodic("keeper", keeper.CHECK_SECONDS, context.clock, keeping.check)
    )


def _trace(settings: TelemetrySettings, name: str, context: Context) -> None:
    """Has spans recorded, where the settings name who takes them."""
    if not settings.otlp_endpoint:
        return
    try:
        from watari import otel  # noqa: PLC0415 - an extra, and nothing while it is off
    except ModuleNotFoundError as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"{name}.telemetry.otlp_endpoint: {error}",
            hint="install watari[otel]",
            key=f"{name}.telemetry.otlp_endpoint",
        ) from error
    otel.start(settings, name, context.identity.spiffe_id, context.stack)


def _end() -> NoReturn:
    """Ends the process once everything is stopped. The interpreter's own way may wait for ever: a
    channel that is deallocated there waits for gRPC's threads, which do not run any more.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _arguments(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"watari-{name}",
        description=f"The Watari {name}. Every setting may also come from the environment, "
        f"as in WATARI_{name.upper()}_ADDRESS.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file to read")
    parser.add_argument(
        "--show-config", action="store_true", help="print the settings in force and end"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser.parse_args()
