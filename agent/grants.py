"""Checks grants: without a valid one an agent neither sends nor takes a byte.

A grant is signed by the destination's manager and countersigned by the source's. Each agent
believes its own manager for its own side, and a certificate of the other provider for the other.
"""

import datetime
import hashlib

from google.protobuf.message import DecodeError

from watari import errors, identity
from watari.identity import SpiffeId, TrustStore
from watari.v1 import common_pb2

PURPOSE = "grant"
PURPOSE_COUNTERSIGNED = "grant-countersigned"

FIRST_EPOCH = 1
"""Epoch of a machine that never migrated."""


def digest(signed: common_pb2.SignedGrant) -> bytes:
    """SHA-256 of a signed grant, as session transcripts carry it."""
    return hashlib.sha256(signed.SerializeToString(deterministic=True)).digest()


def check(
    signed: common_pb2.SignedGrant, trust: TrustStore, now: datetime.datetime
) -> common_pb2.Grant:
    """The grant, with both signatures and its validity checked. Raises Denied GRANT_INVALID, and
    Unauthenticated SIGNATURE_INVALID or PROVIDER_UNKNOWN.
    """
    payload, granted_by = identity.verify(trust, signed.granted, PURPOSE, now=now)
    countersigned, countersigned_by = identity.verify(
        trust, signed.countersigned, PURPOSE_COUNTERSIGNED, now=now
    )
    try:
        grant = common_pb2.Grant.FromString(payload)
        covered = common_pb2.SignedDocument.FromString(countersigned)
    except DecodeError:
        raise _invalid("it cannot be read") from None
    if covered != signed.granted:
        raise _invalid("the countersignature is on another grant")
    if str(granted_by) != grant.destination_manager:
        raise _invalid("it is not signed by the destination's manager")
    if str(countersigned_by) != grant.source_manager:
        raise _invalid("it is not countersigned by the source's manager")
    _same_provider(grant.source_agent, grant.source_manager)
    _same_provider(grant.destination_agent, grant.destination_manager)
    if expires_at(grant) <= now:
        raise _invalid("it has expired")
    return grant


def expires_at(grant: common_pb2.Grant) -> datetime.datetime:
    """Until when sessions may be opened. Raises Denied GRANT_INVALID for what is no moment."""
    try:
        return grant.expires_at.ToDatetime(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        raise _invalid("it ends at a moment that there is not") from None


def check_sender(
    grant: common_pb2.Grant, agent: SpiffeId, manager: str, vm_id: str, epoch: int
) -> None:
    """Whether `agent`, of `manager`'s cloud, may send machine `vm_id`, which it was told to have
    `epoch`; 0 is a machine that never migrated. Raises Denied.
    """
    if grant.source_agent != str(agent) or grant.source_manager != manager:
        raise _invalid("it names another source")
    if grant.vm_id != vm_id:
        raise _invalid("it is for another machine")
    if grant.source_epoch != max(epoch, FIRST_EPOCH):
        raise _invalid(
            f"it is for epoch {grant.source_epoch}, and the machine has {max(epoch, FIRST_EPOCH)}"
        )


def check_receiver(
    grant: common_pb2.Grant, agent: SpiffeId, manager: str, peer: SpiffeId, migration_id: str
) -> None:
    """Whether `agent`, of `manager`'s cloud, may take `migration_id` from `peer`. Raises Denied."""
    if grant.destination_agent != str(agent) or grant.destination_manager != manager:
        raise _invalid("it names another destination")
    if grant.source_agent != str(peer):
        raise _invalid("it names another source")
    if grant.migration_id != migration_id:
        raise _invalid("it is for another migration")


def check_epoch(grant: common_pb2.Grant, here_at: int) -> None:
    """Whether a machine that was here at epoch `here_at` (0: never) may come again: it has a later
    one now. Raises Denied.
    """
    if here_at and grant.source_epoch <= here_at:
        raise _invalid(
            f"it is for epoch {grant.source_epoch}, and the machine was here at {here_at} already"
        )


def check_remembered(
    grant: common_pb2.Grant, now: datetime.datetime, remembered_seconds: float
) -> None:
    """A grant is valid no longer than what speaks against using it again is remembered. Raises
    Denied.
    """
    until = expires_at(grant)
    if until > now + datetime.timedelta(seconds=remembered_seconds):
        raise _invalid(f"it is valid until {until}, for longer than this agent remembers")


def check_purpose(grant: common_pb2.Grant, *, dry_run: bool) -> None:
    """A grant for an estimate moves nothing, and the other way round. Raises Denied."""
    if grant.estimate_only != dry_run:
        raise _invalid("it is for an estimate only" if grant.estimate_only else "it is for a move")


def _same_provider(agent: str, manager: str) -> None:
    if SpiffeId.parse(agent).domain != SpiffeId.parse(manager).domain:
        raise _invalid(f"{agent} and {manager} are of different providers")


def _invalid(why: str) -> errors.Denied:
    return errors.Denied(
        "GRANT_INVALID",
        f"the grant does not allow this: {why}",
        hint="start a new migration; it gets a grant of its own",
    )
