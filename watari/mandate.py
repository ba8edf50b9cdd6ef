"""Reservation mandates: a person lets one broker hold room for one machine's migration.

The document names the reservation, the migration, the machine and its cloud, how much may be held,
by which clouds and until when. It moves nothing, and shows nothing of the machine. What is checked
here needs no knowledge of clouds: whether the signer speaks for the tenant, who holds room says.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from watari import errors, identity, permit, validate
from watari.identity import Identity, Role, SpiffeId, TrustStore, validate_domain
from watari.v1 import common_pb2

PURPOSE = "reservation-mandate"

LIFE_SECONDS_DEFAULT = 600
"""Ten minutes, as a delegation: until the source's manager has begun and reserves itself."""

LIFE_SECONDS_MAX = 3600
"""Who holds room refuses one that is good for longer: what is held and not used serves nobody."""

CLOUDS_MAX = 64
"""Clouds of one mandate; the contract's number."""

TENANT_BYTES_MAX = 256


@dataclass(frozen=True)
class Subject:
    """What room is held for."""

    migration_id: str
    vm_id: str
    from_cloud: str
    tenant_domain: str
    tenant: str
    resources: common_pb2.Resources


def reservation_id(migration_id: str) -> str:
    """The id of a migration's reservation, as a manager makes it that is told none."""
    return str(uuid.uuid5(uuid.UUID(migration_id), "reservation"))


def migration_id(reservation_id: str) -> str:
    """What stands for the migration's id in a reservation that a person makes in advance, until a
    manager claims it for one.
    """
    return str(uuid.uuid5(uuid.UUID(reservation_id), "migration"))


def sign(
    signer: Identity,
    now: datetime,
    subject: Subject,
    *,
    delegate: str,
    to_clouds: Sequence[str],
    life_seconds: int = LIFE_SECONDS_DEFAULT,
) -> common_pb2.SignedDocument:
    """A mandate for the broker `delegate`, for the reservation of the subject's migration."""
    made = common_pb2.ReservationMandate(
        reservation_id=reservation_id(subject.migration_id),
        migration_id=subject.migration_id,
        delegate=delegate,
        tenant_domain=subject.tenant_domain,
        tenant=subject.tenant,
        vm_id=subject.vm_id,
        from_cloud=subject.from_cloud,
        resources=subject.resources,
        to_clouds=to_clouds,
    )
    made.expires_at.FromDatetime(now + timedelta(seconds=life_seconds))
    return identity.sign(signer, made.SerializeToString(deterministic=True), PURPOSE)


def read(
    document: common_pb2.SignedDocument, trust: TrustStore, now: datetime, *, delegate: SpiffeId
) -> tuple[common_pb2.ReservationMandate, SpiffeId]:
    """What a person mandated `delegate` to hold, and who it is, once the signature is proved and as
    long as it is good.

    Raises Denied MANDATE_INVALID, and the errors of a malformed signature.
    """
    mandate, signer = permit.prove(_KIND, document, trust, now, delegate=delegate)
    _require_alive(mandate, now)
    return mandate, signer


def expires_at(mandate: common_pb2.ReservationMandate) -> datetime:
    """When it is over. Raises Denied MANDATE_INVALID for what is no moment."""
    try:
        return mandate.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid("expires_at is no moment", "say until when it is good") from error


def invalid(problem: str, hint: str) -> errors.Denied:
    """The error for a mandate that does not cover what it is shown for."""
    return errors.Denied("MANDATE_INVALID", f"the reservation mandate: {problem}", hint=hint)


def _require_alive(mandate: common_pb2.ReservationMandate, now: datetime) -> None:
    ends = expires_at(mandate)
    shown = ends.isoformat(timespec="seconds")
    if ends <= now:
        raise invalid(f"it expired at {shown}", "have a new one signed; clocks must agree")
    if ends > now + timedelta(seconds=LIFE_SECONDS_MAX):
        raise invalid(f"it is good until {shown}", f"at most {LIFE_SECONDS_MAX} seconds from now")


def _require_well_formed(mandate: common_pb2.ReservationMandate) -> None:
    for field in ("reservation_id", "migration_id", "vm_id"):
        validate.require_uuid(getattr(mandate, field), field)
    validate.require_cloud_id(mandate.from_cloud, "from_cloud")
    validate_domain(mandate.tenant_domain)
    validate.require_text(mandate.tenant, "tenant", bytes_max=TENANT_BYTES_MAX, empty=False)
    if not mandate.to_clouds:
        raise validate.invalid_field("to_clouds", "is empty", "name who may be asked to hold")
    validate.require_count(len(mandate.to_clouds), "to_clouds", CLOUDS_MAX)
    for cloud_id in mandate.to_clouds:
        validate.require_cloud_id(cloud_id, "to_clouds")
    if not mandate.HasField("expires_at"):
        raise validate.invalid_field("expires_at", "is not set", "say until when it is good")


def _require_signer(_: common_pb2.ReservationMandate, signer: SpiffeId) -> None:
    if signer.role not in (Role.USER, Role.OPERATOR):
        raise invalid(f"{signer} signed it", "a tenant's user or an operator signs mandates")


_KIND = permit.Kind(
    message=common_pb2.ReservationMandate,
    purpose=PURPOSE,
    renewal="have the machine's tenant sign a new one",
    require_well_formed=_require_well_formed,
    require_signer=_require_signer,
    invalid=invalid,
)
