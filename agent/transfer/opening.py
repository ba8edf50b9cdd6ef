"""How the sender opens a session: hands shaken, round trip measured, disks matched with seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.disks import DiskReader
from agent.hypervisors import Disk
from agent.seeds.fingerprints import Fingerprints
from agent.settings import Settings
from agent.transfer import handshake
from agent.transfer.dataplane import Connections
from agent.transfer.geometry import STREAMS_MAX
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.producing import SourceDisk
from agent.transfer.sending import Route, Source
from watari import clock, errors, failpoint
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

OPENED = failpoint.declare("agent.attempt.session_opened")


@dataclass(frozen=True)
class Opening:
    """Everything that opening a session takes."""

    stub: agent_pb2_grpc.TransferServiceStub
    receiver: SpiffeId
    request: agent_pb2.OpenSessionRequest
    connections: Connections
    own: Identity
    settings: Settings
    clock: clock.Clock


@dataclass(frozen=True)
class Opened:
    """A session as its sender has it."""

    route: Route
    digest_key: bytes
    seeds: dict[str, agent_pb2.DiskSeed]
    round_trip_seconds: float

    def source(
        self, disks: Sequence[Disk], readers: Sequence[DiskReader], *, full_read: bool
    ) -> Source:
        """The disks, each with what the receiver can compare it with."""
        keys = DigestKeys(self.digest_key)
        found = []
        for disk, reader in zip(disks, readers, strict=True):
            seed = self.seeds.get(disk.disk_id, agent_pb2.DiskSeed())
            tree = DiskTree(keys, reader.size)
            found.append(SourceDisk(reader, tree, seed.same_offset, seed.any_offset))
        return Source(tuple(found), keys, Fingerprints(self.digest_key), full_read)


def open_session(opening: Opening) -> Opened:
    """Opens the session that the request describes. Raises WatariError, also when the destination
    takes data without TLS and this agent insists on it.
    """
    asked = handshake.ask(opening.request, opening.own, opening.receiver)
    timeout = opening.settings.transfer.connect_seconds_max
    response = client.call(
        opening.stub.OpenSession, opening.request, timeout_seconds=timeout, idempotent=True
    )
    keys = handshake.conclude(asked, response, opening.own, opening.clock.now())
    failpoint.hit(OPENED)
    if opening.settings.transfer.data_tls and not response.data.spiffe_id:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            "this agent sends under TLS only, and the destination's data port has none",
            hint="set data_tls = true in [agent.transfer] there, or false here",
        )
    opening.connections.aim(response.data)
    streams = max(1, min(response.streams, opening.request.streams, STREAMS_MAX))
    route = Route(
        opening.request.session_id,
        keys,
        opening.connections,
        streams,
        response.credit_bytes,
        common_pb2.Grant.FromString(opening.request.grant.granted.payload).bytes_max,
    )
    seeds = {seed.disk_id: seed for seed in response.seeds}
    round_trip = opening.connections.round_trip_seconds()
    return Opened(route, response.digest_key, seeds, round_trip)
