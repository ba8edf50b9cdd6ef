"""The folders of what arrives: what a crash leaves there, and what it means afterwards.

```
INCOMING/<migration id>/            disks as they arrive, session.json; receipt.bin once complete
INCOMING/.journals/<migration id>/  which leaves of these disks are stable: what resuming goes by
INCOMING/.discarded/<id>            a migration whose data is refused from now on
INCOMING/.spent.json                which grants have brought a machine (agent.transfer.spent)
```

A receipt is written last and removed first: where there is one, everything that it vouches for is
on stable storage. Calls about one migration must not run at once.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from agent import files
from agent.stored import provider_of
from agent.transfer.spent import Use
from watari import clock, errors
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

_SESSION, _RECEIPT, _DEFINITION = "session.json", "receipt.bin", "arrived.xml"


@dataclass(frozen=True)
class Arrival:
    """Where the disks of a session go, and whether they may continue what is there."""

    folder: Path
    journals: Path
    keep: bool


@dataclass(frozen=True)
class Complete:
    """What can become a machine."""

    folder: Path
    use: Use
    definition_xml: str
    provider: str
    """Whose tenant's it is: `agent.stored.provider_of`."""


class Arrivals:
    """What has arrived or is arriving, by migration."""

    def __init__(self, folder: Path, time: clock.Clock) -> None:
        self._folder = files.ensure_folder(folder)
        self._discarded = files.ensure_folder(folder / ".discarded")
        self._journals = files.ensure_folder(folder / ".journals")
        self._clock = time

    def begin(self, grant: common_pb2.Grant, session_id: str, fit: str) -> Arrival:
        """The folders of a session; an earlier receipt is void. What an earlier try left is kept if
        it began with the same `fit`: everything that leaves and digests depend on. Raises
        WatariError.
        """
        folder = files.ensure_folder(self._folder / grant.migration_id)
        journals = files.ensure_folder(self._journals / grant.migration_id)
        files.sync_folder(self._folder)
        files.sync_folder(self._journals)
        files.remove(folder / _RECEIPT)
        keep = _record(folder).get("fit") == fit
        record = {
            "vm_id": grant.vm_id,
            "session_id": session_id,
            "sender": grant.source_agent,
            "provider": provider_of(grant),
            "fit": fit,
            "epoch": str(grant.source_epoch + 1),
            "expires_at": str(grant.expires_at.seconds),
        }
        if not keep:  # journals first: they must never say more than the disks hold
            for each in [*journals.iterdir(), *folder.iterdir()]:
                files.remove(each)
        files.write_json(folder / _SESSION, record)
        return Arrival(folder, journals, keep)

    def finish(
        self, migration_id: str, definition_xml: str, receipt: common_pb2.SignedDocument
    ) -> None:
        """Makes an arrival complete; its disks must have been flushed. Raises WatariError."""
        folder = self._folder / migration_id
        files.write_text(folder / _DEFINITION, definition_xml)
        files.write_bytes(folder / _RECEIPT, receipt.SerializeToString())

    def receipt_of(self, session_id: str, sender: SpiffeId) -> common_pb2.SignedDocument | None:
        """The receipt of a completed session, for the agent that sent it."""
        for folder in self._folder.iterdir():
            record = _record(folder)
            if record.get("session_id") == session_id and record.get("sender") == str(sender):
                receipt = _read(folder / _RECEIPT)
                return common_pb2.SignedDocument.FromString(receipt) if receipt else None
        return None

    def complete(self, migration_id: str, kept_seconds: int) -> Complete:
        """A complete arrival, whose grant is valid for at most `kept_seconds` more. Raises NotFound
        TRANSFER_NOT_FOUND, FailedPrecondition MIGRATION_STATE when it is not complete.
        """
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
        record = _record(folder)
        definition = (folder / _DEFINITION).read_bytes().decode()
        expires = record.get("expires_at")  # not in what an earlier release began
        use = Use(
            record["vm_id"],
            int(record.get("epoch", 0)),
            float(expires) if expires else self._clock.now().timestamp() + kept_seconds,
        )
        # An earlier release noted the sender alone.
        provider = record.get("provider") or SpiffeId.parse(record["sender"]).domain
        return Complete(folder, use, definition, provider)

    def listing(self) -> list[agent_pb2.Incoming]:
        """Everything here."""
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

    def refuse(self, migration_id: str) -> None:
        """Remembers, durably, that data of a migration is refused. Raises WatariError."""
        files.write_bytes(self._discarded / migration_id, b"")

    def refused(self, migration_id: str) -> bool:
        """Whether data of a migration is refused."""
        return (self._discarded / migration_id).exists()

    def remove(self, migration_id: str) -> None:
        """Deletes what is here of a migration, if anything is."""
        for folder in (self._folder / migration_id, self._journals / migration_id):
            if folder.exists():
                rmtree(folder)

    def forget_journals(self) -> None:
        """Deletes the journals of what is not arriving any more: it has become a machine."""
        for journals in self._journals.iterdir():
            if not (self._folder / journals.name).exists():
                rmtree(journals, ignore_errors=True)

    def forget_refusals(self, kept_seconds: int) -> None:
        """Forgets refusals that are older than `kept_seconds`."""
        oldest = self._clock.now().timestamp() - kept_seconds
        for each in self._discarded.iterdir():
            if not each.name.startswith(".") and each.stat().st_mtime < oldest:
                files.remove(each)


def _record(folder: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads(_read(folder / _SESSION) or b"{}")
    return record


def _read(path: Path) -> bytes:
    """The content of a file; nothing when it is not there, as when it has just been moved."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return b""
