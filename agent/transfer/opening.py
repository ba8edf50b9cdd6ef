"""How the sender opens a session: hands shaken, round trip measured, disks matched with seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.disks.view import ViewedDisk
from agent.seeds.fingerprints import Fingerprints
from agent.settings import Settings
from agent.transfer import handshake, plan
from agent.transfer.dataplane import Connections
from agent.transfer.geometry import PARENT_BYTES, STREAMS_MAX
from agent.transfer.merkle import DigestKeys, DiskTree
from agent.transfer.producing import Absent, SourceDisk
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
class Known:
    """What a round found out: digests, and the key that they were made with."""

    digest_key: bytes
    trees: Mapping[str, DiskTree]


@dataclass(frozen=True)
class Opened:
    """A session as its sender has it."""

    route: Route
    digest_key: bytes
    seeds: dict[str, agent_pb2.DiskSeed]
    round_trip_seconds: float
    findings: Sequence[agent_pb2.Finding] = ()
    """What the receiving host noticed about the machine."""

    def source(
        self,
        specs: Sequence[common_pb2.DiskSpec],
        viewed: Mapping[str, ViewedDisk],
        known: Known | None,
        *,
        full_read: bool,
    ) -> Source:
        """The disks in the order of their numbers, each with what the receiver can compare it with.
        What the view has not is left out of this session.
        """
        keys = DigestKeys(self.digest_key)
        before = known.trees if known is not None and known.digest_key == self.digest_key else {}
        found = [
            self._disk(spec, viewed.get(spec.disk_id), before.get(spec.disk_id), keys)
            for spec in specs
        ]
        return Source(tuple(found), keys, Fingerprints(self.digest_key), full_read)

    def known(self, source: Source, specs: Sequence[common_pb2.DiskSpec]) -> Known:
        """What the next round need not find out again."""
        trees = {spec.disk_id: disk.tree for spec, disk in zip(specs, source.disks, strict=True)}
        return Known(self.digest_key, trees)

    def _disk(
        self,
        spec: common_pb2.DiskSpec,
        viewed: ViewedDisk | None,
        before: DiskTree | None,
        keys: DigestKeys,
    ) -> SourceDisk:
        tree = DiskTree(keys, spec.size_bytes)
        if viewed is None:
            return SourceDisk(Absent(spec.size_bytes), tree)
        seed = self.seeds.get(spec.disk_id, agent_pb2.DiskSeed())
        # Blocks of a leaf say nothing about it once the leaf may be another one.
        any_offset = seed.any_offset and not viewed.live
        disk = SourceDisk(viewed.reader, tree, seed.same_offset, any_offset, viewed.live)
        if viewed.changed is None or before is None or not (before.complete and seed.same_offset):
            return disk
        changed = list(viewed.changed)
        parents = plan.touched(changed)

        def unchanged(offset: int) -> bytes | None:
            return None if offset // PARENT_BYTES in parents else before.parent(offset)

        amount = sum(extent.end - extent.start for extent in changed)
        return replace(disk, unchanged=unchanged, changed_bytes=amount)


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
    return Opened(route, response.digest_key, seeds, round_trip, response.findings)
