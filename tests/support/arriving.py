"""The receiving half of an agent in the test's own process, and a sender by hand."""

import os
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent import stored
from agent.disks import open_reader
from agent.hypervisors.shelf import Shelf, staged_disk
from agent.receipts import build
from agent.seeds.catalogue import SeedCatalogue
from agent.seeds.scopes import Scopes
from agent.settings import Settings, TransferSettings
from agent.transfer import frames, handshake
from agent.transfer.arriving import Known, Place, open_disks
from agent.transfer.comparing import Comparing
from agent.transfer.dataplane import StreamId
from agent.transfer.geometry import LEAF_BYTES, whole_mask
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.sessions import Sessions
from agent.transfer.settling import GROUP_SECONDS
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


class StandingClock(FakeClock):
    """Time that stands still, but for the blinks in which a receiver gathers frames."""

    def wait(self, event: threading.Event, timeout_seconds: float) -> bool:
        """Does not wait for a blink."""
        if timeout_seconds <= GROUP_SECONDS:
            return event.is_set()
        return super().wait(event, timeout_seconds)


def data(
    content: bytes = CONTENT,
    offset: int = 0,
    disk: int = 0,
    *,
    digest_of: bytes | None = None,
    key: bytes = DIGEST_KEY,
) -> frames.Data:
    """A frame with whole leaves, and the digests of them or of something else."""
    digests = DigestKeys(key).leaves(content if digest_of is None else digest_of)
    lengths = [min(LEAF_BYTES, len(content) - at) for at in range(0, len(content), LEAF_BYTES)]
    masks = tuple(whole_mask(length) for length in lengths)
    return frames.Data(
        disk, offset, len(content), masks, b"".join(digests), content, compressed=False
    )


def place(folder: Path, *, keep: bool = False) -> Place:
    """Raw disks in a folder, with their journals beside them."""
    return Place(
        lambda disk_id: folder / staged_disk(disk_id),
        lambda disk_id: folder / f"{disk_id}.journal",
        defaultdict(lambda: "raw"),
        keep,
    )


def arriving(folder: Path, *sizes: int, known: Known | None = None) -> list[Comparing]:
    """Empty disks vda, vdb and so on in a folder."""
    specs = [
        common_pb2.DiskSpec(disk_id=f"vd{chr(ord('a') + number)}", size_bytes=size)
        for number, size in enumerate(sizes)
    ]
    return open_disks(specs, DIGEST_KEY, place(folder), known or Known({}, None))


@dataclass
class Session:
    """An open session, as its sender has it. Data streams are numbered from 1."""

    grant: common_pb2.Grant
    session_id: str
    xml: str
    keys: SessionKeys
    digest_key: bytes = DIGEST_KEY
    response: agent_pb2.OpenSessionResponse = field(default_factory=agent_pb2.OpenSessionResponse)

    def sealed(self, sent: Iterable[frames.Frame], number: int = 1) -> Iterator[bytes]:
        """The messages of a stream."""
        sealer, _ = self.keys.sender_stream(number)
        return (sealer.seal(frame) for frame in sent)

    def opened(self, answers: Iterable[bytes], number: int = 1) -> Iterator[frames.Frame]:
        """What the receiver says on a stream."""
        _, opener = self.keys.sender_stream(number)
        return (opener.open(message) for message in answers)

    def data(
        self, content: bytes = CONTENT, offset: int = 0, *, digest_of: bytes | None = None
    ) -> frames.Data:
        """A frame with whole leaves under the session's digest key."""
        return data(content, offset, digest_of=digest_of, key=self.digest_key)

    def manifest(self, counts: list[int]) -> bytes:
        """What a sender of CONTENT says that it sent, sealed; frames by stream, from 0 on."""
        keys = DigestKeys(self.digest_key)
        tree = DiskTree(keys, DISK_BYTES)
        tree.put_leaves(0, keys.leaves(CONTENT))
        own = build(self.grant, keys, [(self.grant.disks[0], tree)], self.xml, 0)
        manifest = agent_pb2.Manifest(
            session_id=self.session_id, disks=own.disks, stream_frames=counts
        )
        return self.keys.seal_manifest(manifest.SerializeToString())


@dataclass
class Destination:
    """A host that takes machines in."""

    federation: Federation
    folder: Path
    transfer: TransferSettings = TransferSettings()
    clock: FakeClock = field(default_factory=lambda: StandingClock(datetime.now(UTC)))

    def __post_init__(self) -> None:
        self.own = self.federation.party(str(RECEIVER))
        self.shelf = Shelf(self.folder, self.clock, 3600)
        self.scopes = Scopes(self.folder / "seeds")
        self.seeds = SeedCatalogue(
            self.folder / "seeds" / "indexes",
            self.scopes,
            lambda: stored.images(self.shelf, OSAKA, None),
            open_reader,
            self.clock,
        )
        self.sessions = self.restarted()

    def close(self) -> None:
        """Ends sessions and gives the shelf back."""
        self.sessions.close()
        self.seeds.close()
        self.shelf.close()

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
        return Sessions(
            incoming, self.shelf, self.seeds, self.scopes, self.own, settings, self.clock
        )

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
            cipher_key_bits=128,
            streams=1,
        )
        own = self.federation.party(str(SENDER))
        opening = handshake.ask(request, own, RECEIVER)
        response = self.sessions.open(request, SENDER)
        keys = handshake.conclude(opening, response, own, self.clock.now())
        return Session(
            grant,
            request.session_id,
            request.definition_xml,
            keys,
            response.digest_key,
            response,
        )

    def send(self, session: Session, *sent: frames.Frame, number: int = 1) -> list[frames.Frame]:
        """One whole stream, and what it was answered."""
        stream = StreamId(session.session_id, number)
        answers = self.sessions.accept(stream, session.sealed(sent, number), lambda: None)
        return list(session.opened(answers, number))

    def arrive(self, session: Session) -> common_pb2.SignedDocument:
        """All content, and the receipt."""
        self.send(session, session.data(), frames.End())
        return self.complete(session)

    def complete(self, session: Session) -> common_pb2.SignedDocument:
        """The receipt."""
        return self.sessions.complete(session.session_id, session.manifest([0, 2]), SENDER)
