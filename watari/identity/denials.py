"""Certificates that are denied before they run out: one `<domain>.denied.json` beside a provider's
roots.

A denial names a party and a moment: what was issued until then is denied, what is issued later is
not, so that a party whose key was lost can be given a new one. A file denies parties of its own
domain only.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from watari import errors
from watari.identity import files
from watari.identity.spiffe import SpiffeId

SUFFIX = ".denied.json"

DENIALS_MAX = 1000
"""Of one provider; older ones are of certificates that have run out long ago."""

FILE_BYTES_MAX = 4 * 1024 * 1024
"""More than as many denials take, whatever their reasons are written with."""


@dataclass(frozen=True)
class Denial:
    """What is denied of one party."""

    spiffe_id: SpiffeId

    issued_until: datetime
    """Certificates that were made at this moment or before it are denied."""

    reason: str = ""
    """In the operator's words."""


def path_of(folder: Path, domain: str) -> Path:
    """Where a provider's denials are."""
    return folder / f"{domain}{SUFFIX}"


def save(folder: Path, domain: str, denials: Iterable[Denial]) -> None:
    """Writes a provider's denials in place of those before."""
    rows = [
        {
            "spiffe_id": str(denial.spiffe_id),
            "issued_until": denial.issued_until.astimezone(UTC).isoformat(),
            "reason": denial.reason,
        }
        for denial in denials
    ]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    files.save_certificate(path_of(folder, domain), text.encode())


def load(folder: Path, domain: str) -> Mapping[SpiffeId, Denial]:
    """A provider's denials by party; empty without a file.

    Raises FailedPrecondition CREDENTIALS_UNREADABLE for a file that is none: what cannot be read
    must not let anybody in.
    """
    path = path_of(folder, domain)
    if not path.exists():
        return {}
    raw = files.load_certificate(path, FILE_BYTES_MAX)
    try:
        found = [_denial(row) for row in json.loads(raw)]
    except (ValueError, TypeError, KeyError, errors.InvalidArgument) as error:
        raise files.unreadable(path, f"not a list of denials: {error}") from error
    if len(found) > DENIALS_MAX:
        raise files.unreadable(path, f"more than {DENIALS_MAX} denials")
    return {each.spiffe_id: each for each in found if each.spiffe_id.domain == domain}


def merged(one: Iterable[Denial], other: Iterable[Denial]) -> list[Denial]:
    """Of each party the denial that reaches further, ordered by party; at most DENIALS_MAX, the
    latest of them.
    """
    by_party: dict[SpiffeId, Denial] = {}
    for denial in (*one, *other):
        known = by_party.get(denial.spiffe_id)
        if known is None or known.issued_until < denial.issued_until:
            by_party[denial.spiffe_id] = denial
    latest = sorted(by_party.values(), key=lambda each: each.issued_until)[-DENIALS_MAX:]
    return sorted(latest, key=lambda each: each.spiffe_id)


def _denial(row: Mapping[str, str]) -> Denial:
    moment = datetime.fromisoformat(row["issued_until"])
    if moment.tzinfo is None:
        raise ValueError("a moment without its time zone")
    return Denial(SpiffeId.parse(row["spiffe_id"]), moment, str(row.get("reason", "")))
