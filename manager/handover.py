"""The destination's side of a hand-over: from "the source has committed" to "we own it".

Durable in this order, each step idempotent, so that a crash between any two loses nothing:

1. the signed hand-over is recorded at the reservation; from then on it cannot be released;
2. the agent turns what has arrived into a machine of its host;
3. one transaction: the machine is ours at epoch n+1, the reservation is used, usage is written.

Whoever comes first finishes it: the source that repeats its call, or this cloud's janitor.
"""

from datetime import UTC

from sqlalchemy.engine import Connection

from manager import admission, audit, capacity, reservation_rows, usage, vms
from manager.agents import Agents
from manager.reservation_rows import Reservation, State
from manager.store import Store, micros
from watari import errors, failpoint, identity, logs, validate
from watari.clock import Clock
from watari.v1 import agent_pb2, common_pb2, manager_pb2

PURPOSE = "hand-over"
RECEIPT_PURPOSE = "receipt"

BEFORE_RECORD = failpoint.declare("manager.handover.before_record")
AFTER_RECORD = failpoint.declare("manager.handover.after_record")
AFTER_ACTIVATE = failpoint.declare("manager.handover.after_activate")
AFTER_OWNED = failpoint.declare("manager.handover.after_owned")

_log = logs.get(__name__)


class HandOvers:
    """Takes over machines that other clouds hand to this one."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        own: identity.Identity,
        cloud_id: str,
        agents: Agents,
    ) -> None:
        self._store = store
        self._clock = clock
        self._own = own
        self._cloud_id = cloud_id
        self._agents = agents

    def accept(
        self, document: common_pb2.SignedDocument, caller: identity.SpiffeId
    ) -> common_pb2.Ownership:
        """Take a machine over; the ownership that holds then. Idempotent.

        Raises NotFound RESERVATION_NOT_FOUND, Unauthenticated SIGNATURE_INVALID, FailedPrecondition
        RESERVATION_STATE and EPOCH_MISMATCH, Unavailable while the agent cannot be reached; the
        hand-over is recorded all the same then.
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
        return self.finish(row.reservation_id)

    def finish(self, reservation_id: str) -> common_pb2.Ownership:
        """Steps 2 and 3 of a recorded hand-over. Raises Unavailable while the agent is away."""
        with self._store.read() as connection:
            row = reservation_rows.get(connection, reservation_id)
        assert row is not None  # noqa: S101 - recorded hand-overs have a reservation
        hand_over = _recorded(row)
        if row.state is not State.USED:
            with logs.context(migration_id=row.migration_id):
                guest = self._agents.activate(
                    row.host_id, row.migration_id, hand_over.ownership.epoch
                )
                failpoint.hit(AFTER_ACTIVATE)
                self._own_it(row, hand_over, guest)
        failpoint.hit(AFTER_OWNED)
        return hand_over.ownership

    def unfinished(self) -> list[str]:
        """Reservations whose hand-over is recorded and not finished."""
        with self._store.read() as connection:
            return reservation_rows.handed_over(connection)

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
            if row.hand_over is not None:
                if row.hand_over.payload != document.payload:
                    raise admission.wrong_state(row, State.CONFIRMED)
                return
            if row.state is not State.CONFIRMED:
                raise admission.wrong_state(row, State.CONFIRMED)
            recorded = reservation_rows.record_hand_over(connection, row, document)
            admission.require_swapped(recorded)
            self._note(connection, "hand_over.accepted", row, document, caller)

    def _own_it(
        self, row: Reservation, hand_over: common_pb2.HandOver, guest: agent_pb2.Guest
    ) -> None:
        machine = self._machine(row, hand_over, guest)
        with self._store.write() as connection:
            current = reservation_rows.get(connection, row.reservation_id)
            if current is None or current.state is State.USED:
                return  # The janitor and the repeated call met here.
            self._take(connection, current, machine)
            assert current.hand_over is not None  # noqa: S101 - recorded before it is finished
            own = self._own.spiffe_id
            self._note(connection, "reservation.used", current, current.hand_over, own)
            record = usage.of_hand_over(
                usage.ARRIVED,
                machine.message(),
                cloud_id=self._cloud_id,
                peer_cloud=row.from_cloud,
                hand_over=hand_over,
            )
            usage.write(connection, record, machine.tenant_domain)
        _log.info("took a machine over", vm_id=machine.vm_id, epoch=machine.epoch)

    def _note(
        self,
        connection: Connection,
        action: str,
        row: Reservation,
        document: common_pb2.SignedDocument,
        actor: identity.SpiffeId,
    ) -> None:
        hand_over = common_pb2.HandOver.FromString(document.payload)
        receipt = common_pb2.Receipt.FromString(hand_over.receipt.payload)
        more = {"epoch": str(hand_over.ownership.epoch), "receipt_root": receipt.root.hex()}
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=actor,
            action=action,
            subject=row.reservation_id,
            details=reservation_rows.told(row) | more,
        )

    def _take(self, connection: Connection, row: Reservation, machine: vms.VmRow) -> None:
        admission.require_swapped(reservation_rows.move(connection, row, State.USED))
        capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
        vms.put(connection, machine, counted=True)

    def _machine(
        self, row: Reservation, hand_over: common_pb2.HandOver, guest: agent_pb2.Guest
    ) -> vms.VmRow:
        return vms.VmRow(
            vm_id=row.vm_id,
            name=row.request.vm_name,
            cloud_id=self._cloud_id,
            epoch=hand_over.ownership.epoch,
            host_id=row.host_id,
            tenant_domain=row.tenant_domain,
            tenant=row.request.tenant,
            migration_id=None,
            # What was admitted is what is charged until the host is looked at again.
            body=manager_pb2.Vm(
                state=vms.state_text(guest.state),
                resources=row.request.resources,
                disks=guest.disks or row.request.disks,
            ),
            seen_at=micros(self._clock.now()),
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


def _recorded(row: Reservation) -> common_pb2.HandOver:
    assert row.hand_over is not None  # noqa: S101 - callers pass recorded ones only
    return common_pb2.HandOver.FromString(row.hand_over.payload)


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
