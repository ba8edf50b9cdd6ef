"""Delegations: a person lets one broker move one machine once.

The document names the migration, the machine, its cloud, where it may go and until when it may
begin; nothing else that its signer may do comes with it. A broker passes it on as it was signed.
What is checked here needs no knowledge of machines; whose the machine is, its manager says.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from watari import errors, identity, permit, validate
from watari.identity import Identity, Role, SpiffeId, TrustStore
from watari.v1 import common_pb2

PURPOSE = "delegation"

LIFE_SECONDS_DEFAULT = 600
"""Ten minutes: a broker begins at once, and its caller may repeat the call for a while."""

LIFE_SECONDS_MAX = 24 * 3600
"""A manager refuses one that is good for longer: it is a word for now, no standing permission."""

CLOUDS_MAX = 64
"""Destinations of one delegation; the contract's number."""


def sign(
    signer: Identity,
    now: datetime,
    *,
    migration_id: str,
    delegate: str,
    vm_id: str,
    from_cloud: str,
    to_clouds: Sequence[str] = (),
    life_seconds: int = LIFE_SECONDS_DEFAULT,
) -> common_pb2.SignedDocument:
    """A delegation of one machine's migration to the broker `delegate`."""
    made = common_pb2.Delegation(
        migration_id=migration_id,
        delegate=delegate,
        vm_id=vm_id,
        from_cloud=from_cloud,
        to_clouds=to_clouds,
    )
    made.expires_at.FromDatetime(now + timedelta(seconds=life_seconds))
    return identity.sign(signer, made.SerializeToString(deterministic=True), PURPOSE)


def read(
    document: common_pb2.SignedDocument, trust: TrustStore, now: datetime, *, delegate: SpiffeId
) -> tuple[common_pb2.Delegation, SpiffeId]:
    """What a person delegated to `delegate`, and who it is, once the signature is proved.

    Raises Denied DELEGATION_INVALID, and the errors of a malformed one.
    """
    return permit.prove(_KIND, document, trust, now, delegate=delegate)


def require_migration(delegation: common_pb2.Delegation, migration_id: str) -> None:
    """Raises Denied DELEGATION_INVALID unless it is for this migration."""
    if delegation.migration_id != migration_id:
        raise invalid(
            f"it is for migration {delegation.migration_id}, not for {migration_id}",
            "every migration needs a delegation of its own",
        )


def require_from(delegation: common_pb2.Delegation, cloud_id: str) -> None:
    """Raises Denied DELEGATION_INVALID unless the machine is to leave this cloud."""
    if delegation.from_cloud != cloud_id:
        raise invalid(
            f"it is for a machine of cloud {delegation.from_cloud}, not of {cloud_id}",
            "name the cloud that the machine is in",
        )


def missing(broker: SpiffeId) -> errors.Denied:
    """The error for a broker that shows none."""
    return invalid(
        f"{broker} shows none", "the machine's tenant signs one, as `watari migrate --place` does"
    )


def invalid(problem: str, hint: str) -> errors.Denied:
    """The error for a delegation that does not cover what it is shown for."""
    return errors.Denied("DELEGATION_INVALID", f"the delegation: {problem}", hint=hint)


def _require_well_formed(delegation: common_pb2.Delegation) -> None:
    validate.require_uuid(delegation.migration_id, "migration_id")
    validate.require_uuid(delegation.vm_id, "vm_id")
    validate.require_cloud_id(delegation.from_cloud, "from_cloud")
    validate.require_count(len(delegation.to_clouds), "to_clouds", CLOUDS_MAX)
    for cloud_id in delegation.to_clouds:
        validate.require_cloud_id(cloud_id, "to_clouds")
    if not delegation.HasField("expires_at"):
        raise validate.invalid_field("expires_at", "is not set", "say until when it is good")


def _require_signer(_: common_pb2.Delegation, signer: SpiffeId) -> None:
    if signer.role not in (Role.USER, Role.OPERATOR):
        raise invalid(f"{signer} signed it", "a tenant's user or an operator signs delegations")


_KIND = permit.Kind(
    message=common_pb2.Delegation,
    purpose=PURPOSE,
    renewal="have the machine's tenant sign a new one",
    require_well_formed=_require_well_formed,
    require_signer=_require_signer,
    invalid=invalid,
)
