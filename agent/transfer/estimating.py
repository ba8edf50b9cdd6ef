"""A dry run: the digests are exchanged, a sample is compressed and sent, and nothing is kept.

1. The session is opened with a grant that is good for nothing else.
2. Everything is looked at and offered as in a transfer; what the destination lacks is only counted,
   except for a sample that is packed.
3. The sample goes over the data connections again and again for a moment: the rate is that of its
   second half, when the connections have got through their slow start.
"""

import threading
from contextlib import ExitStack
from dataclasses import dataclass

from agent import grants
from agent.disks.view import DiskView
from agent.hypervisors import COLD, WARM, Guest, Hypervisor
from agent.settings import Settings
from agent.transfer import foreseen, frames, opening
from agent.transfer.attempt import check_granted_disks
from agent.transfer.flow import Failure, Throttle
from agent.transfer.line import Line
from agent.transfer.meter import Meter
from agent.transfer.rounds import DOWNTIME_SECONDS_TARGET
from agent.transfer.sending import Burst, Sending, Source, Survey
from agent.transfer.steering import Steering
from watari import __version__, clock, errors
from watari.identity import Identity
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

SAMPLE_BYTES_MAX = 16 * 1024 * 1024
"""Content of the sample, spread over what is needed."""

BURST_SECONDS = 2.0
"""How long the sample is sent to find out the rate."""

BURST_SHARE_MAX = 0.5
"""Share of the bytes in the grant that the sample may take; the offers are counted there too."""

FINDINGS_MAX = 64
"""Findings in one answer."""

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
    hypervisor: Hypervisor
    own: Identity
    settings: Settings
    clock: clock.Clock
    channels: client.ChannelPool
    failure: Failure

    def run(self) -> agent_pb2.EstimateTransferResponse:
        """Raises the first WatariError."""
        grant = self._checked_grant()
        target = client.Target.of(self.request.destination_control)
        line = Line(target, self.own, self.settings, self.clock, self.channels)
        with ExitStack() as stack:
            stack.callback(line.close)
            opened = line.open(self._open_request(grant), self.request.options)
            try:
                view = self.hypervisor.glimpse(self.guest.vm_id)
                if view is None:
                    return self._answer(opened)
                return self._survey(grant, opened, stack.enter_context(view))
            except errors.WatariError as error:
                raise line.end(opened.route.session_id, error) or error from error
            finally:
                line.end(opened.route.session_id)

    def _survey(
        self, grant: common_pb2.Grant, opened: opening.Opened, view: DiskView
    ) -> agent_pb2.EstimateTransferResponse:
        total = sum(disk.size_bytes for disk in grant.disks)
        data = sum(min(disk.size_bytes, disk.allocated_bytes) for disk in grant.disks)
        meter = Meter(self.clock, total, data, round_trip_seconds=opened.round_trip_seconds)
        specs = sorted(grant.disks, key=lambda disk: disk.disk_id)
        full_read = self.request.options.full_read
        source = opened.source(specs, view.disks, None, full_read=full_read)
        sample = Sample(data)
        burst = Burst(BURST_SECONDS, int(grant.bytes_max * BURST_SHARE_MAX))
        sending = self._sending(source, opened, meter)
        found = sending.survey(opened.route, sample, lambda: sample.frames, burst)
        return self._response(meter, sample, found, opened)

    def _checked_grant(self) -> common_pb2.Grant:
        grant = grants.check(self.request.grant, self.own.trust, self.clock.now())
        manager, guest = self.settings.manager, self.guest
        grants.check_sender(grant, self.own.spiffe_id, manager, guest.vm_id, guest.epoch)
        grants.check_purpose(grant, dry_run=True)
        check_granted_disks(grant, self.guest)
        return grant

    def _open_request(self, grant: common_pb2.Grant) -> agent_pb2.OpenSessionRequest:
        return agent_pb2.OpenSessionRequest(
            migration_id=grant.migration_id,
            grant=self.request.grant,
            definition_xml=self.guest.definition_xml,
            dry_run=True,
            mode=self.request.mode,
            agent_version=__version__,
            hypervisor_version=self.hypervisor.version(),
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
        self, meter: Meter, sample: Sample, found: Survey, opened: opening.Opened
    ) -> agent_pb2.EstimateTransferResponse:
        cap, rate = self.request.options.limit_bytes_per_second, found.rate_bytes_per_second
        rate = min(rate, cap) if cap and rate else rate or cap
        wire = int(meter.needed_bytes * sample.ratio) + meter.offered_wire_bytes
        sending = wire / rate if rate else 0.0
        seconds = max(found.looked_seconds, sending) + HANDSHAKES * opened.round_trip_seconds
        answer = self._answer(opened)
        answer.MergeFrom(
            agent_pb2.EstimateTransferResponse(
                unique_bytes=meter.needed_bytes,
                wire_bytes=wire,
                duration_seconds=seconds,
                downtime_seconds=self._downtime(seconds),
                total_bytes=meter.total_bytes,
                zero_bytes=meter.zero_bytes,
                deduplicated_bytes=meter.deduplicated_bytes,
                rate_bytes_per_second=int(rate),
                compared=True,
            )
        )
        return answer

    def _answer(self, opened: opening.Opened) -> agent_pb2.EstimateTransferResponse:
        """What is known without the content."""
        mode = self.request.mode or COLD
        own = self.hypervisor.obstacles(self.guest.vm_id, mode)
        way = foreseen.link(
            mode=mode,
            running=self._runs,
            target_seconds=self._downtime_aimed,
            round_trip_seconds=opened.round_trip_seconds,
        )
        worst_first = sorted([*own, *opened.findings, *way], key=lambda each: -each.severity)
        return agent_pb2.EstimateTransferResponse(
            total_bytes=sum(disk.size_bytes for disk in self.guest.disks),
            round_trip_seconds=opened.round_trip_seconds,
            findings=worst_first[:FINDINGS_MAX],
        )

    def _downtime(self, seconds: float) -> float:
        """In mode warm a machine that runs is copied before it is stopped: what is aimed at."""
        warm = self.request.mode == WARM and self._runs
        return min(seconds, self._downtime_aimed) if warm else seconds

    @property
    def _runs(self) -> bool:
        return self.guest.state == agent_pb2.GUEST_STATE_RUNNING

    @property
    def _downtime_aimed(self) -> float:
        return float(self.request.options.downtime_seconds_target or DOWNTIME_SECONDS_TARGET)
