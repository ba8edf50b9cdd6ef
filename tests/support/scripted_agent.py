"""An agent for tests of the managers' protocol: real gRPC, machines in memory, outcomes by script.

It keeps the contract's rules on holds, retirement and activation strictly, so that a manager that
breaks one is refused. What it moves is a claim that content was moved: tests of content use the
real agent.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from agent import distance
from tests.conftest import Federation
from watari import errors, identity
from watari.clock import SystemClock
from watari.rpc import Server, Target
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

GIB = 1024**3
HANGS, FAILS, BREAKS, LIES = "hangs", "fails", "breaks", "lies"
"""Outcomes of an attempt: copying until cancelled, a retryable failure, a final failure, a receipt
that does not match. Without one, an attempt succeeds."""

DIRECTORY: dict[str, "ScriptedAgent"] = {}
"""Running agents by SPIFFE id: the "network" between them."""


@dataclass
class Arrival:
    """What was received for a migration."""

    guest: agent_pb2.Guest
    complete: bool = False


@dataclass
class ScriptedAgent(agent_pb2_grpc.AgentServiceServicer):
    """One host."""

    federation: Federation
    domain: str
    cloud_id: str
    port: int
    host_id: str = "host1"
    total: common_pb2.Resources = field(
        default_factory=lambda: common_pb2.Resources(
            vcpus=8, memory_bytes=16 * GIB, disk_bytes=100 * GIB
        )
    )
    guests: dict[str, agent_pb2.Guest] = field(default_factory=dict)
    retained: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, agent_pb2.Transfer] = field(default_factory=dict)
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    activated: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    script: deque[str] = field(default_factory=deque)
    attempts: int = 0
    settled: deque[int] = field(default_factory=deque)
    """Bytes that each of the next attempts settles before it fails."""
    measured: common_pb2.Progress = field(default_factory=common_pb2.Progress)
    """What every attempt tells besides."""
    orders: list[agent_pb2.StartTransferRequest] = field(default_factory=list)
    limits: list[agent_pb2.SetTransferLimitRequest] = field(default_factory=list)
    estimates: list[agent_pb2.EstimateTransferRequest] = field(default_factory=list)
    estimated: agent_pb2.EstimateTransferResponse | errors.WatariError = field(
        default_factory=agent_pb2.EstimateTransferResponse
    )
    estimating: threading.Event = field(default_factory=threading.Event)
    """Estimates are answered while it is set."""
    modes: list[int] = field(default_factory=list)
    """How machines were held, in order."""
    runs: bool = True
    """Whether machines can run here; a shelf's cannot."""
    refusing: dict[str, deque[errors.WatariError]] = field(default_factory=dict)
    """What the next calls of a method are answered with, before anything is done."""
    provisional: set[str] = field(default_factory=set)
    """Machines that were prepared and have not executed an instruction."""
    ran: list[str] = field(default_factory=list)
    """Machines that executed one, in order."""
    here_at: dict[str, int] = field(default_factory=dict)
    """Epoch at which a machine came last."""
    events: list[agent_pb2.HostEvent] = field(default_factory=list)
    """What its log has, all of it or what is left."""
    log_id: str = "6f1f2d2e-0000-4000-8000-0000000000e0"
    dropped: int = 0
    """Events that its log had and lost."""
    readings: list[agent_pb2.ListEventsRequest] = field(default_factory=list)
    _server: Server | None = None

    def __post_init__(self) -> None:
        self.spiffe_id = f"spiffe://{self.domain}/agent/{self.host_id}"
        self.identity = self.federation.party(self.spiffe_id)
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.estimating.set()

    @property
    def target(self) -> Target:
        """Where it answers."""
        return Target(f"127.0.0.1:{self.port}", self.identity.spiffe_id)

    def start(self) -> None:
        """Answer from now on."""
        DIRECTORY[self.spiffe_id] = self
        self._server = Server(
            "agent",
            self.identity,
            f"127.0.0.1:{self.port}",
            clock=SystemClock(),
            servicers=lambda server: agent_pb2_grpc.add_AgentServiceServicer_to_server(
                self, server
            ),
        )
        self._server.start()

    def stop(self) -> None:
        """Answer no more; what it holds stays, transfers break."""
        DIRECTORY.pop(self.spiffe_id, None)
        if self._server is None:
            return
        with self.changed:
            for transfer in self.transfers.values():
                if transfer.state == agent_pb2.TRANSFER_STATE_COPYING:
                    transfer.state = agent_pb2.TRANSFER_STATE_FAILED
                    transfer.problem.reason, transfer.problem.retryable = "PEER_UNAVAILABLE", True
            self.changed.notify_all()
        self._server.stop(0).wait(10)
        self._server = None

    def add(
        self,
        vm_id: str,
        name: str,
        *,
        vcpus: int = 2,
        running: bool = False,
        memory_bytes: int = GIB,
        tenant: str = "acme",
    ) -> None:
        """Put a machine on the host."""
        disk = common_pb2.DiskSpec(
            disk_id="vda", size_bytes=4 * GIB, allocated_bytes=GIB, format="raw"
        )
        self.guests[vm_id] = agent_pb2.Guest(
            vm_id=vm_id,
            name=name,
            state=agent_pb2.GUEST_STATE_RUNNING if running else agent_pb2.GUEST_STATE_SHUT_OFF,
            resources=common_pb2.Resources(
                vcpus=vcpus, memory_bytes=memory_bytes, disk_bytes=disk.size_bytes
            ),
            disks=[disk],
            tenant=tenant,
        )

    def can_start(self, vm_id: str) -> bool:
        """Whether somebody could start the machine here."""
        with self.lock:
            return vm_id in self.guests and not self.guests[vm_id].held_by

    def is_running(self, vm_id: str) -> bool:
        """Whether the machine runs here."""
        with self.lock:
            guest = self.guests.get(vm_id)
            return guest is not None and guest.state == agent_pb2.GUEST_STATE_RUNNING

    def refuse(self, method: str, *answers: errors.WatariError) -> None:
        """Answer the next calls of a method so."""
        self.refusing.setdefault(method, deque()).extend(answers)

    def _answer(self, method: str) -> None:
        if self.refusing.get(method):
            raise self.refusing[method].popleft()

    def GetHost(self, request, context):
        return agent_pb2.GetHostResponse(
            host=agent_pb2.Host(
                host_id=self.host_id,
                cloud_id=self.cloud_id,
                driver="shelf",
                total=self.total,
                storage_free_bytes=self.total.disk_bytes,
                control=common_pb2.Endpoint(
                    address=f"127.0.0.1:{self.port}", spiffe_id=self.spiffe_id
                ),
                data=common_pb2.Endpoint(address=f"127.0.0.1:{self.port + 1}"),
                traits=["driver:shelf"],
                spiffe_id=self.spiffe_id,
            )
        )

    def ListGuests(self, request, context):
        """Two a page, so that paging is always exercised."""
        with self.lock:
            ordered = sorted(self.guests.values(), key=lambda guest: (guest.name, guest.vm_id))
        start = int(request.page_token or 0)
        more = str(start + 2) if start + 2 < len(ordered) else ""
        return agent_pb2.ListGuestsResponse(guests=ordered[start : start + 2], next_page_token=more)

    def GetGuest(self, request, context):
        with self.lock:
            return agent_pb2.GetGuestResponse(guest=self._guest(request.vm_id))

    def tell(self, kind: str, vm_id: str, *, at: datetime | None = None, **fields: object) -> None:
        """Put an event into the log, as of now unless it was before."""
        with self.lock:
            event = agent_pb2.HostEvent(
                sequence=self.dropped + len(self.events) + 1,
                kind=f"HOST_EVENT_KIND_{kind}",
                vm_id=vm_id,
                **fields,
            )
            event.occurred_at.FromDatetime(at or self.federation.clock.now())
            self.events.append(event)

    def drop(self, count: int) -> None:
        """Lose the oldest events."""
        with self.lock:
            del self.events[:count]
            self.dropped += count

    def ListEvents(self, request, context):
        with self.lock:
            self.readings.append(request)
            self._answer("ListEvents")
            after = request.after_sequence if request.log_id == self.log_id else 0
            found = [event for event in self.events if event.sequence > after]
            return agent_pb2.ListEventsResponse(
                events=found[: request.page_size],
                log_id=self.log_id,
                first_sequence=self.dropped + 1,
                last_sequence=self.dropped + len(self.events),
            )

    def MeasureRoundTrip(self, request, context):
        self._answer("MeasureRoundTrip")
        return distance.measure(request)

    def EstimateTransfer(self, request, context):
        """As the real agent, it wants both signatures and a grant that is for nothing else."""
        with self.lock:
            self._guest(request.vm_id)
            grant = self._checked(request.grant)
            assert grant.estimate_only
            assert not grant.reservation_id
            self.estimates.append(request)
        while not self.estimating.wait(0.05):
            if not context.is_active():
                raise errors.Cancelled("CANCELLED", "called off")
        if isinstance(self.estimated, errors.WatariError):
            raise self.estimated
        return self.estimated

    def SetTransferLimit(self, request, context):
        with self.lock:
            self.limits.append(request)
            return agent_pb2.SetTransferLimitResponse()

    def HoldGuest(self, request, context):
        with self.lock:
            self._answer("HoldGuest")
            guest = self._guest(request.vm_id)
            if guest.held_by not in ("", request.migration_id):
                raise errors.FailedPrecondition("VM_BUSY", f"held by {guest.held_by}")
            if request.mode == common_pb2.MIGRATION_MODE_SUSPEND and not self.is_running(
                request.vm_id
            ):
                raise errors.FailedPrecondition("VM_NOT_RUNNING", "it is off")
            self.modes.append(request.mode)
            guest.held_by = request.migration_id
            answer = agent_pb2.HoldGuestResponse(guest=guest)
            if request.mode == common_pb2.MIGRATION_MODE_SUSPEND:
                memory = guest.resources.memory_bytes
                answer.guest.disks.add(
                    disk_id="memory",
                    size_bytes=memory,
                    format="raw",
                    kind=common_pb2.DISK_KIND_MEMORY,
                )
                answer.guest.resources.disk_bytes += memory
            return answer

    def UnholdGuest(self, request, context):
        with self.lock:
            self._answer("UnholdGuest")
            guest = self._guest(request.vm_id)
            if guest.held_by == request.migration_id:
                guest.held_by, guest.epoch = "", request.epoch or guest.epoch
                if guest.stopped_by_hold:
                    guest.stopped_by_hold, guest.state = False, agent_pb2.GUEST_STATE_RUNNING
                    self.ran.append(guest.vm_id)
            return agent_pb2.UnholdGuestResponse()

    def RetireGuest(self, request, context):
        with self.lock:
            if self.retained.get(request.vm_id) == request.migration_id:
                return agent_pb2.RetireGuestResponse()
            guest = self._guest(request.vm_id)
            if guest.held_by != request.migration_id:
                raise errors.FailedPrecondition("VM_BUSY", "not held by this migration")
            del self.guests[request.vm_id]
            self.retained[request.vm_id] = request.migration_id
            return agent_pb2.RetireGuestResponse()

    def ListRetained(self, request, context):
        with self.lock:
            kept = [
                agent_pb2.Retained(vm_id=vm_id, migration_id=migration_id, name="web-1")
                for vm_id, migration_id in self.retained.items()
            ]
        return agent_pb2.ListRetainedResponse(retained=kept)

    def PurgeRetained(self, request, context):
        with self.lock:
            if self.retained.get(request.vm_id) == request.migration_id:
                del self.retained[request.vm_id]
            return agent_pb2.PurgeRetainedResponse()

    def StartGuest(self, request, context):
        with self.lock:
            self._answer("StartGuest")
            if not self.runs:
                raise errors.Unimplemented("NOT_SERVED", "a shelf runs nothing")
            guest = self._guest(request.vm_id)
            self._require_meant(guest, request)
            if guest.state != agent_pb2.GUEST_STATE_RUNNING:
                guest.state = agent_pb2.GUEST_STATE_RUNNING
                self.ran.append(guest.vm_id)
            self.provisional.discard(guest.vm_id)
            return agent_pb2.StartGuestResponse(guest=guest)

    def StopGuest(self, request, context):
        with self.lock:
            self._answer("StopGuest")
            guest = self._guest(request.vm_id)
            self._require_meant(guest, request)
            self.provisional.discard(guest.vm_id)
            guest.state = agent_pb2.GUEST_STATE_SHUT_OFF
            return agent_pb2.StopGuestResponse(guest=guest)

    def StartTransfer(self, request, context):
        with self.changed:
            guest = self._guest(request.vm_id)
            if guest.held_by != request.migration_id:
                raise errors.FailedPrecondition("VM_BUSY", "not held by this migration")
            grant = self._checked(request.grant)
            assert not grant.estimate_only
            assert grant.source_epoch == max(guest.epoch, 1)
            self.orders.append(request)
            known = self.transfers.get(request.migration_id)
            if known is None or known.state == agent_pb2.TRANSFER_STATE_FAILED:
                known = self._attempt(grant, guest)
                self.transfers[request.migration_id] = known
                self.changed.notify_all()
            return agent_pb2.StartTransferResponse(transfer=known)

    def WatchTransfer(self, request, context) -> Iterator[agent_pb2.WatchTransferResponse]:
        sent = None
        while context.is_active():
            with self.changed:
                transfer = self.transfers.get(request.migration_id)
                if transfer is None:
                    raise errors.NotFound("TRANSFER_NOT_FOUND", "no such transfer")
                if transfer == sent:
                    self.changed.wait(0.05)
                    continue
                sent = agent_pb2.Transfer()
                sent.CopyFrom(transfer)
            yield agent_pb2.WatchTransferResponse(transfer=sent)
            if sent.state >= agent_pb2.TRANSFER_STATE_SUCCEEDED:
                return

    def CancelTransfer(self, request, context):
        with self.changed:
            transfer = self.transfers.get(request.migration_id)
            if transfer is None:
                raise errors.NotFound("TRANSFER_NOT_FOUND", "no such transfer")
            if transfer.state == agent_pb2.TRANSFER_STATE_COPYING:
                transfer.state = agent_pb2.TRANSFER_STATE_CANCELLED
                self.changed.notify_all()
            return agent_pb2.CancelTransferResponse(transfer=transfer)

    def ListIncoming(self, request, context):
        with self.lock:
            return agent_pb2.ListIncomingResponse(
                incoming=[
                    agent_pb2.Incoming(
                        migration_id=migration_id,
                        vm_id=arrival.guest.vm_id,
                        complete=arrival.complete,
                    )
                    for migration_id, arrival in sorted(self.arrivals.items())
                ]
            )

    def ActivateIncoming(self, request, context):
        with self.lock:
            vm_id = self.activated.get(request.migration_id)
            if vm_id is not None:
                self._prepare(vm_id, request)
                return agent_pb2.ActivateIncomingResponse(guest=self.guests.get(vm_id))
            self._answer("ActivateIncoming")
            arrival = self.arrivals.get(request.migration_id)
            if arrival is None:
                raise errors.NotFound("TRANSFER_NOT_FOUND", "nothing has arrived")
            if not arrival.complete or arrival.guest.vm_id in self.guests:
                raise errors.FailedPrecondition("MIGRATION_STATE", "incomplete or in the way")
            guest = arrival.guest
            guest.epoch, guest.held_by = request.epoch, ""
            guest.stopped_by_hold, guest.state = False, agent_pb2.GUEST_STATE_SHUT_OFF
            self.guests[guest.vm_id] = guest
            self.activated[request.migration_id] = guest.vm_id
            self.here_at[guest.vm_id] = request.epoch
            del self.arrivals[request.migration_id]
            if request.prepare:
                self.provisional.add(guest.vm_id)
            self._prepare(guest.vm_id, request)
            return agent_pb2.ActivateIncomingResponse(guest=guest)

    def DiscardIncoming(self, request, context):
        with self.lock:
            self._answer("DiscardIncoming")
            vm_id = self.activated.get(request.migration_id)
            if vm_id in self.provisional:
                self.provisional.remove(vm_id)
                del self.guests[vm_id], self.activated[request.migration_id]
            elif vm_id is not None:
                raise errors.FailedPrecondition("MIGRATION_COMMITTED", "activated already")
            self.arrivals.pop(request.migration_id, None)
            self.refused.add(request.migration_id)
            return agent_pb2.DiscardIncomingResponse()

    def _prepare(self, vm_id: str, request: agent_pb2.ActivateIncomingRequest) -> None:
        """Ready to run, without an instruction; one that has run is left alone."""
        if request.prepare and vm_id in self.provisional:
            self._answer("prepare")
            self.guests[vm_id].state = agent_pb2.GUEST_STATE_PAUSED

    def _require_meant(
        self,
        guest: agent_pb2.Guest,
        request: agent_pb2.StartGuestRequest | agent_pb2.StopGuestRequest,
    ) -> None:
        if guest.held_by:
            raise errors.FailedPrecondition("VM_BUSY", f"held by {guest.held_by}")
        if request.epoch not in (0, max(guest.epoch, 1)):
            raise errors.FailedPrecondition("EPOCH_MISMATCH", f"at epoch {guest.epoch}")
        named = self.activated.get(request.migration_id) == guest.vm_id or request.epoch
        if guest.vm_id in self.provisional and not named:
            raise errors.FailedPrecondition("VM_BUSY", "provisional")

    def _guest(self, vm_id: str) -> agent_pb2.Guest:
        if vm_id not in self.guests:
            raise errors.NotFound("VM_NOT_FOUND", f"no machine {vm_id}")
        return self.guests[vm_id]

    def _checked(self, signed: common_pb2.SignedGrant) -> common_pb2.Grant:
        """Both signatures, as the real agent checks them."""
        now, trust = self.federation.clock.now(), self.identity.trust
        payload, destination = identity.verify(trust, signed.granted, "grant", now=now)
        grant = common_pb2.Grant.FromString(payload)
        counter, source = identity.verify(
            trust, signed.countersigned, "grant-countersigned", now=now
        )
        assert counter == signed.granted.SerializeToString(deterministic=True)
        assert (str(source), str(destination)) == (grant.source_manager, grant.destination_manager)
        assert grant.source_agent == self.spiffe_id
        return grant

    def _attempt(self, grant: common_pb2.Grant, guest: agent_pb2.Guest) -> agent_pb2.Transfer:
        self.attempts += 1
        outcome = self.script.popleft() if self.script else ""
        transfer = agent_pb2.Transfer(
            migration_id=grant.migration_id,
            vm_id=grant.vm_id,
            sending=True,
            state=agent_pb2.TRANSFER_STATE_COPYING,
            progress=self.measured,
        )
        transfer.progress.total_bytes, transfer.progress.attempt = 4 * GIB, self.attempts
        if self.settled:
            transfer.progress.done_bytes = self.settled.popleft()
        receiver = DIRECTORY.get(grant.destination_agent)
        if receiver is None or outcome in (FAILS, BREAKS):
            transfer.state = agent_pb2.TRANSFER_STATE_FAILED
            transfer.problem.reason = "DISK_IO" if outcome == BREAKS else "PEER_UNAVAILABLE"
            transfer.problem.retryable = outcome != BREAKS
            return transfer
        receipt = receiver.receive(grant, guest, complete=outcome != HANGS)
        if outcome != HANGS:
            view = common_pb2.Receipt.FromString(receipt.payload)
            if outcome == LIES:
                view.root = bytes(32)
            transfer.receipt.CopyFrom(receipt)
            transfer.source_view.CopyFrom(view)
            transfer.progress.done_bytes = 4 * GIB
            transfer.state = agent_pb2.TRANSFER_STATE_SUCCEEDED
            if guest.state == agent_pb2.GUEST_STATE_RUNNING:
                guest.state, guest.stopped_by_hold = agent_pb2.GUEST_STATE_SHUT_OFF, True
            if guest.stopped_by_hold:
                transfer.stopped_at.FromDatetime(self.federation.clock.now())
        return transfer

    def receive(
        self, grant: common_pb2.Grant, guest: agent_pb2.Guest, *, complete: bool
    ) -> common_pb2.SignedDocument:
        """The receiving end of a transfer."""
        arrived = agent_pb2.Guest()
        arrived.CopyFrom(guest)
        with self.lock:
            assert grant.migration_id not in self.refused
            assert grant.source_epoch > self.here_at.get(grant.vm_id, 0)
            self.arrivals[grant.migration_id] = Arrival(arrived, complete)
        receipt = common_pb2.Receipt(
            migration_id=grant.migration_id,
            vm_id=grant.vm_id,
            destination_epoch=grant.source_epoch + 1,
            disks=[
                common_pb2.DiskReceipt(
                    disk_id=disk.disk_id,
                    size_bytes=disk.size_bytes,
                    root=hashlib.sha256(disk.disk_id.encode()).digest(),
                )
                for disk in grant.disks
            ],
            definition_sha256=hashlib.sha256(b"definition").digest(),
            root=hashlib.sha256(grant.vm_id.encode()).digest(),
            raw_bytes=sum(disk.size_bytes for disk in grant.disks),
            wire_bytes=1000,
        )
        return identity.sign(
            self.identity, receipt.SerializeToString(deterministic=True), "receipt"
        )
