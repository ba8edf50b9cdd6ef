"""The folders of what arrives: what a crash leaves there, and what it means afterwards.

```
INCOMING/<migration id>/    disks as they arrive, session.json; receipt.bin once complete
INCOMING/.discarded/<id>    a migration whose data is refused from now on
```

A receipt is written last and removed first: where there is one, everything that it vouches for is
on stable storage. Calls about one migration must not run at once.
"""

import json
from pathlib import Path
from shutil import rmtree

from agent import files
from watari import clock, errors
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

_SESSION, _RECEIPT, _DEFINITION = "session.json", "receipt.bin", "arrived.xml"


class Arrivals:
    """What has arrived or is arriving, by migration."""

    def __init__(self, folder: Path, time: clock.Clock) -> None:
        self._folder = files.ensure_folder(folder)
        self._discarded = files.ensure_folder(folder / ".discarded")
        self._clock = time

    def begin(self, grant: common_pb2.Grant, session_id: str) -> Path:
        """The folder for a session's disks; an earlier receipt is void. Raises WatariError."""
        folder = files.ensure_folder(self._folder / grant.migration_id)
        files.sync_folder(self._folder)
        files.remove(folder / _RECEIPT)
        record = {"vm_id": grant.vm_id, "session_id": session_id, "sender": grant.source_agent}
        files.write_json(folder / _SESSION, record)
        return folder

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

    def complete(self, migration_id: str) -> tuple[Path, str, str]:
        """(folder, machine's id, definition) of a complete arrival. Raises NotFound
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
        return folder, _record(folder)["vm_id"], (folder / _DEFINITION).read_bytes().decode()

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
        if (self._folder / migration_id).exists():
            rmtree(self._folder / migration_id)

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
