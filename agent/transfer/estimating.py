"""A dry run: the digests are exchanged, a sample is compressed and sent, and nothing is kept.

1. The session is opened with a grant that is good for nothing else.
2. Everything is looked at and offered as in a transfer; what the destination lacks is only counted,
   except for a sample that is packed.
3. The sample goes over the data connections again and again for a moment: the rate is that of its
   second half, when the connections have got through their slow start.
"""

import threading
import uuid
from contextlib import ExitStack
from dataclasses import dataclass

from agent import grants
from agent.disks import open_reader
from agent.hypervisors import Guest
from agent.settings import Settings
from agent.transfer import frames, opening
from agent.transfer.attempt import abort, check_granted_disks
from agent.transfer.dataplane import Connections
from agent.transfer.flow import Failure, Throttle
from agent.transfer.meter import Meter
from agent.transfer.sending import Burst, Sending, Source, Survey
from agent.transfer.steering import Steering
from watari import clock, errors
from watari.identity import Identity
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

SAMPLE_BYTES_MAX = 16 * 1024 * 1024
"""Content of the sample, spread over what is needed."""

BURST_SECONDS = 2.0
"""How long the sample is sent to find out the rate."""

BURST_SHARE_MAX = 0.5
"""Share of the bytes in the grant that the sample may take; the offers are counted there too."""

HANDSHAKES = 6
"""Round trips of a transfer before and after its content."""


class Sample:
    """Takes one frame in so many; the others are only counted, by the meter. Any thread may ask."""

    def __init__(self, expected_bytes: int) -> None:
        self._stride = max(1, expected_bytes // SAMPLE_BYTES_MAX)
        self._seen = 0
        self._due = 0
        self._lock = threading.Lock()
        self.frames: list[frames.Data] = []

    def wants(self, length: int) -> bool:
        """Whether this frame is part of the sample."""
        with self._lock:
            wanted = self._seen >= self._due and self.content_bytes < SAMPLE_BYTES_MAX
            self._seen += length
            if wanted:
                self._due = self._seen + (self._stride - 1) * length
            return wanted

    def put(self, frame: frames.Frame) -> None:
        """Keeps content."""
        if isinstance(frame, frames.Data):
            with self._lock:
                self.frames.append(frame)

    @property
    def content_bytes(self) -> int:
        """Content of the sample so far."""
        return sum(frame.length for frame in self.frames)

    @property
    def ratio(self) -> float:
        """Bytes on the wire for each byte of content; 1 without a sample."""
        content = self.content_bytes
        wire = sum(frames.message_bytes(frame) for frame in self.frames)
        return wire / content if content else 1.0


@dataclass(frozen=True)
class Estimate:
    """Everything that an estimate is made from."""

    request: agent_pb2.EstimateTransferRequest
    guest: Guest
    own: Identity
    settings: Settings
    clock: clock.Clock
    channels: client.ChannelPool
    failure: Failure

    def run(self) -> agent_pb2.EstimateTransferResponse:
        """Raises the first WatariError."""
        grant = self._checked_grant()
        target = client.Target.of(self.request.destination_control)
        stub = agent_pb2_grpc.TransferServiceStub(self.channels.get(target))
        with ExitStack() as stack:
            connections = Connections(
                self.own, self.clock, self.settings.transfer.connect_seconds_max
            )
            stack.callback(connections.close)
            disks = sorted(self.guest.disks, key=lambda disk: disk.disk_id)
            readers = [stack.enter_context(open_reader(disk.path, disk.format)) for disk in disks]
            opened = opening.open_session(
                opening.Opening(
                    stub,
                    target.spiffe_id,
                    self._open_request(grant),
                    connections,
                    self.own,
                    self.settings,
                    self.clock,
                )
            )
            session_id = opened.route.session_id
            total = sum(disk.size_bytes for disk in disks)
            data = sum(min(disk.size_bytes, disk.allocated_bytes) for disk in disks)
            meter = Meter(self.clock, total, data, round_trip_seconds=opened.round_trip_seconds)
            source = opened.source(disks, readers, full_read=self.request.options.full_read)
            sending = self._sending(source, opened, meter)
            sample = Sample(data)
            burst = Burst(BURST_SECONDS, int(grant.bytes_max * BURST_SHARE_MAX))
            try:
                found = sending.survey(opened.route, sample, lambda: sample.frames, burst)
            except errors.WatariError as error:
                told = abort(stub, session_id, self.settings, error)
                raise told or error from error
            abort(stub, session_id, self.settings)
            return self._response(meter, sample, found, opened.round_trip_seconds)

    def _checked_grant(self) -> common_pb2.Grant:
        grant = grants.check(self.request.grant, self.own.trust, self.clock.now())
        manager, guest = self.settings.manager, self.guest
        grants.check_sender(grant, self.own.spiffe_id, manager, guest.vm_id, guest.epoch)
        grants.check_purpose(grant, dry_run=True)
        check_granted_disks(grant, self.guest)
        return grant

    def _open_request(self, grant: common_pb2.Grant) -> agent_pb2.OpenSessionRequest:
        transfer, options = self.settings.transfer, self.request.options
        return agent_pb2.OpenSessionRequest(
            session_id=str(uuid.uuid4()),
            migration_id=grant.migration_id,
            grant=self.request.grant,
            definition_xml=self.guest.definition_xml,
            cipher_key_bits=options.cipher_key_bits or transfer.cipher_key_bits,
            streams=options.streams or transfer.streams_max,
            dry_run=True,
        )

    def _sending(self, source: Source, opened: opening.Opened, meter: Meter) -> Sending:
        transfer, options = self.settings.transfer, self.request.options
        steering = Steering(
            level=options.compression_level or transfer.compression_level,
            streams=options.streams,
            streams_max=opened.route.streams_max,
            round_trip_seconds=opened.round_trip_seconds,
        )
        cap = options.limit_bytes_per_second
        throttle = Throttle(self.failure, self.clock, cap)
        return Sending(
            source, transfer, steering, throttle, meter, self.failure, self.clock, dry_run=True
        )

    def _response(
        self, meter: Meter, sample: Sample, found: Survey, round_trip: float
    ) -> agent_pb2.EstimateTransferResponse:
        cap, rate = self.request.options.limit_bytes_per_second, found.rate_bytes_per_second
        rate = min(rate, cap) if cap and rate else rate or cap
        wire = int(meter.needed_bytes * sample.ratio) + meter.offered_wire_bytes
        sending = wire / rate if rate else 0.0
        seconds = max(found.looked_seconds, sending) + HANDSHAKES * round_trip
        return agent_pb2.EstimateTransferResponse(
            unique_bytes=meter.needed_bytes,
            wire_bytes=wire,
            duration_seconds=seconds,
            downtime_seconds=seconds,
            total_bytes=meter.total_bytes,
            zero_bytes=meter.zero_bytes,
            deduplicated_bytes=meter.deduplicated_bytes,
            rate_bytes_per_second=int(rate),
            round_trip_seconds=round_trip,
        )
