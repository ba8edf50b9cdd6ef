"""Bundles: whom a provider trusts, as messages and as the files of a trust folder."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path

from watari import errors
from watari.identity import (
    Authority,
    Denial,
    SpiffeId,
    denials,
    files,
    leaves,
    requests,
    validate_domain,
)
from watari.v1 import federation_pb2

PURPOSE = "bundle"

REASON_BYTES_MAX = 256
"""Of a denial's reason."""

AUTHORITIES_MAX = 4
"""Of one provider at a time: two while it changes its CA, and room for a second change."""


def write(folder: Path, own: str, bundles: Sequence[federation_pb2.Bundle]) -> None:
    """Makes the trust folder say what the bundles say, and no more. What is the same is not
    written again. The own provider stays whatever they say. Raises OSError, and what a malformed
    bundle raises.
    """
    told = {bundle.domain: bundle for bundle in bundles}
    for path in folder.glob("*.pem"):  # first: whatever else is wrong, who left is out
        domain = path.name.removesuffix(".pem")
        if domain not in told and domain != own:
            drop(folder, domain)
    for bundle in told.values():
        put(folder, bundle)


def put(folder: Path, bundle: federation_pb2.Bundle) -> None:
    """Accepts a provider as its bundle has it. Raises WatariError for a malformed one."""
    pem = b"".join(requests.pem_of(der) for der in bundle.authorities)
    found = denied_of(bundle)
    if _denied_there(folder, bundle.domain) != {each.spiffe_id: each for each in found}:
        denials.save(folder, bundle.domain, found)
    path = folder / f"{bundle.domain}.pem"
    if not path.exists() or path.read_bytes() != pem:
        files.save_certificate(path, pem)


def believe(folder: Path, authority: Authority) -> None:
    """Makes an authority the first of its provider's in a trust folder: the one that issues. Those
    that are there stay behind it. Raises OSError, FailedPrecondition CREDENTIALS_UNREADABLE.
    """
    path = folder / f"{authority.domain}.pem"
    there = leaves.split(files.load_certificate(path)) if path.exists() else []
    others = [pem for pem in there if leaves.fingerprint(pem) != authority.fingerprint]
    if there[:1] != [authority.cert_pem]:
        files.save_certificate(path, b"".join([authority.cert_pem, *others]))


def drop(folder: Path, domain: str) -> None:
    """Accepts a provider no longer."""
    (folder / f"{domain}.pem").unlink(missing_ok=True)
    denials.path_of(folder, domain).unlink(missing_ok=True)


def bundle_of(domain: str, pem: bytes, denied: Mapping[SpiffeId, Denial]) -> federation_pb2.Bundle:
    """A provider's authorities and denials as a message."""
    bundle = federation_pb2.Bundle(domain=domain, authorities=leaves.ders(pem))
    for denial in denied.values():
        entry = bundle.denied.add(spiffe_id=str(denial.spiffe_id), reason=denial.reason)
        entry.issued_until.FromDatetime(denial.issued_until)
    return bundle


def denied_of(bundle: federation_pb2.Bundle) -> list[Denial]:
    """The denials in a bundle, those of other domains left out. Raises InvalidArgument."""
    try:
        found = [
            Denial(
                SpiffeId.parse(entry.spiffe_id),
                entry.issued_until.ToDatetime(tzinfo=UTC),
                entry.reason,
            )
            for entry in bundle.denied
        ]
    except (ValueError, OverflowError):
        raise invalid("denies until a moment that there is not") from None
    return [each for each in found if each.spiffe_id.domain == bundle.domain]


def _denied_there(folder: Path, domain: str) -> Mapping[SpiffeId, Denial] | None:
    """What the folder has; None for a file that cannot be read, which is then written again."""
    try:
        return denials.load(folder, domain)
    except errors.WatariError:
        return None


def check(bundle: federation_pb2.Bundle) -> None:
    """Raises InvalidArgument INVALID_FIELD for a bundle that cannot be put into a trust folder."""
    validate_domain(bundle.domain)
    if not 1 <= len(bundle.authorities) <= AUTHORITIES_MAX:
        raise invalid(f"has {len(bundle.authorities)} authorities, 1 to {AUTHORITIES_MAX} may be")
    if len(bundle.denied) > denials.DENIALS_MAX:
        raise invalid(f"denies more than {denials.DENIALS_MAX} parties")
    for authority in bundle.authorities:
        if not leaves.is_authority(authority, bundle.domain):
            raise invalid("names something as an authority that is none of its domain")
    if any(len(entry.reason.encode()) > REASON_BYTES_MAX for entry in bundle.denied):
        raise invalid(f"has a reason of more than {REASON_BYTES_MAX} bytes")
    denied_of(bundle)


def invalid(what: str) -> errors.InvalidArgument:
    """The error for a bundle that cannot be taken."""
    return errors.InvalidArgument(
        "INVALID_FIELD",
        f"the bundle {what}",
        hint="the provider that made it has to mend it",
        field="bundle",
    )
