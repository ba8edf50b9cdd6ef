"""Standing delegations: a tenant lets one broker move its machines again and again, within bounds.

The document names the broker, the tenant, the machines, the clouds that they may leave and go to,
how often, and until when; nothing else that its signer may do comes with it. A broker passes it on
as it was signed. What is checked here needs no knowledge of machines; how often one has moved, the
manager of the cloud that it leaves knows.

It may be good for longer than the certificate that signed it: a manager that saw it while that was
valid goes on believing it (`read`, with `seen_at`), as long as the signer's provider has not denied
the certificate.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from watari import delegation, identity, permit, validate
from watari.delegation import invalid
from watari.identity import Identity, Role, SpiffeId, TrustStore
from watari.v1 import common_pb2

PURPOSE = "standing-delegation"

LIFE_SECONDS_MAX = 35 * 24 * 3600
"""A manager refuses one that is good for longer: a month, and some days to renew it in."""

LIFE_SECONDS_DEFAULT = 30 * 24 * 3600

MACHINES_MAX = 256
"""Machines of one delegation; the contract's number."""

CLOUDS_MAX = delegation.CLOUDS_MAX
"""Clouds of each of its two lists; the contract's number."""

MOVES_MAX = 100
"""Largest number of moves within its window."""

WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX = 3600, LIFE_SECONDS_MAX
"""Shortest and longest time in which moves are counted."""

DOCUMENT_BYTES_MAX = 64 * 1024
"""With as many machines and clouds as there may be it has some 20 KiB."""

TENANT_BYTES_MAX = 256


@dataclass(frozen=True)
class Scope:
    """What is delegated."""

    tenant_domain: str
    tenant: str
    from_clouds: Sequence[str]
    to_clouds: Sequence[str]
    moves_max: int
    """Of one machine away from one cloud,"""
    window_seconds: int
    """within this time."""
    vm_ids: Sequence[str] = ()
    """Only these machines; empty is all of the tenant's."""


@dataclass(frozen=True)
class Standing:
    """One whose signature has been proved."""

    message: common_pb2.StandingDelegation
    signer: SpiffeId

    @property
    def expires_at(self) -> datetime:
        """The end of it."""
        return self.message.expires_at.ToDatetime(tzinfo=UTC)


def is_one(document: common_pb2.SignedDocument) -> bool:
    """Whether it says that it is a standing delegation; nothing is proved."""
    return document.purpose == PURPOSE


def digest(document: common_pb2.SignedDocument) -> str:
    """What a document that was seen is remembered by: SHA-256 of all of it, in hex."""
    return hashlib.sha256(document.SerializeToString(deterministic=True)).hexdigest()


def sign(
    signer: Identity,
    now: datetime,
    scope: Scope,
    *,
    delegate: str,
    life_seconds: int = LIFE_SECONDS_DEFAULT,
    delegation_id: str = "",
) -> common_pb2.SignedDocument:
    """A standing delegation to the broker `delegate`."""
    made = common_pb2.StandingDelegation(
        delegation_id=delegation_id or str(uuid.uuid4()),
        delegate=delegate,
        tenant_domain=scope.tenant_domain,
        tenant=scope.tenant,
        vm_ids=scope.vm_ids,
        from_clouds=scope.from_clouds,
        to_clouds=scope.to_clouds,
        moves_max=scope.moves_max,
        window_seconds=scope.window_seconds,
    )
    made.expires_at.FromDatetime(now + timedelta(seconds=life_seconds))
    return identity.sign(signer, made.SerializeToString(deterministic=True), PURPOSE)


def read(
    document: common_pb2.SignedDocument,
    trust: TrustStore,
    now: datetime,
    *,
    delegate: SpiffeId,
    seen_at: datetime | None = None,
) -> Standing:
    """What was delegated to `delegate`, and by whom, once the signature is proved. `seen_at` is
    when this very document is known to have been seen with its signer's certificate valid.

    Raises Denied DELEGATION_INVALID.
    """
    if document.ByteSize() > DOCUMENT_BYTES_MAX:
        raise invalid(f"it is larger than {DOCUMENT_BYTES_MAX} bytes", "name fewer machines")
    return Standing(*permit.prove(_KIND, document, trust, now, delegate=delegate, seen_at=seen_at))


def require_alive(message: common_pb2.StandingDelegation, now: datetime) -> None:
    """Raises Denied DELEGATION_INVALID when it is over, or good for longer than may be."""
    expires_at = message.expires_at.ToDatetime(tzinfo=UTC)
    told = expires_at.isoformat(timespec="seconds")
    if expires_at <= now:
        raise invalid(f"it expired at {told}", "have a new one signed: watari policy put")
    if expires_at > now + timedelta(seconds=LIFE_SECONDS_MAX):
        raise invalid(f"it is good until {told}", f"at most {LIFE_SECONDS_MAX} seconds from now")


def _require_signer(message: common_pb2.StandingDelegation, signer: SpiffeId) -> None:
    """A tenant signs for itself, an operator for the tenants of its own provider."""
    whose = f"tenant {message.tenant} of {message.tenant_domain}"
    if signer.role is Role.USER:
        own = (signer.domain, signer.name) == (message.tenant_domain, message.tenant)
    else:
        own = signer.role is Role.OPERATOR and signer.domain == message.tenant_domain
    if not own:
        raise invalid(
            f"{signer} signed it, for machines of {whose}",
            "the tenant's user, or an operator of its provider, signs it",
        )


def _require_well_formed(message: common_pb2.StandingDelegation) -> None:
    validate.require_uuid(message.delegation_id, "delegation_id")
    for name, most in (("tenant_domain", 253), ("tenant", TENANT_BYTES_MAX)):
        validate.require_text(getattr(message, name), name, bytes_max=most, empty=False)
    validate.require_count(len(message.vm_ids), "vm_ids", MACHINES_MAX)
    for vm_id in message.vm_ids:
        validate.require_uuid(vm_id, "vm_ids")
    for field in ("from_clouds", "to_clouds"):
        clouds = getattr(message, field)
        validate.require_range(len(clouds), f"clouds in {field}", 1, CLOUDS_MAX)
        for cloud_id in clouds:
            validate.require_cloud_id(cloud_id, field)
    validate.require_range(message.moves_max, "moves_max", 1, MOVES_MAX)
    validate.require_range(
        message.window_seconds, "window_seconds", WINDOW_SECONDS_MIN, WINDOW_SECONDS_MAX
    )
    if not message.HasField("expires_at"):
        raise validate.invalid_field("expires_at", "is not set", "say until when it is good")
    try:
        message.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise validate.invalid_field("expires_at", "is no moment", "a date") from error


_KIND = permit.Kind(
    message=common_pb2.StandingDelegation,
    purpose=PURPOSE,
    renewal="have the tenant sign a new one: watari policy put",
    require_well_formed=_require_well_formed,
    require_signer=_require_signer,
    invalid=invalid,
)
