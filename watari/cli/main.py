"""The `watari` command: its groups, and how every run of it ends."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import watari
from watari import errors, logs
from watari.cli import (
    audit,
    ca,
    cloud,
    delegation,
    demo,
    directory,
    dispute,
    evacuate,
    evacuation,
    exits,
    inventory,
    invoice,
    ledger,
    local,
    manager,
    migrate,
    migration,
    offer,
    payment,
    place,
    place_batch,
    plan,
    policy,
    price,
    providers,
    quota,
    quote,
    reservation,
    settlement,
    usage,
    vm,
)
from watari.cli.exits import Exit
from watari.cli.output import Output, requested_format

DEBUG_VARIABLE = "WATARI_DEBUG"
"""Environment variable that lets an unexpected exception through with its traceback."""

app = typer.Typer(
    name="watari",
    help="Move virtual machines between clouds of different providers.",
    epilog=exits.epilog(*Exit),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
local.add(app)
ca.add(app)
providers.add(app)
cloud.add(app)
directory.add(app)
offer.add(app)
vm.add(app)
place.add(app)
place_batch.add(app)
policy.add(app)
plan.add(app)
delegation.add(app)
migrate.add(app)
migration.add(app)
evacuate.add(app)
evacuation.add(app)
manager.add(app)
inventory.add(app)
quota.add(app)
price.add(app)
quote.add(app)
reservation.add(app)
usage.add(app)
ledger.add(app)
invoice.add(app)
dispute.add(app)
payment.add(app)
settlement.add(app)
audit.add(app)
demo.add(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"watari {watari.__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Move virtual machines between clouds of different providers."""


def run() -> NoReturn:
    """Runs the command line of this process and ends it with the command's exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets "?", never an exception.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # What the command does is said by the command; what the foundation logs is for servers.
    logs.configure("watari", "critical", json=False)
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command line; returns the exit code.

    When whoever reads our output has gone, Typer and Rich end the process with 1, silently.
    """
    output = Output(requested_format(arguments))
    try:
        # Typer returns the code of typer.Exit, and otherwise what the command returned: None.
        return app(list(arguments), prog_name="watari", standalone_mode=False) or Exit.OK
    except exits.CommandFailed as failed:
        output.error(failed.error, failed.title)
        return failed.code
    except errors.WatariError as error:
        output.error(error)
        return exits.exit_of(error)
    except typer.TyperException as error:
        return _usage(output, error)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except OSError as error:
        output.error(_from_os_error(error))
        return Exit.FAILED
    except Exception as error:
        if DEBUG_VARIABLE in os.environ:
            raise
        output.error(_unexpected(error))
        return Exit.FAILED


def _usage(output: Output, error: typer.TyperException) -> int:
    message = error.format_message()
    # Without any arguments the help has been printed already, and the message is empty.
    if message:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "watari"
        output.error(
            errors.InvalidArgument("INVALID_FIELD", message.rstrip("."), hint=f"{path} --help")
        )
    return Exit.USAGE


def _from_os_error(error: OSError) -> errors.WatariError:
    where = f"{error.filename}: " if error.filename else ""
    return errors.Internal("DISK_IO", f"{where}{error.strerror or error}")


def _unexpected(error: Exception) -> errors.WatariError:
    return errors.Internal(
        "INTERNAL",
        f"unexpected {type(error).__name__}: {error}",
        hint=f"this is a fault of watari; {DEBUG_VARIABLE}=1 shows where",
    )
