"""The destination gives a machine back that it was handed and never started.

Runs in the caller's transaction. What is recorded here is never taken back: the signed document is
the answer to the hand-over now and for ever, and this reservation activates nothing any more.
"""

from sqlalchemy.engine import Connection

from manager import audit, capacity, outbox, reservation_rows, vms
from manager.reservation import Reservation, State
from manager.store import micros
from watari import errors, identity
from watari.clock import Clock
from watari.v1 import common_pb2, manager_pb2

PURPOSE = "relinquish"


class Relinquishing:
    """Records relinquishments of one cloud."""

    def __init__(self, clock: Clock, own: identity.Identity, cloud_id: str) -> None:
        self._clock = clock
        self._own = own
        self._cloud_id = cloud_id

    def give_back(
        self,
        connection: Connection,
        row: Reservation,
        cause: errors.WatariError,
        hand_over: common_pb2.SignedDocument | None = None,
    ) -> common_pb2.SignedDocument | None:
        """Give the machine of a reservation back because of `cause`: the signed relinquishment,
        with which all of it is recorded. None when the row changed meanwhile. `hand_over` is
        recorded with it if it was not before.

        Raises FailedPrecondition EPOCH_MISMATCH when this cloud knows of a later owner.
        """
        epoch = row.request.source_epoch + 2
        self._require_ours_to_give(connection, row, epoch)
        document = self._sign(row, epoch, cause)
        moved = reservation_rows.relinquish(
            connection, row, document, hand_over or row.hand_over, micros(self._clock.now())
        )
        if not moved:
            return None
        capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
        now = micros(self._clock.now())
        discard = outbox.OwedCall(outbox.Kind.DISCARD, row.migration_id, row.host_id, row.vm_id)
        outbox.owe(connection, discard, now)
        # Until it is discarded the host may list the machine: it must not be adopted.
        vms.put(connection, _elsewhere(row, epoch, now), counted=False)
        audit.append(
            connection,
            now,
            actor=self._own.spiffe_id,
            action="reservation.relinquished",
            subject=row.reservation_id,
            details=row.told() | {"epoch": str(epoch), "reason": cause.reason},
        )
        return document

    def _sign(
        self, row: Reservation, epoch: int, cause: errors.WatariError
    ) -> common_pb2.SignedDocument:
        made = common_pb2.Relinquishment(
            migration_id=row.migration_id,
            ownership=common_pb2.Ownership(vm_id=row.vm_id, cloud_id=row.from_cloud, epoch=epoch),
            cause=errors.to_problem(cause),
        )
        made.relinquished_at.FromDatetime(self._clock.now())
        return identity.sign(self._own, made.SerializeToString(deterministic=True), PURPOSE)

    def _require_ours_to_give(self, connection: Connection, row: Reservation, epoch: int) -> None:
        """A source that handed over at an old epoch must not be told that it owns a machine that
        has been here since, or elsewhere.
        """
        known = vms.get(connection, row.vm_id)
        if known is None or (known.cloud_id != self._cloud_id and known.epoch < epoch):
            return
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"cloud {known.cloud_id} owns machine {row.vm_id} at epoch {known.epoch}",
            hint="the hand-over is of an old copy: look at the source's migration",
            epoch=known.epoch,
        )


def room_is_gone(row: Reservation) -> errors.FailedPrecondition:
    """The cause of a relinquishment when a reservation ended before the hand-over came."""
    return errors.FailedPrecondition(
        "RESERVATION_EXPIRED" if row.state is State.EXPIRED else "RESERVATION_STATE",
        f"reservation {row.reservation_id} was {row.state} before the machine was handed over",
        hint="migrate again",
        state=row.state,
    )


def _elsewhere(row: Reservation, epoch: int, now: int) -> vms.VmRow:
    return vms.VmRow(
        vm_id=row.vm_id,
        name=row.request.vm_name,
        cloud_id=row.from_cloud,
        epoch=epoch,
        host_id=row.host_id,
        tenant_domain=row.tenant_domain,
        tenant=row.request.tenant,
        migration_id=None,
        body=manager_pb2.Vm(resources=row.request.resources),
        seen_at=now,
    )
