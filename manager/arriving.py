"""What follows a recorded hand-over: from "the source has committed" to "it runs here", or back.

Durable in this order, each step idempotent, so that a crash between any two loses nothing:

1. the agent turns what has arrived into a machine of its host, ready to run if it is to, without
   executing an instruction of it;
2. one transaction: the machine is ours at epoch n+1, the reservation is used, usage is written, and
   if it is to run its start is owed. Or, when 1. fails for good, another one instead of it: the
   machine is given back (`manager.relinquishing`), and nothing here ever runs it;
3. the machine is started, and its start is owed no more.

Whoever comes first finishes it: the source that repeats its call, or this cloud's janitor.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy.engine import Connection

from manager import admission, audit, capacity, outbox, reservation_rows, takeover, usage, vms
from manager.agents import Agents
from manager.owed import OwedCalls
from manager.relinquishing import Relinquishing
from manager.reservation import Reservation, State
from manager.settings.reservations import ReservationSettings
from manager.store import Store, micros
from watari import errors, failpoint, identity, logs
from watari.clock import Clock
from watari.v1 import agent_pb2, common_pb2, manager_pb2

AFTER_ACTIVATE = failpoint.declare("manager.handover.after_activate")
AFTER_OWNED = failpoint.declare("manager.handover.after_owned")
AFTER_START = failpoint.declare("manager.handover.after_start")
BEFORE_RELINQUISH = failpoint.declare("manager.handover.before_relinquish")
AFTER_RELINQUISH = failpoint.declare("manager.handover.after_relinquish")

Outcome = manager_pb2.HandOverVmResponse

_log = logs.get(__name__)


class Arriving:
    """Makes machines of this cloud of what was handed over to it. From any thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        own: identity.Identity,
        cloud_id: str,
        agents: Agents,
        owed: OwedCalls,
        limits: ReservationSettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._own = own
        self._cloud_id = cloud_id
        self._agents = agents
        self._owed = owed
        self._seconds_max = limits.prepare_seconds_max
        self._relinquishing = Relinquishing(clock, own, cloud_id)
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def finish(self, reservation_id: str) -> Outcome:
        """Go on with a reservation until its machine is ours and was told to run, or is given back.

        Raises Unavailable while the agent is away or another call does the same, and what the agent
        answers to an activation that may still succeed.
        """
        with self._alone(reservation_id):
            row = self._read(reservation_id)
            with logs.context(migration_id=row.migration_id):
                if row.state is State.CONFIRMED:
                    self._arrive(row)
                    row = self._read(reservation_id)
                if row.relinquishment is not None:
                    return Outcome(relinquished=row.relinquishment)
                if row.state is not State.USED:
                    raise admission.wrong_state(row, State.USED)
                failpoint.hit(AFTER_OWNED)
                self._start(row)
                return Outcome(accepted=ownership(row, self._cloud_id))

    def unfinished(self) -> list[str]:
        """Reservations whose machine is to become this cloud's and has not yet."""
        with self._store.read() as connection:
            return reservation_rows.handed_over(connection)

    def require_latest(self, connection: Connection, row: Reservation) -> None:
        """Raises FailedPrecondition EPOCH_MISMATCH when the machine has been here, or elsewhere,
        since it was reserved for.
        """
        known = vms.get(connection, row.vm_id)
        admission.require_latest(ownership(row, self._cloud_id), known)

    @contextmanager
    def _alone(self, reservation_id: str) -> Iterator[None]:
        # To load saved memory takes minutes, and the source asks again meanwhile.
        with self._lock:
            if reservation_id in self._busy:
                raise errors.Unavailable(
                    "SERVER_UNAVAILABLE", "the machine is being made ready", hint="ask again"
                )
            self._busy.add(reservation_id)
        try:
            yield
        finally:
            with self._lock:
                self._busy.remove(reservation_id)

    def _arrive(self, row: Reservation) -> None:
        hand_over = handed(row, self._clock.now())
        epoch = ownership(row, self._cloud_id).epoch
        with self._store.read() as connection:
            self.require_latest(connection, row)
        try:
            self._make_way(row)
            guest = self._agents.activate(
                row.host_id, row.migration_id, epoch, prepare=hand_over.run
            )
        except errors.WatariError as error:
            self._give_up(row, hand_over, error)
            return
        failpoint.hit(AFTER_ACTIVATE)
        self._own_it(row, hand_over, guest)

    def _make_way(self, row: Reservation) -> None:
        """Have deleted what an earlier migration left on the host, if that is still owed: of a
        machine that was given back and comes again.
        """
        with self._store.read() as connection:
            calls = outbox.to_host(connection, outbox.Kind.DISCARD, row.host_id, row.vm_id)
        for call in calls:
            self._owed.make(call)
            with self._store.write() as connection:
                outbox.settle(connection, call)

    def _give_up(
        self, row: Reservation, hand_over: common_pb2.HandOver, error: errors.WatariError
    ) -> None:
        """Give the machine back, unless it may still become ready: then raises `error`."""
        now = micros(self._clock.now())
        given_up = takeover.gives_up(
            error,
            run=hand_over.run,
            kept=row.kept,
            waited_seconds=(now - (row.hand_over_at or now)) / 1_000_000,
            seconds_max=self._seconds_max,
        )
        if not given_up:
            raise error
        failpoint.hit(BEFORE_RELINQUISH)
        with self._store.write() as connection:
            current = reservation_rows.get(connection, row.reservation_id)
            if current is None or current.state is not State.CONFIRMED:
                return
            document = self._relinquishing.give_back(connection, current, error)
            admission.require_swapped(document is not None)
        failpoint.hit(AFTER_RELINQUISH)
        _log.warning("gave a machine back", vm_id=row.vm_id, reason=error.reason)

    def _own_it(
        self, row: Reservation, hand_over: common_pb2.HandOver, guest: agent_pb2.Guest
    ) -> None:
        machine = self._machine(row, guest)
        with self._store.write() as connection:
            current = reservation_rows.get(connection, row.reservation_id)
            if current is None or current.state is not State.CONFIRMED:
                return  # Somebody else was here first: used, or given back.
            self.require_latest(connection, row)
            now = micros(self._clock.now())
            admission.require_swapped(reservation_rows.move(connection, current, State.USED))
            capacity.settle_storage(connection, row.host_id, row.reservation_id)
            capacity.give_back(connection, capacity.RESERVATION, row.reservation_id)
            vms.put(connection, machine, counted=True)
            if hand_over.run:
                start = outbox.OwedCall(outbox.Kind.START, row.migration_id, row.host_id, row.vm_id)
                outbox.owe(connection, start, now)
            self._note(connection, current, hand_over, machine.epoch)
            record = usage.of_hand_over(
                usage.ARRIVED,
                machine.message(),
                cloud_id=self._cloud_id,
                peer_cloud=row.from_cloud,
                hand_over=hand_over,
                price_version=row.price_version,
            )
            usage.write(connection, record, machine.tenant_domain)
        _log.info("took a machine over", vm_id=machine.vm_id, epoch=machine.epoch)

    def _start(self, row: Reservation) -> None:
        """Make the start that is owed. While the host does not answer, neither do we: the source is
        to know when the machine runs. What the host refuses is repeated by the janitor.
        """
        with self._store.read() as connection:
            call = outbox.find(connection, outbox.Kind.START, row.migration_id)
        if call is None:
            return
        try:
            self._owed.make(call)
        except errors.WatariError as error:
            if error.retryable:
                raise
            _log.error("arrived and not started yet", reason=error.reason, problem=error.message)
            return
        failpoint.hit(AFTER_START)
        with self._store.write() as connection:
            outbox.settle(connection, call)

    def _note(
        self,
        connection: Connection,
        row: Reservation,
        hand_over: common_pb2.HandOver,
        epoch: int,
    ) -> None:
        audit.append(
            connection,
            micros(self._clock.now()),
            actor=self._own.spiffe_id,
            action="reservation.used",
            subject=row.reservation_id,
            details=row.told() | told(hand_over, epoch),
        )

    def _machine(self, row: Reservation, guest: agent_pb2.Guest) -> vms.VmRow:
        disks = guest.disks or [disk for disk in row.request.disks if not disk.kind]
        return vms.VmRow(
            vm_id=row.vm_id,
            name=row.request.vm_name,
            cloud_id=self._cloud_id,
            epoch=row.request.source_epoch + 1,
            host_id=row.host_id,
            tenant_domain=row.tenant_domain,
            tenant=row.request.tenant,
            migration_id=None,
            # What was admitted is what is charged until the host is looked at again.
            body=manager_pb2.Vm(
                state=vms.state_text(guest.state), resources=row.needs, disks=disks
            ),
            seen_at=micros(self._clock.now()),
        )

    def _read(self, reservation_id: str) -> Reservation:
        with self._store.read() as connection:
            row = reservation_rows.get(connection, reservation_id)
        assert row is not None  # noqa: S101 - reservations are never deleted
        return row


def handed(row: Reservation, now: datetime) -> common_pb2.HandOver:
    """The recorded hand-over; what is known of it where an operator took the machine over."""
    if row.hand_over is not None:
        return common_pb2.HandOver.FromString(row.hand_over.payload)
    made = common_pb2.HandOver(migration_id=row.migration_id, reservation_id=row.reservation_id)
    made.committed_at.FromDatetime(now)
    return made


def ownership(row: Reservation, cloud_id: str) -> common_pb2.Ownership:
    """Who owns the machine once the reservation is used."""
    return common_pb2.Ownership(
        vm_id=row.vm_id, cloud_id=cloud_id, epoch=row.request.source_epoch + 1
    )


def told(hand_over: common_pb2.HandOver, epoch: int) -> dict[str, str]:
    """What the audit log says of a hand-over."""
    receipt = common_pb2.Receipt.FromString(hand_over.receipt.payload)
    root = {"receipt_root": receipt.root.hex()} if receipt.root else {}
    return {"epoch": str(epoch)} | root
