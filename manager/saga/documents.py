"""What the saga says to others, and what it makes of their answers: functions of values."""

from datetime import datetime

from manager import grants, usage
from manager.peers import Peer
from manager.saga import steps
from manager.saga.record import Record
from manager.store import micros
from watari import errors, validate
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2, manager_pb2


def peer(record: Record) -> Peer:
    """The destination, and the one manager that may speak for it in this migration."""
    return Peer(record.to_cloud, SpiffeId.parse(record.to_manager))


def reserve_request(
    record: Record,
    guest: agent_pb2.Guest,
    *,
    from_cloud: str,
    source_agent: str,
    ttl_seconds: int,
) -> manager_pb2.ReserveRequest:
    """What is asked of the destination for a machine that is held."""
    asked = record.request
    return manager_pb2.ReserveRequest(
        reservation_id=steps.reservation_id(record),
        migration_id=record.migration_id,
        from_cloud=from_cloud,
        vm_id=record.vm_id,
        vm_name=record.vm_name,
        tenant_domain=record.tenant_domain,
        tenant=record.tenant,
        source_epoch=record.source_epoch,
        resources=guest.resources,
        disks=guest.disks,
        source_agent=source_agent,
        ttl_seconds=ttl_seconds,
        quote=asked.quote if asked.HasField("quote") else None,
        required_traits=asked.required_traits,
        forbidden_traits=asked.forbidden_traits,
    )


def hand_over(record: Record, committed_at: datetime) -> common_pb2.HandOver:
    """What is signed at the commit point."""
    made = common_pb2.HandOver(
        migration_id=record.migration_id,
        reservation_id=steps.reservation_id(record),
        ownership=common_pb2.Ownership(
            vm_id=record.vm_id, cloud_id=record.to_cloud, epoch=record.source_epoch + 1
        ),
        receipt=record.receipt,
        run=record.stopped_at is not None,
    )
    made.committed_at.FromDatetime(committed_at)
    return made


def stopped_at(transfer: agent_pb2.Transfer, now: datetime) -> int | None:
    """When a transfer stopped the machine, in microseconds since 1970, as far as that may be: not
    after `now`. None for a machine that did not run.
    """
    if not transfer.HasField("stopped_at"):
        return None
    return min(transfer.stopped_at.ToMicroseconds(), micros(now))


def usage_left(
    record: Record, handed: common_pb2.HandOver, from_cloud: str
) -> manager_pb2.UsageRecord:
    """What is metered at the source; the resources are those that were reserved."""
    assert record.reserve_request is not None  # noqa: S101 - nothing commits without one
    machine = manager_pb2.Vm(
        vm_id=record.vm_id,
        name=record.vm_name,
        tenant=record.tenant,
        resources=record.reserve_request.resources,
    )
    return usage.of_hand_over(
        usage.LEFT, machine, cloud_id=from_cloud, peer_cloud=record.to_cloud, hand_over=handed
    )


def require_live(reservation: manager_pb2.Reservation) -> None:
    """Raises FailedPrecondition RESERVATION_EXPIRED when a repeated Reserve finds it ended."""
    live = (manager_pb2.RESERVATION_STATE_PENDING, manager_pb2.RESERVATION_STATE_CONFIRMED)
    if reservation.state not in live:
        state = manager_pb2.ReservationState.Name(reservation.state)
        raise errors.FailedPrecondition(
            "RESERVATION_EXPIRED",
            f"the reservation at the destination is {state} already",
            hint="migrate again with a new id",
            state=state,
        )


def require_endpoint(grant: common_pb2.SignedGrant, control: common_pb2.Endpoint) -> None:
    """Raises InvalidArgument GRANT_INVALID unless the agent to call is the one that is granted."""
    if control.spiffe_id != grants.read(grant.granted).destination_agent:
        raise errors.InvalidArgument(
            "GRANT_INVALID",
            "the destination names another agent than it grants",
            hint="tell the destination's operator; nothing was moved",
        )


def data_endpoint(told: common_pb2.Endpoint) -> common_pb2.Endpoint | None:
    """Where the destination says it takes sealed frames; None when it does not, or unusably.

    It only saves a round trip: the session that the agents open counts.
    """
    try:
        return common_pb2.Endpoint(
            address=validate.require_address(told.address, "agent_data.address")
        )
    except errors.InvalidArgument:
        return None


def require_accepted(
    record: Record, answer: manager_pb2.HandOverVmResponse, expected: common_pb2.Ownership
) -> None:
    """Raises Internal PEER_ERROR unless the destination owns exactly what it was handed."""
    if answer.accepted != expected:
        raise errors.Internal(
            "PEER_ERROR",
            f"cloud {record.to_cloud} did not accept the machine that was handed over to it",
            hint="its operator must look; until then nobody may start the machine",
            peer=record.to_manager,
        )


def not_owned(record: Record) -> errors.FailedPrecondition:
    """The error when the machine's row is not what the migration began with."""
    return errors.FailedPrecondition(
        "EPOCH_MISMATCH",
        f"this cloud does not own machine {record.vm_id} at epoch {record.source_epoch}",
        hint="look at the machine's other migrations",
        epoch=record.source_epoch,
    )
