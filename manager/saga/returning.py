"""The second commit point: a machine that was handed over becomes ours again, at the next epoch."""

from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from sqlalchemy.engine import Connection

from manager import vms
from manager.relinquishing import PURPOSE
from manager.saga import records
from manager.saga.copying import StepFailed
from manager.saga.documents import not_owned
from manager.saga.record import Record
from manager.saga.recording import Recorder
from manager.saga.states import State
from manager.saga.steps import Party
from watari import errors, identity
from watari.identity import SpiffeId
from watari.v1 import common_pb2

CAUSE_CHARS_MAX = 500
"""Of what the destination says of its reason, in the migration's problem."""


def check(
    own: identity.Identity,
    now: datetime,
    cloud_id: str,
    record: Record,
    document: common_pb2.SignedDocument,
) -> common_pb2.Relinquishment:
    """The relinquishment in a document, once it is the destination's and gives back exactly what it
    was handed, to this cloud.

    Raises Unauthenticated SIGNATURE_INVALID and Internal PEER_ERROR.
    """
    try:
        given = common_pb2.Relinquishment.FromString(document.payload)
        given_at = given.relinquished_at.ToDatetime(tzinfo=UTC)
    except (DecodeError, ValueError, OverflowError) as error:
        raise _not_ours(record) from error
    # It is repeated for as long as it is asked for: the certificate of then counts.
    manager = SpiffeId.parse(record.to_manager)
    identity.verify(own.trust, document, PURPOSE, manager, now=now, allow_expired_at=given_at)
    expected = common_pb2.Ownership(
        vm_id=record.vm_id, cloud_id=cloud_id, epoch=record.source_epoch + 2
    )
    if given.migration_id != record.migration_id or given.ownership != expected:
        raise _not_ours(record)
    return given


def take_back(
    connection: Connection,
    record: Record,
    recorder: Recorder,
    *,
    problem: common_pb2.Problem,
    **values: object,
) -> Record:
    """HANDED_OVER becomes TAKING_BACK: the machine is this cloud's at the epoch after the
    destination's. Its room was kept for it.

    Raises Conflict GENERATION_CONFLICT when the migration changed meanwhile, StepFailed when the
    machine is not the destination's.
    """
    epoch = record.source_epoch + 2
    returned = records.advance(
        connection,
        record,
        State.TAKING_BACK,
        recorder.now(),
        actor=recorder.actor,
        problem=problem,
        taken_back_epoch=epoch,
        **values,
    )
    taken = vms.take_back(
        connection,
        record.vm_id,
        to_cloud=recorder.cloud_id,
        from_cloud=record.to_cloud,
        epoch=epoch,
    )
    if not taken:
        raise StepFailed(Party.TRANSFER, not_owned(record))
    return returned


def problem(record: Record, given_back: common_pb2.Relinquishment) -> common_pb2.Problem:
    """Why the migration fails: what the destination says."""
    cause = given_back.cause
    return errors.to_problem(
        errors.FailedPrecondition(
            "VM_RELINQUISHED",
            f"cloud {record.to_cloud} gave the machine back without having run it: "
            f"{cause.message[:CAUSE_CHARS_MAX]}",
            hint=cause.hint[:CAUSE_CHARS_MAX]
            or "look at the destination's host, then migrate again",
            cause=cause.reason[:CAUSE_CHARS_MAX],
        )
    )


def _not_ours(record: Record) -> errors.Internal:
    return errors.Internal(
        "PEER_ERROR",
        f"cloud {record.to_cloud} gives back something else than it was handed",
        hint="tell its operator; the migration goes on when it answers as it should",
        peer=record.to_manager,
    )
