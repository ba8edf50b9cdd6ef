"""The receiving side: who may open, end and discard what, and what becomes a machine."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from agent import receipts
from agent.hypervisors import Arrived, Guest, Hypervisor, domain
from agent.hypervisors.shelf import staged_disk
from agent.seeds.catalogue import SeedCatalogue
from agent.seeds.scopes import Scopes
from agent.settings import Settings
from agent.stored import provider_of, scope_of
from agent.transfer import handshake, standing
from agent.transfer.admission import Admission
from agent.transfer.arrivals import Arrivals
from agent.transfer.arriving import Known, Place, open_disks
from agent.transfer.comparing import Comparing
from agent.transfer.dataplane import Refused, StreamId
from agent.transfer.merkle import DigestKeys
from agent.transfer.receiving import Offer, Receiving
from agent.transfer.spent import Spent
from watari import clock, errors, identity, logs
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2, common_pb2

SPENT_FILE = ".spent.json"

_log = logs.get(__name__)


class Sessions:
    """The receiving side. Calls about one migration run one after another, others beside them."""

    def __init__(
        self,
        folder: Path,
        hypervisor: Hypervisor,
        seeds: SeedCatalogue,
        scopes: Scopes,
        own: Identity,
        settings: Settings,
        time: clock.Clock,
        moved: Callable[[agent_pb2.HostEvent], object] = lambda _event: None,
    ) -> None:
        """`moved` is told of every session that has ended, of those that move content."""
        self._moved = moved
        self._arrivals = Arrivals(folder, time)
        self._spent = Spent(folder / SPENT_FILE, time)
        self._admission = Admission(hypervisor, self._arrivals, self._spent, own, settings, time)
        self._hypervisor = hypervisor
        self._seeds = seeds
        self._scopes = scopes
        self._own = own
        self._settings = settings
        self.data = common_pb2.Endpoint(address=settings.data_address)
        """What senders are told to dial; the port is known only once it is bound."""

        self._clock = time
        self._open: dict[str, Receiving] = {}
        self._lock = threading.Lock()
        self._locks: WeakValueDictionary[str, _MigrationLock] = WeakValueDictionary()

    @property
    def busy(self) -> bool:
        """Whether anything is arriving."""
        return bool(self._open)

    @property
    def count(self) -> int:
        """Sessions that are open."""
        return len(self._open)

    def open(
        self, request: agent_pb2.OpenSessionRequest, peer: SpiffeId
    ) -> agent_pb2.OpenSessionResponse:
        """Opens a session in place of any earlier one of the migration. Raises WatariError."""
        grant = self._admission.checked(request, peer)
        findings = self._admission.findings(request, grant)
        scope = scope_of(provider_of(grant), domain.parse(request.definition_xml).tenant)
        digest_key = self._scopes.digest_key(scope)
        offer = Offer(
            session_id=request.session_id,
            grant=grant,
            definition_xml=request.definition_xml,
            digest_keys=DigestKeys(digest_key),
            streams=max(1, min(request.streams, self._settings.transfer.streams_max)),
            sender=peer,
            opened_at=self._clock.now(),
            dry_run=request.dry_run,
        )
        keys, answer = handshake.answer(request, self._own, peer)
        with self._migration(grant.migration_id):
            self._admission.check_wanted(grant)
            self._close_migration(grant.migration_id)
            disks = self._open_disks(offer, digest_key, scope)
            receiving = Receiving(offer, keys, disks, self._clock)
            self._register(grant.migration_id, receiving)
        answer.data.CopyFrom(self.data)
        answer.streams = offer.streams
        answer.credit_bytes = self._settings.transfer.credit_bytes
        answer.digest_key = digest_key
        answer.seeds.extend(receiving.seeds())
        answer.findings.extend(findings)
        return answer

    def _open_disks(self, offer: Offer, digest_key: bytes, scope: str) -> list[Comparing]:
        specs = sorted(offer.grant.disks, key=lambda disk: disk.disk_id)
        wait = self._settings.transfer.index_wait_seconds_max
        sources = partial(self._seeds.sources, scope, wait) if self._seeds.has(scope) else None
        known = Known(self._hypervisor.earlier(offer.grant.vm_id), sources)
        if offer.dry_run:
            return open_disks(specs, digest_key, None, known)
        disk_format = self._settings.disk_format
        fit = _fit(offer.digest_keys, disk_format, specs)
        arrival = self._arrivals.begin(offer.grant, offer.session_id, fit)
        formats = {spec.disk_id: "raw" if spec.kind else disk_format for spec in specs}
        place = Place(
            lambda disk_id: arrival.folder / staged_disk(disk_id, formats[disk_id]),
            lambda disk_id: arrival.journals / disk_id,
            formats,
            arrival.keep,
        )
        return open_disks(specs, digest_key, place, known)

    def admits(self, stream: StreamId) -> bool:
        """Whether a data stream is one of an open session, not begun yet, and said to be so by the
        session's other end. Never waits.
        """
        found = self._session(stream.session_id)
        return found is not None and found.admits(stream.number, stream.proof)

    def accept(
        self, stream: StreamId, messages: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        """A data stream that was admitted. Raises NotFound SESSION_NOT_FOUND."""
        found = self._session(stream.session_id)
        if found is None:
            raise Refused(f"there is no session {stream.session_id}")
        return found.stream(stream.number, messages, cut)

    def complete(
        self, session_id: str, sealed_manifest: bytes, peer: SpiffeId
    ) -> common_pb2.SignedDocument:
        """Checks, flushes and signs; the same receipt when it is asked for again."""
        receiving = self._session_of(session_id, peer)
        if receiving is not None:
            receiving.await_manifest(sealed_manifest)
            with self._migration(receiving.migration_id):
                if self._open.get(receiving.migration_id) is receiving:
                    return self._finish(receiving, sealed_manifest)
        earlier = self._arrivals.receipt_of(session_id, peer)
        if earlier is None:
            raise _unknown_session(session_id)
        return earlier

    def abort(self, session_id: str, peer: SpiffeId) -> errors.WatariError | None:
        """Ends a session; the error that it had, if any."""
        receiving = self._session_of(session_id, peer)
        if receiving is None:
            return None
        with self._migration(receiving.migration_id):
            self._close(receiving)
        return receiving.problem

    def incoming(self) -> list[agent_pb2.Incoming]:
        """What has arrived or is arriving, by migration."""
        return self._arrivals.listing()

    def transfer(self, migration_id: str) -> agent_pb2.Transfer | None:
        """What is arriving in an open session of the migration."""
        receiving = self._open.get(migration_id)
        if receiving is None:
            return None
        return agent_pb2.Transfer(
            migration_id=migration_id,
            vm_id=receiving.offer.grant.vm_id,
            state=agent_pb2.TRANSFER_STATE_COPYING,
            progress=receiving.progress(),
        )

    def activate(self, migration_id: str, epoch: int, *, provisional: bool = False) -> Guest:
        """Turns a complete arrival into a machine; one that is provisional can still be discarded.
        Raises NotFound, FailedPrecondition.
        """
        with self._migration(migration_id):
            present = self._hypervisor.arrived_by(migration_id)
            return present or self._activate(migration_id, epoch, provisional=provisional)

    def prepare(self, migration_id: str) -> Guest:
        """Gets a machine that was activated ready to run. Raises NotFound, FailedPrecondition."""
        with self._migration(migration_id):
            present = self._hypervisor.arrived_by(migration_id)
            if present is None:
                raise errors.NotFound(
                    "VM_NOT_FOUND",
                    f"the machine of migration {migration_id} is here no more",
                    migration=migration_id,
                )
            return self._hypervisor.prepare(present.vm_id)

    def _activate(self, migration_id: str, epoch: int, *, provisional: bool) -> Guest:
        found = self._arrivals.complete(migration_id, self._settings.discarded_kept_seconds)
        self._spent.add(migration_id, replace(found.use, epoch=epoch))
        arrived = Arrived(
            found.folder, found.use.vm_id, found.definition_xml, epoch, found.provider
        )
        return self._hypervisor.activate(arrived, provisional=provisional)

    def discard(self, migration_id: str) -> None:
        """Deletes an arrival, or what was made of it and never ran, and refuses it from now on.
        Raises FailedPrecondition MIGRATION_COMMITTED.
        """
        with self._migration(migration_id):
            self._arrivals.refuse(migration_id)
            if not self._hypervisor.forget(migration_id):
                raise errors.FailedPrecondition(
                    "MIGRATION_COMMITTED", f"migration {migration_id} was activated here"
                )
            self._close_migration(migration_id)
            self._arrivals.remove(migration_id)

    def sweep(self) -> None:
        """Ends sessions in which nothing moves and forgets old refusals."""
        for migration_id, receiving in list(self._open.items()):
            if receiving.idle_seconds() > self._settings.transfer.stall_seconds_max:
                _log.warning("session given up: no data", migration_id=migration_id)
                with self._migration(migration_id):
                    self._close(receiving)
        self._arrivals.forget_refusals(self._settings.discarded_kept_seconds)
        self._arrivals.forget_journals()
        self._spent.forget()

    def cut_untrusted(self) -> None:
        """Ends the sessions whose sender may not go on."""
        lost = [(each, self._lost(each)) for each in list(self._open.values())]
        refused = [(receiving, error) for receiving, error in lost if error is not None]
        for receiving, error in refused:  # before any lock: what is being completed has its own
            receiving.fail(error)
        for receiving, error in refused:
            _log.warning("session cut", migration_id=receiving.migration_id, reason=error.reason)
            with self._migration(receiving.migration_id):
                self._close(receiving)

    def close(self) -> None:
        """Ends every session; one that is being completed first gets its receipt."""
        for migration_id in list(self._open):
            with self._migration(migration_id):
                self._close_migration(migration_id)

    def _finish(self, receiving: Receiving, sealed_manifest: bytes) -> common_pb2.SignedDocument:
        receipt = receiving.complete(sealed_manifest)
        untrusted = self._lost(receiving)
        if untrusted is not None:
            raise untrusted
        receipt.completed_at.FromDatetime(self._clock.now())
        signed = identity.sign(self._own, receipt.SerializeToString(), receipts.PURPOSE)
        self._arrivals.finish(receiving.migration_id, receiving.offer.definition_xml, signed)
        self._close(receiving, "succeeded")
        _log.info("machine received", vm_id=receipt.vm_id, wire_bytes=receipt.wire_bytes)
        return signed

    def _lost(self, receiving: Receiving) -> errors.WatariError | None:
        offer = receiving.offer
        return standing.lost(self._own.trust, offer.sender, offer.opened_at)

    def _register(self, migration_id: str, receiving: Receiving) -> None:
        with self._lock:
            if len(self._open) < self._settings.transfer.receiving_max:
                self._open[migration_id] = receiving
                return
        receiving.close()
        raise errors.Exhausted(
            "TOO_MANY_TRANSFERS",
            f"{self._settings.transfer.receiving_max} machines are arriving at this host",
            hint="try again when one has arrived, or raise [agent.transfer] receiving_max",
            retryable=True,
        )

    def _session(self, session_id: str) -> Receiving | None:
        for receiving in list(self._open.values()):
            if receiving.offer.session_id == session_id:
                return receiving
        return None

    def _session_of(self, session_id: str, peer: SpiffeId) -> Receiving | None:
        """An open session, for the agent that opened it only."""
        for receiving in list(self._open.values()):
            offer = receiving.offer
            if offer.session_id == session_id and offer.grant.source_agent == str(peer):
                return receiving
        return None

    def _close_migration(self, migration_id: str) -> None:
        receiving = self._open.get(migration_id)
        if receiving is not None:
            self._close(receiving)

    def _close(self, receiving: Receiving, outcome: str = "") -> None:
        """Ends this session and no other of its migration."""
        with self._lock:
            was_open = self._open.get(receiving.migration_id) is receiving
            if was_open:
                del self._open[receiving.migration_id]
        receiving.close()
        if was_open and not receiving.offer.dry_run:
            self._moved(_received(receiving, outcome))

    def _migration(self, migration_id: str) -> "_MigrationLock":
        with self._lock:
            return self._locks.setdefault(migration_id, _MigrationLock())


def _received(receiving: Receiving, outcome: str) -> agent_pb2.HostEvent:
    """What to tell of a session that has ended: one that was replaced or given up has no reason."""
    problem, named = receiving.problem, domain.parse(receiving.offer.definition_xml)
    raw_bytes, wire_bytes = receiving.crossed_bytes
    return agent_pb2.HostEvent(
        kind=agent_pb2.HOST_EVENT_KIND_RECEIVED,
        vm_id=receiving.offer.grant.vm_id,
        vm_name=named.name,
        tenant=named.tenant,
        migration_id=receiving.migration_id,
        reason=outcome or (problem.reason if problem else ""),
        raw_bytes=raw_bytes,
        wire_bytes=wire_bytes,
    )


class _MigrationLock:
    """A lock that can live in a WeakValueDictionary: gone when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _fit(keys: DigestKeys, disk_format: str, specs: list[common_pb2.DiskSpec]) -> str:
    """What has to be the same for leaves and digests of an earlier try to be of use."""
    sizes = ",".join(f"{spec.disk_id}={spec.size_bytes}" for spec in specs)
    return f"{keys.zero_leaf.hex()} {disk_format} {sizes}"


def _unknown_session(session_id: str) -> errors.NotFound:
    return errors.NotFound(
        "SESSION_NOT_FOUND",
        f"there is no session {session_id}",
        hint="it was replaced, given up or never opened: start another attempt",
        retryable=True,
        session=session_id,
    )
