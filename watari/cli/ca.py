"""`watari ca`: the provider's certificate authority, and the certificates that it issues."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from watari import bundles, errors, identity
from watari.cli import exits, views
from watari.cli.exits import CALL_EPILOG, Exit
from watari.cli.invocation import FEDERATION_PANEL, Invocation, command
from watari.cli.output import facts
from watari.cli.plain import plain
from watari.cli.providers import CloudOption, fingerprint
from watari.identity import Authority, Identity, Role, SpiffeId, TrustStore
from watari.identity.authority import CERTIFICATE_FILE, KEY_FILE, LEAF_SECONDS_DEFAULT

PASSPHRASE_VARIABLE = "WATARI_CA_PASSPHRASE"  # noqa: S105 - a name
"""Environment variable with the passphrase of an encrypted key, where nobody can be asked."""

DAYS_MAX = 90.0
"""A certificate that nobody renews lasts no longer: denials are kept for a hundred days."""

_DAY_SECONDS = 86_400

_app = typer.Typer(no_args_is_help=True, help="Make and use the provider's certificate authority.")

_Folder = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Folder of the certificate authority.")
]
_Role = Annotated[Role, typer.Argument(metavar="ROLE", help="agent, manager, operator, user, ...")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name; a user's is its tenant.")]


def add(app: typer.Typer) -> None:
    """Adds the group."""
    app.add_typer(_app, name="ca", rich_help_panel=FEDERATION_PANEL)


@command(_app, "init", epilog=exits.epilog(Exit.REFUSED), places=False)
def init(
    invocation: Invocation,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="Such as tokyo.example.")],
    folder: _Folder = Path("ca"),
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Protect the key by a passphrase.")
    ] = False,
) -> None:
    """Make a provider's certificate authority.

    Its key can make anybody of the provider: keep it where only the manager, or
    only you, can read it. Others accept its certificate when they join.
    """
    if (folder / KEY_FILE).exists():
        raise errors.AlreadyExists(
            "CREDENTIALS_UNREADABLE",
            f"there is an authority in {folder} already",
            hint="a new one would leave every certificate of the old one worthless; name another "
            "--dir, or change it with: watari ca rotate",
        )
    made = identity.create_ca(domain, invocation.clock)
    made.save(folder, _passphrase(confirm=True) if encrypt else None)
    _show(invocation, made, folder, encrypted=encrypt)


@command(_app, "show", epilog=exits.epilog(Exit.REFUSED), places=False)
def show(invocation: Invocation, folder: _Folder = Path("ca")) -> None:
    """Show whose authority is in a folder, with its fingerprint."""
    made, encrypted = _load(invocation, folder)
    _show(invocation, made, folder, encrypted=encrypted)


@command(_app, "issue", epilog=exits.epilog(Exit.REFUSED), places=False)
def issue(
    invocation: Invocation,
    role: _Role,
    name: _Name,
    folder: _Folder = Path("ca"),
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to; by default ROLE-NAME.")
    ] = None,
    days: Annotated[
        float, typer.Option(min=0.01, max=DAYS_MAX, help="How long it lasts.")
    ] = LEAF_SECONDS_DEFAULT / _DAY_SECONDS,
) -> None:
    """Issue a certificate for a party of the provider: certificate, key and trust in a folder.

    Servers renew theirs by themselves at their manager; so does the command
    line. What is in the folder is replaced; whom it trusts stays, and this
    authority comes first.
    """
    authority, _ = _load(invocation, folder)
    party = SpiffeId(authority.domain, role, name)
    if party.role is Role.INVITEE:
        raise errors.InvalidArgument(
            "INVALID_FIELD", "invitees are made by invitations", hint="watari federation invite"
        )
    target = out or Path(f"{role}-{name}")
    trust = target / "trust"
    bundles.believe(trust, authority)
    own = Identity(party, *authority.issue(party, days * _DAY_SECONDS), TrustStore(trust))
    own.save(target)
    until = own.current().validity[1].isoformat()
    record = {"spiffe_id": str(party), "folder": str(target), "not_after": until}
    rows = [("party", str(party)), ("folder", str(target)), ("valid until", views.when(until))]
    invocation.output.record(record, facts(rows))


@command(_app, "revoke", epilog=CALL_EPILOG)
def revoke(
    invocation: Invocation,
    role: _Role,
    name: _Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the records.")] = "",
    cloud: CloudOption = None,
) -> None:
    """Deny every certificate that a party was issued until now, everywhere, at once.

    A new one for the same party is good: issue it when its host is clean.
    """
    domain = _domain(invocation, cloud)
    denial = invocation.clients.membership(cloud).revoke(SpiffeId(domain, role, name), reason)
    row = plain(denial)
    invocation.output.record(row)
    invocation.output.say(
        f"{row['spiffe_id']} is denied; issue a new certificate when it may go on."
    )


@command(_app, "rotate", epilog=CALL_EPILOG)
def rotate(invocation: Invocation, cloud: CloudOption = None) -> None:
    """Change the authority of a running provider, without an interruption.

    The new one is accepted first, everywhere; then it issues; the old one goes
    when its last certificate has run out. Again: how far it is.
    """
    row = plain(invocation.clients.membership(cloud).rotate())
    waiting = ", ".join(row["waiting_for"])
    state = "issues" if row["issuing"] else f"waits for {waiting or 'its turn'}"
    rows = [
        ("new authority", fingerprint(row["ca_sha256"])),
        ("state", state),
        ("old one until", views.when(row["old_until"])),
    ]
    invocation.output.record(row, facts(rows))


def _domain(invocation: Invocation, cloud: str | None) -> str:
    """The provider of a cloud of the settings."""
    clouds = invocation.clients.settings.clouds
    name = cloud or next(iter(clouds), "")
    invocation.clients.manager(name)  # says which clouds there are
    return SpiffeId.parse(clouds[name].manager.spiffe_id).domain


def _load(invocation: Invocation, folder: Path) -> tuple[Authority, bool]:
    """The authority in a folder, and whether its key is encrypted."""
    encrypted = b"ENCRYPTED" in identity.load_key(folder / KEY_FILE)
    passphrase = _passphrase(confirm=False) if encrypted else None
    return Authority.load(folder, invocation.clock, passphrase), encrypted


def _passphrase(*, confirm: bool) -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None:
        given = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return str(given).encode()


def _show(invocation: Invocation, made: Authority, folder: Path, *, encrypted: bool) -> None:
    certificate = x509.load_pem_x509_certificate(made.cert_pem)
    left = certificate.not_valid_after_utc - invocation.clock.now()
    record = {
        "domain": made.domain,
        "certificate": str(folder / CERTIFICATE_FILE),
        "key": str(folder / KEY_FILE),
        "key_encrypted": encrypted,
        "ca_sha256": made.fingerprint.hex(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }
    rows = [
        ("provider", made.domain),
        ("certificate", record["certificate"]),
        ("key", f"{record['key']}{', encrypted' if encrypted else ''}"),
        ("fingerprint", fingerprint(str(record["ca_sha256"]))),
        ("valid for", f"{left // timedelta(days=365)} years"),
    ]
    invocation.output.record(record, facts([(name, str(value)) for name, value in rows]))
