"""`watari federation`: other providers, how they join, and how they leave."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from watari import errors, units
from watari.cli import exits, views
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.membership import Membership
from watari.cli.output import Column, Output, facts
from watari.cli.plain import plain
from watari.v1 import federation_pb2

JOINED_SECONDS_MAX = 120.0
"""How long `join` waits for the other operator, unless another time is asked for."""

POLL_SECONDS = 1.0

_app = typer.Typer(no_args_is_help=True, help="Join other providers, and leave them.")

CloudOption = Annotated[
    str | None,
    typer.Option(
        "--cloud", metavar="CLOUD", help="Cloud whose provider is meant; else the settings' first."
    ),
]
_Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="The other provider.")]
_Yes = Annotated[
    bool, typer.Option("--yes", help="Confirm what is shown without asking: for scripts.")
]


def _there(row: dict[str, Any]) -> str:
    """Whether the other side has accepted this one, as far as is known."""
    if row["state"] != "accepted":
        return ""
    return "accepted" if row["told_sequence"] else "not yet"


_COLUMNS = (
    Column("PROVIDER", lambda one: one["domain"]),
    Column("HERE", lambda one: one["state"]),
    Column("THERE", _there),
    Column("CLOUDS", lambda one: ", ".join(one["bundle"]["cloud_ids"])),
    Column("MIGRATIONS", lambda one: str(one["migrations_active"] or ""), right=True),
    Column("SINCE", lambda one: views.when(one["state_changed_at"])),
    Column("FINGERPRINT", lambda one: fingerprint(one["ca_sha256"]), optional=True),
)


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="federation", rich_help_panel=FEDERATION_PANEL)


@command(_app, "invite", epilog=exits.epilog(Exit.REFUSED, Exit.UNAVAILABLE))
def invite(
    invocation: Invocation,
    valid: Annotated[
        str, typer.Option(metavar="TIME", help="How long it holds, such as 2h; up to a week.")
    ] = "24h",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for who joins with it, and confirm them here.")
    ] = False,
    yes: _Yes = False,
    cloud: CloudOption = None,
) -> None:
    """Print an invitation for another provider's operator.

    Send it over a channel that nobody else reads: whoever has it first can ask
    to join with it, once. Nobody is in before you have confirmed them.
    """
    output, member = invocation.output, invocation.clients.membership(cloud)
    before = {each.domain for each in member.providers() if _is_pending(each)}
    made = member.invite(int(units.parse_duration(valid)))
    row = plain(made)
    if wait:
        output.note(
            f"Holds until {views.when(row['expires_at'])}. Give this to the other operator:"
        )
        output.event(row)
        output.say(made.invitation)
        _confirm_guest(invocation, member, before, made.expires_at.ToDatetime(UTC), yes=yes)
        return
    output.record(row)
    output.note(f"For the other operator, until {views.when(row['expires_at'])}:")
    output.say(made.invitation)
    output.note("When they have joined: watari federation confirm DOMAIN")


@command(_app, "join", epilog=CALL_EPILOG)
def join(
    invocation: Invocation,
    invitation: Annotated[str, typer.Argument(metavar="INVITATION", help="The line you got.")],
    yes: _Yes = False,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for the other operator.")
    ] = units.format_duration(JOINED_SECONDS_MAX),
    cloud: CloudOption = None,
) -> None:
    """Join the provider that made an invitation.

    Both providers exchange their certificate authorities. Compare the code
    with the other operator's before you confirm.
    """
    output, member = invocation.output, invocation.clients.membership(cloud)
    with output.working("calling the other provider"):
        answer = member.accept(invitation)
    provider = _confirm(output, member, answer.provider, answer.own_ca_sha256.hex(), yes=yes)
    if provider.state == federation_pb2.PROVIDER_STATE_ACCEPTED:
        provider = _await_other(invocation, member, provider, units.parse_duration(wait))
    output.record(plain(provider))
    if provider.told_sequence:
        output.say(f"{provider.domain} and this provider have accepted each other.", "green")
    elif provider.state == federation_pb2.PROVIDER_STATE_ACCEPTED:
        output.note(f"{provider.domain}'s operator has yet to confirm this provider.")


@command(_app, "confirm", epilog=CALL_EPILOG)
def confirm(
    invocation: Invocation, domain: _Domain, yes: _Yes = False, cloud: CloudOption = None
) -> None:
    """Accept a provider that has joined by an invitation of this one."""
    member = invocation.clients.membership(cloud)
    provider = _confirm(invocation.output, member, member.provider(domain), "", yes=yes)
    invocation.output.record(plain(provider))


@command(_app, "list", epilog=exits.epilog(Exit.UNAVAILABLE))
def list_providers(invocation: Invocation, cloud: CloudOption = None) -> None:
    """List the providers that this one has met."""
    rows = [plain(each) for each in invocation.clients.membership(cloud).providers()]
    invocation.output.rows(
        rows, _COLUMNS, "No provider was met yet. `watari federation invite` invites one."
    )


@command(_app, "show", epilog=CALL_EPILOG)
def show(invocation: Invocation, domain: _Domain, cloud: CloudOption = None) -> None:
    """Show one provider: its fingerprint, its clouds, and what it denies."""
    row = plain(invocation.clients.membership(cloud).provider(domain))
    invocation.output.record(row, facts(_facts(row)))


@command(_app, "remove", epilog=CALL_EPILOG)
def remove(
    invocation: Invocation, domain: _Domain, yes: _Yes = False, cloud: CloudOption = None
) -> None:
    """Stop accepting a provider, at once.

    Its calls are refused, its streams and transfers cut, and migrations with it
    that are not committed roll back. It comes back by a new invitation only.
    """
    output, member = invocation.output, invocation.clients.membership(cloud)
    if output.is_json and not yes:
        raise errors.InvalidArgument(
            "INVALID_FIELD", "a program confirms by --yes", hint="add --yes, or leave -o json"
        )
    row = plain(member.provider(domain))
    output.show(facts(_facts(row)))
    if not yes and not typer.confirm(f"Remove {domain}?", err=True):
        raise typer.Abort
    answer = member.remove(domain)
    output.record(plain(answer))
    output.say(f"{domain} is removed.")
    for migration_id in answer.migrations_committed:
        output.note(
            f"Migration {migration_id} is committed, or may be, and waits: nobody may start its "
            "machine until the provider is accepted again.",
            style="yellow",
        )


def fingerprint(hexadecimal: str) -> str:
    """A certificate's SHA-256 as people know it from SSH."""
    return "SHA256:" + base64.b64encode(bytes.fromhex(hexadecimal)).decode().rstrip("=")


def _confirm_guest(
    invocation: Invocation, member: Membership, before: set[str], until: datetime, *, yes: bool
) -> None:
    """Waits for whoever joins, and has the operator confirm them."""
    output = invocation.output

    def joined() -> federation_pb2.Provider | None:
        pending = [each for each in member.providers() if _is_pending(each)]
        return next((each for each in pending if each.domain not in before), None)

    seconds = max(0.0, (until - invocation.clock.now()).total_seconds())
    with output.working("waiting for somebody to join"):
        guest = _poll(invocation, joined, seconds)
    if guest is None:
        raise errors.DeadlineExceeded(
            "INVITATION_INVALID",
            "the invitation has run out and nobody has joined",
            hint="make a new one: watari federation invite",
        )
    provider = _confirm(output, member, guest, "", yes=yes)
    if provider.state == federation_pb2.PROVIDER_STATE_ACCEPTED:
        provider = _await_other(invocation, member, provider, JOINED_SECONDS_MAX)
    output.event(plain(provider))
    if provider.told_sequence:
        output.say(f"{provider.domain} and this provider have accepted each other.", "green")


def _confirm(
    output: Output, member: Membership, provider: federation_pb2.Provider, own: str, *, yes: bool
) -> federation_pb2.Provider:
    """Shows a pending provider; accepts it if the operator says so."""
    if not _is_pending(provider):
        return provider
    row = plain(provider)
    output.show(facts([*_facts(row), ("this provider's", fingerprint(own) if own else "")]))
    if output.is_json and not yes:
        return provider
    question = f"Does the other operator see the same code, and is this {provider.domain}?"
    if not yes and not typer.confirm(question, err=True):
        raise typer.Abort
    accepted = member.confirm(provider.domain, provider.ca_sha256)
    output.say(f"{provider.domain} is accepted here.")
    return accepted


def _await_other(
    invocation: Invocation, member: Membership, provider: federation_pb2.Provider, seconds: float
) -> federation_pb2.Provider:
    """Until the other side has accepted this one too, or the time is over."""

    def mutual() -> federation_pb2.Provider | None:
        now = member.provider(provider.domain)
        return now if now.told_sequence else None

    with invocation.output.working(f"waiting for {provider.domain}'s operator to confirm"):
        return _poll(invocation, mutual, seconds) or provider


def _poll(
    invocation: Invocation, look: Callable[[], federation_pb2.Provider | None], seconds: float
) -> federation_pb2.Provider | None:
    deadline = invocation.clock.monotonic() + seconds
    while (found := look()) is None and invocation.clock.monotonic() < deadline:
        invocation.clock.sleep(POLL_SECONDS)
    return found


def _is_pending(provider: federation_pb2.Provider) -> bool:
    return provider.state == federation_pb2.PROVIDER_STATE_PENDING


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    bundle = row["bundle"]
    return [
        ("provider", row["domain"]),
        ("name", bundle["display_name"]),
        ("here", row["state"]),
        ("there", _there(row)),
        ("clouds", ", ".join(bundle["cloud_ids"])),
        ("manager", f"{bundle['manager']['spiffe_id']} at {bundle['manager']['address']}"),
        ("fingerprint", fingerprint(row["ca_sha256"])),
        ("code", row["code"]),
        ("authorities", str(len(bundle["authorities"]))),
        ("denies", "; ".join(each["spiffe_id"] for each in bundle["denied"])),
        ("met", views.when(row["met_at"])),
        ("migrations", str(row["migrations_active"] or "")),
    ]
