"""What arrives at this host: sessions by migration, and their folders until they become machines.

```
INCOMING/<migration id>/    disks as they arrive, session.json; receipt.bin once complete
INCOMING/.discarded/<id>    a migration whose data is refused from now on
```
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from weakref import WeakValueDictionary

from agent import files, grants, receipts
from agent.hypervisors import Guest, Hypervisor, domain
from agent.settings import Settings
from agent.transfer import geometry, handshake
from agent.transfer.dataplane import StreamId
from agent.transfer.merkle import DigestKeys
from agent.transfer.receiving import Offer, Receiving
from watari import clock, errors, identity, logs
from watari.identity import Identity, SpiffeId
from watari.v1 import agent_pb2, common_pb2

_SESSION, _RECEIPT, _DEFINITION = "session.json", "receipt.bin", "arrived.xml"

_log = logs.get(__name__)


class Sessions:
    """The receiving side. Calls about one migration run one after another, others beside them."""

    def __init__(
        self,
        folder: Path,
        hypervisor: Hypervisor,
        file_name: Callable[[str], str],
        own: Identity,
        settings: Settings,
        time: clock.Clock,
    ) -> None:
        self._folder = files.ensure_folder(folder)
        self._discarded = files.ensure_folder(folder / ".discarded")
        self._hypervisor = hypervisor
        self._file_name = file_name
        self._own = own
        self._settings = settings
        self.data_address = settings.data_address
        """What senders are told to dial; the port is known only once it is bound."""

        self._clock = time
        self._open: dict[str, Receiving] = {}
        self._lock = threading.Lock()
        self._locks: WeakValueDictionary[str, _MigrationLock] = WeakValueDictionary()

    def open(
        self, request: agent_pb2.OpenSessionRequest, peer: SpiffeId
    ) -> agent_pb2.OpenSessionResponse:
        """Opens a session in place of any earlier one of the migration. Raises WatariError."""
        grant = grants.check(request.grant, self._own.trust, self._clock.now())
        grants.check_receiver(
            grant, self._own.spiffe_id, self._settings.manager, peer, request.migration_id
        )
        offer = Offer(
            session_id=request.session_id,
            grant=grant,
            definition_xml=request.definition_xml,
            digest_keys=DigestKeys(request.digest_key),
            streams=max(1, min(request.streams, self._settings.transfer.streams)),
        )
        self._check_machine(offer)
        keys, answer = handshake.answer(request, self._own)
        with self._migration(grant.migration_id):
            self._check_wanted(grant)
            self._close(grant.migration_id)
            folder = self._begin(offer)
            receiving = Receiving(offer, keys, folder, self._file_name, self._clock)
            self._register(grant.migration_id, receiving)
        answer.data.address = self.data_address
        answer.streams = offer.streams
        answer.credit_bytes = self._settings.transfer.credit_bytes
        return answer

    def accept(
        self, stream: StreamId, messages: Iterator[bytes], cut: Callable[[], object]
    ) -> Iterator[bytes]:
        """A data stream of an open session. Raises NotFound SESSION_NOT_FOUND."""
        return self._session(stream.session_id).stream(stream.number, messages, cut)

    def complete(
        self, session_id: str, sealed_manifest: bytes, peer: SpiffeId
    ) -> common_pb2.SignedDocument:
        """Checks, flushes and signs; the same receipt when it is asked for again."""
        earlier = self._receipt_of(session_id)
        if earlier is not None:
            return earlier
        receiving = self._session_of(session_id, peer)
        migration_id = receiving.offer.grant.migration_id
        with self._migration(migration_id):
            receipt = receiving.complete(sealed_manifest)
            receipt.completed_at.FromDatetime(self._clock.now())
            signed = identity.sign(self._own, receipt.SerializeToString(), receipts.PURPOSE)
            folder = self._folder / migration_id
            files.write_text(folder / _DEFINITION, receiving.offer.definition_xml)
            files.write_bytes(folder / _RECEIPT, signed.SerializeToString())
            self._close(migration_id)
        _log.info("machine received", vm_id=receipt.vm_id, wire_bytes=receipt.wire_bytes)
        return signed

    def abort(self, session_id: str, peer: SpiffeId) -> errors.WatariError | None:
        """Ends a session; the error that it had, if any."""
        try:
            receiving = self._session_of(session_id, peer)
        except errors.NotFound:
            return None
        with self._migration(receiving.offer.grant.migration_id):
            self._close(receiving.offer.grant.migration_id)
        return receiving.problem

    def incoming(self) -> list[agent_pb2.Incoming]:
        """What has arrived or is arriving, by migration."""
        return [
            agent_pb2.Incoming(
                migration_id=each.name,
                vm_id=_record(each).get("vm_id", ""),
                complete=(each / _RECEIPT).is_file(),
                allocated_bytes=files.allocated_bytes(each),
            )
            for each in sorted(self._folder.iterdir())
            if not each.name.startswith(".")
        ]

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

    def activate(self, migration_id: str, epoch: int) -> Guest:
        """Turns a complete arrival into a machine. Raises NotFound, FailedPrecondition."""
        with self._migration(migration_id):
            present = self._hypervisor.arrived_by(migration_id)
            if present is not None:
                return present
            folder = self._folder / migration_id
            if not folder.is_dir():
                raise errors.NotFound(
                    "TRANSFER_NOT_FOUND",
                    f"nothing has arrived here for migration {migration_id}",
                    migration=migration_id,
                )
            if not (folder / _RECEIPT).is_file():
                raise errors.FailedPrecondition(
                    "MIGRATION_STATE", f"migration {migration_id} has not arrived completely"
                )
            definition = (folder / _DEFINITION).read_text()
            vm_id = str(_record(folder)["vm_id"])
            return self._hypervisor.activate(folder, vm_id, definition, epoch)

    def discard(self, migration_id: str) -> None:
        """Deletes an arrival and refuses it from now on. Raises FailedPrecondition."""
        with self._migration(migration_id):
            if self._hypervisor.arrived_by(migration_id) is not None:
                raise errors.FailedPrecondition(
                    "MIGRATION_COMMITTED", f"migration {migration_id} was activated here"
                )
            files.write_bytes(self._discarded / migration_id, b"")
            self._close(migration_id)
            if (self._folder / migration_id).exists():
                rmtree(self._folder / migration_id)

    def sweep(self) -> None:
        """Ends sessions in which nothing moves and forgets old refusals."""
        for migration_id, receiving in list(self._open.items()):
            if receiving.idle_seconds() > self._settings.transfer.stall_seconds_max:
                _log.warning("session given up: no data", migration_id=migration_id)
                with self._migration(migration_id):
                    if self._open.get(migration_id) is receiving:
                        self._close(migration_id)
        oldest = self._clock.now().timestamp() - self._settings.discarded_kept_seconds
        for each in self._discarded.iterdir():
            if each.stat().st_mtime < oldest:
                files.remove(each)

    def close(self) -> None:
        """Ends every session."""
        for migration_id in list(self._open):
            self._close(migration_id)

    def _check_machine(self, offer: Offer) -> None:
        """The definition must be the granted machine's, with the granted disks, within limits."""
        found = domain.parse(offer.definition_xml)
        granted = sorted(disk.disk_id for disk in offer.grant.disks)
        if found.vm_id != offer.grant.vm_id or [disk.disk_id for disk in found.disks] != granted:
            raise domain.invalid("the definition is not that of the granted machine and disks")
        if len(granted) > geometry.DISKS_MAX:
            raise domain.invalid(f"{len(granted)} disks, at most {geometry.DISKS_MAX}")
        for disk in offer.grant.disks:
            if disk.size_bytes > geometry.DISK_BYTES_MAX:
                raise domain.invalid(f"disk {disk.disk_id} is larger than 16 TiB")

    def _check_wanted(self, grant: common_pb2.Grant) -> None:
        if (self._discarded / grant.migration_id).exists():
            raise errors.FailedPrecondition(
                "MIGRATION_STATE", f"migration {grant.migration_id} was given up here"
            )
        if any(guest.vm_id == grant.vm_id for guest in self._hypervisor.guests()):
            raise errors.FailedPrecondition(
                "VM_ALREADY_THERE", f"machine {grant.vm_id} is on this host already"
            )

    def _begin(self, offer: Offer) -> Path:
        migration_id = offer.grant.migration_id
        folder = files.ensure_folder(self._folder / migration_id)
        files.remove(folder / _RECEIPT)
        record = {"vm_id": offer.grant.vm_id, "session_id": offer.session_id}
        files.write_json(folder / _SESSION, record)
        return folder

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

    def _session(self, session_id: str) -> Receiving:
        for receiving in list(self._open.values()):
            if receiving.offer.session_id == session_id:
                return receiving
        raise _unknown_session(session_id)

    def _session_of(self, session_id: str, peer: SpiffeId) -> Receiving:
        """A session, for the agent that opened it only. Raises NotFound."""
        receiving = self._session(session_id)
        if receiving.offer.grant.source_agent != str(peer):
            raise _unknown_session(session_id)
        return receiving

    def _close(self, migration_id: str) -> None:
        with self._lock:
            receiving = self._open.pop(migration_id, None)
        if receiving is not None:
            receiving.close()

    def _receipt_of(self, session_id: str) -> common_pb2.SignedDocument | None:
        for folder in self._folder.iterdir():
            if _record(folder).get("session_id") == session_id and (folder / _RECEIPT).is_file():
                return common_pb2.SignedDocument.FromString((folder / _RECEIPT).read_bytes())
        return None

    def _migration(self, migration_id: str) -> "_MigrationLock":
        with self._lock:
            return self._locks.setdefault(migration_id, _MigrationLock())


class _MigrationLock:
    """A lock that can live in a WeakValueDictionary: gone when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _record(folder: Path) -> dict[str, str]:
    try:
        record: dict[str, str] = json.loads((folder / _SESSION).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return record


def _unknown_session(session_id: str) -> errors.NotFound:
    return errors.NotFound(
        "SESSION_NOT_FOUND",
        f"there is no session {session_id}",
        hint="it was replaced, given up or never opened: start another attempt",
        retryable=True,
        session=session_id,
    )
