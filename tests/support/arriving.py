"""The receiving half of an agent in the test's own process, and a sender by hand."""

import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.hypervisors.shelf import Shelf, staged_disk
from agent.receipts import build
from agent.settings import Settings, TransferSettings
from agent.transfer import frames, handshake
from agent.transfer.dataplane import StreamId
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.sessions import Sessions
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.shelves import definition
from watari import identity
from watari.clock import FakeClock
from watari.identity import SpiffeId
from watari.settings import IdentitySettings
from watari.v1 import agent_pb2, common_pb2

SENDER = SpiffeId.parse(f"spiffe://{TOKYO}/agent/host1")
RECEIVER = SpiffeId.parse(f"spiffe://{OSAKA}/agent/host1")
SENDING_MANAGER = f"spiffe://{TOKYO}/manager/main"
RECEIVING_MANAGER = f"spiffe://{OSAKA}/manager/main"
DISK_BYTES = 100_000

DIGEST_KEY = bytes(range(32))
CONTENT = os.urandom(DISK_BYTES)


def data(
    content: bytes = CONTENT, offset: int = 0, disk: int = 0, *, digest_of: bytes | None = None
) -> frames.Data:
    """A frame with content, and the digests of that or of something else."""
    digests = DigestKeys(DIGEST_KEY).leaves(content if digest_of is None else digest_of)
    return frames.Data(disk, offset, len(content), b"".join(digests), content, compressed=False)


def manifest(grant: common_pb2.Grant, session_id: str, xml: str, counts: list[int]) -> bytes:
    """What a sender of CONTENT says that it sent."""
    keys = DigestKeys(DIGEST_KEY)
    tree = DiskTree(keys, DISK_BYTES)
    tree.put_leaves(0, keys.leaves(CONTENT))
    own = build(grant, keys, [(grant.disks[0], tree)], xml, 0)
    return agent_pb2.Manifest(
        session_id=session_id, disks=own.disks, stream_frames=counts
    ).SerializeToString()


@dataclass
class Session:
    """An open session, as its sender has it."""

    grant: common_pb2.Grant
    session_id: str
    xml: str
    keys: SessionKeys

    def sealed(self, sent: Iterable[frames.Frame], number: int = 0) -> Iterator[bytes]:
        """The messages of a stream."""
        sealer, _ = self.keys.sender_stream(number)
        return (sealer.seal(frame) for frame in sent)

    def manifest(self, counts: list[int]) -> bytes:
        """Sealed."""
        return self.keys.seal_manifest(manifest(self.grant, self.session_id, self.xml, counts))


@dataclass
class Destination:
    """A host that takes machines in."""

    federation: Federation
    folder: Path
    transfer: TransferSettings = TransferSettings()
    clock: FakeClock = field(default_factory=lambda: FakeClock(datetime.now(UTC)))

    def __post_init__(self) -> None:
        self.own = self.federation.party(str(RECEIVER))
        self.shelf = Shelf(self.folder, self.clock, 3600)
        self.sessions = self.restarted()

    def restarted(self) -> Sessions:
        """What a new process would begin with."""
        settings = Settings(
            identity=IdentitySettings(Path("unused"), Path("unused"), Path("unused")),
            cloud_id="osaka",
            host_id="host1",
            manager=RECEIVING_MANAGER,
            shelf=self.folder,
            transfer=self.transfer,
        )
        incoming = self.folder / "incoming"
        return Sessions(incoming, self.shelf, staged_disk, self.own, settings, self.clock)

    def grant(self, migration_id: str = "", vm_id: str = "") -> common_pb2.Grant:
        """For a machine with one disk of CONTENT."""
        grant = common_pb2.Grant(
            migration_id=migration_id or str(uuid.uuid4()),
            vm_id=vm_id or str(uuid.uuid4()),
            source_epoch=1,
            source_agent=str(SENDER),
            destination_agent=str(RECEIVER),
            source_manager=SENDING_MANAGER,
            destination_manager=RECEIVING_MANAGER,
            disks=[common_pb2.DiskSpec(disk_id="vda", size_bytes=DISK_BYTES)],
            bytes_max=4 * DISK_BYTES,
        )
        grant.expires_at.FromDatetime(self.clock.now() + timedelta(minutes=5))
        return grant

    def signed(self, grant: common_pb2.Grant) -> common_pb2.SignedGrant:
        """With both managers' signatures."""
        granted = identity.sign(
            self.federation.party(RECEIVING_MANAGER), grant.SerializeToString(), "grant"
        )
        countersigned = identity.sign(
            self.federation.party(SENDING_MANAGER),
            granted.SerializeToString(),
            "grant-countersigned",
        )
        return common_pb2.SignedGrant(granted=granted, countersigned=countersigned)

    def open(self, grant: common_pb2.Grant, xml: str = "") -> Session:
        """Opens a session as the agent that the grant names."""
        request = agent_pb2.OpenSessionRequest(
            session_id=str(uuid.uuid4()),
            migration_id=grant.migration_id,
            grant=self.signed(grant),
            definition_xml=xml or definition(grant.vm_id, "web", {"vda": "vda.raw"}),
            digest_key=DIGEST_KEY,
            cipher_key_bits=128,
            streams=1,
        )
        own = self.federation.party(str(SENDER))
        opening = handshake.ask(request, own, RECEIVER)
        response = self.sessions.open(request, SENDER)
        keys = handshake.conclude(opening, response, own, self.clock.now())
        return Session(grant, request.session_id, request.definition_xml, keys)

    def send(self, session: Session, *sent: frames.Frame) -> None:
        """One whole stream, number 0."""
        stream = StreamId(session.session_id, 0)
        list(self.sessions.accept(stream, session.sealed(sent), lambda: None))

    def arrive(self, session: Session) -> common_pb2.SignedDocument:
        """All content, and the receipt."""
        self.send(session, data(), frames.End())
        return self.complete(session)

    def complete(self, session: Session) -> common_pb2.SignedDocument:
        """The receipt."""
        return self.sessions.complete(session.session_id, session.manifest([2]), SENDER)
