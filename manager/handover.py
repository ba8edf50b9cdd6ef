"""The destination's side of a hand-over: what is believed, and that it is recorded first.

From the recorded hand-over on the reservation cannot be released. What follows from it is
`manager.arriving`'s; one that comes when the room is gone is answered with a relinquishment.
"""

from datetime import UTC

from sqlalchemy.engine import Connection

from manager import admission, audit, relinquishing, reservation_rows, takeover
from manager.arriving import Arriving, told
from manager.relinquishing import Relinquishing
from manager.reservation import Reservation, State
from manager.store import Store, micros
from manager.takeover import Answer
from watari import errors, failpoint, identity, validate
from watari.clock import Clock
from watari.v1 import common_pb2, manager_pb2

PURPOSE = "hand-over"
RECEIPT_PURPOSE = "receipt"

BEFORE_RECORD = failpoint.declare("manager.handover.before_record")
AFTER_RECORD = failpoint.declare("manager.handover.after_record")


class HandOvers:
    """Takes over machines that other clouds hand to this one."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        own: identity.Identity,
        cloud_id: str,
        arriving: Arriving,
    ) -> None:
        self._store = store
        self._clock = clock
        self._own = own
        self._cloud_id = cloud_id
        self._arriving = arriving
        self._relinquishing = Relinquishing(clock, own, cloud_id)

    def accept(
        self, document: common_pb2.SignedDocument, caller: identity.SpiffeId
    ) -> manager_pb2.HandOverVmResponse:
        """Take a machine over: the ownership that holds then, or the signed relinquishment when the
        machine is given back. Idempotent: the answer is the same for ever.

        Raises NotFound RESERVATION_NOT_FOUND, Unauthenticated SIGNATURE_INVALID, FailedPrecondition
        RESERVATION_STATE and EPOCH_MISMATCH, and what `Arriving.finish` does; the hand-over is
        recorded all the same then.
        """
        hand_over = _parse(document)
        with self._store.read() as connection:
            row = reservation_rows.get(connection, hand_over.reservation_id)
        if row is None or row.requested_by != str(caller):
            raise admission.not_found(hand_over.reservation_id)
        self._verify(document, hand_over, row, caller)
        failpoint.hit(BEFORE_RECORD)
        self._record(row.reservation_id, document, caller)
        failpoint.hit(AFTER_RECORD)
        return self._arriving.finish(row.reservation_id)

    def _verify(
        self,
        document: common_pb2.SignedDocument,
        hand_over: common_pb2.HandOver,
        row: Reservation,
        caller: identity.SpiffeId,
    ) -> None:
        # The caller proves itself by its present certificate; the document, which is repeated for
        # as long as it takes, by the one that was valid when the source committed.
        committed_at = hand_over.committed_at.ToDatetime(tzinfo=UTC)
        now = self._clock.now()
        identity.verify(
            self._own.trust, document, PURPOSE, caller, now=now, allow_expired_at=committed_at
        )
        grant = common_pb2.Grant.FromString(row.grant.payload)
        payload, _ = identity.verify(
            self._own.trust,
            hand_over.receipt,
            RECEIPT_PURPOSE,
            identity.SpiffeId.parse(grant.destination_agent),
            now=now,
            allow_expired_at=committed_at,
        )
        receipt = common_pb2.Receipt.FromString(payload)
        _require_agreement(self._cloud_id, hand_over, receipt, row)

    def _record(
        self,
        reservation_id: str,
        document: common_pb2.SignedDocument,
        caller: identity.SpiffeId,
    ) -> None:
        with self._store.write() as connection:
            row = reservation_rows.get(connection, reservation_id)
            assert row is not None  # noqa: S101 - reservations are never deleted
            recorded = None if row.hand_over is None else row.hand_over.payload
            match takeover.on_hand_over(row.state, recorded, document.payload):
                case Answer.RECORD:
                    now = micros(self._clock.now())
                    kept = reservation_rows.record_hand_over(connection, row, document, now)
                    admission.require_swapped(kept)
                    self._note(connection, row, document, caller)
                case Answer.RELINQUISH:
                    # The room is gone; nothing of it was ever activated, and never will be.
                    given = self._relinquishing.give_back(
                        connection, row, relinquishing.room_is_gone(row), document
                    )
                    admission.require_swapped(given is not None)
                case Answer.REFUSE:
                    raise admission.wrong_state(row, State.CONFIRMED)
                case Answer.GO_ON | Answer.RELINQUISHED:
                    pass

    def _note(
        self,
        connection: Connection,
        row: Reservation,
        document: common_pb2.SignedDocument,
        actor: identity.SpiffeId,
    ) -> None:
        hand_over = common_pb2.HandOver.FromString(document.payload)
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=actor,
            action="hand_over.accepted",
            subject=row.reservation_id,
            details=row.told() | told(hand_over, hand_over.ownership.epoch),
        )


def _parse(document: common_pb2.SignedDocument) -> common_pb2.HandOver:
    try:
        hand_over = common_pb2.HandOver.FromString(document.payload)
    except ValueError as error:
        raise validate.invalid_field(
            "hand_over", "is no HandOver", "send the contract's"
        ) from error
    validate.require_uuid(hand_over.reservation_id, "hand_over.reservation_id")
    return hand_over


def _require_agreement(
    cloud_id: str,
    hand_over: common_pb2.HandOver,
    receipt: common_pb2.Receipt,
    row: Reservation,
) -> None:
    epoch = row.request.source_epoch + 1
    epochs = (hand_over.ownership.epoch, receipt.destination_epoch)
    if epochs != (epoch, epoch):
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"handed over at epochs {epochs}, reserved for epoch {epoch}",
            hint="the source's records disagree: look at its migration",
            epoch=epoch,
        )
    agreed = (row.migration_id, row.vm_id)
    told = (hand_over.migration_id, hand_over.ownership.vm_id)
    if not agreed == told == (receipt.migration_id, receipt.vm_id):
        raise validate.invalid_field("hand_over", "names another machine", "look at the migration")
    if hand_over.ownership.cloud_id != cloud_id:
        raise validate.invalid_field("hand_over", "names another cloud", f"this is {cloud_id}")
