"""The content's way to one receiver: sessions that are opened, filled, ended and signed for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from agent import receipts
from agent.disks.view import DiskView
from agent.hypervisors import Guest
from agent.settings import Settings
from agent.transfer import opening
from agent.transfer.flow import Failure, Throttle
from agent.transfer.line import Line
from agent.transfer.meter import Meter
from agent.transfer.sending import Sending, Source
from agent.transfer.steering import Steering
from watari import clock, errors, identity, tracing
from watari.identity import Identity
from watari.v1 import agent_pb2, common_pb2

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Outcome:
    """What a successful attempt leaves."""

    receipt: common_pb2.SignedDocument
    source_view: common_pb2.Receipt


@dataclass(frozen=True)
class Passage:
    """Of one attempt; its rounds go one after the other."""

    line: Line
    request: agent_pb2.StartTransferRequest
    grant: common_pb2.Grant
    guest: Guest
    own: Identity
    settings: Settings
    clock: clock.Clock
    failure: Failure
    throttle: Throttle
    metered: Callable[[Meter], None]
    ticked: Callable[[], None]
    entered: Callable[["agent_pb2.TransferState.ValueType"], None]
    number: int

    @property
    def specs(self) -> list[common_pb2.DiskSpec]:
        """The disks in the order of their numbers on the wire."""
        return sorted(self.grant.disks, key=lambda disk: disk.disk_id)

    def open(self) -> opening.Opened:
        """Opens a session, which takes the place of the one before. Raises WatariError."""
        asked = agent_pb2.OpenSessionRequest(
            migration_id=self.request.migration_id,
            grant=self.request.grant,
            definition_xml=self.guest.definition_xml,
            mode=self.request.mode,
        )
        return self.line.open(asked, self.request.options)

    def source(self, opened: opening.Opened, view: DiskView, known: opening.Known | None) -> Source:
        """What a session is to send of the view."""
        full_read = self.request.options.full_read
        return opened.source(self.specs, view.disks, known, full_read=full_read)

    def meter(self, source: Source, opened: opening.Opened) -> Meter:
        """What this round is measured with."""
        allocated = {disk.disk_id: disk.allocated_bytes for disk in self.guest.disks}
        total, data = 0, 0
        for disk_id, disk in zip(
            sorted(disk.disk_id for disk in self.guest.disks), source.disks, strict=True
        ):
            total += disk.reader.size
            changed = disk.changed_bytes
            data += min(disk.reader.size, allocated[disk_id]) if changed is None else changed
        meter = Meter(
            self.clock, total, total if self.request.options.full_read else data, self.number
        )
        meter.changed_bytes = sum(disk.changed_bytes or 0 for disk in source.disks)
        meter.round_trip_seconds = opened.round_trip_seconds
        self.metered(meter)
        return meter

    def send(
        self,
        source: Source,
        opened: opening.Opened,
        meter: Meter,
        complete: Callable[[list[int]], _Result],
    ) -> _Result:
        """Sends everything; ends the session when that fails. Raises the first error, with what the
        receiver says about it.
        """
        self.entered(agent_pb2.TRANSFER_STATE_COPYING)
        transfer, options = self.settings.transfer, self.request.options
        steering = Steering(
            level=options.compression_level or transfer.compression_level,
            streams=options.streams,
            streams_max=opened.route.streams_max,
            round_trip_seconds=opened.round_trip_seconds,
        )
        sending = Sending(
            source,
            transfer,
            steering,
            self.throttle,
            meter,
            self.failure,
            self.clock,
            ticked=self.ticked,
        )
        try:
            with _round_span(meter):
                return sending.run(opened.route, complete)
        except errors.WatariError as error:
            raise self.line.end(opened.route.session_id, error) or error from error

    def complete(
        self,
        opened: opening.Opened,
        stream_frames: list[int],
        own_view: common_pb2.Receipt,
    ) -> Outcome:
        """Has the receiver sign, and checks that it received what was read."""
        route = opened.route
        manifest = agent_pb2.Manifest(
            session_id=route.session_id, disks=own_view.disks, stream_frames=stream_frames
        )
        request = agent_pb2.CompleteSessionRequest(
            session_id=route.session_id,
            sealed_manifest=route.keys.seal_manifest(manifest.SerializeToString()),
        )
        receipt = self.line.complete(request, self.failure)
        payload, _ = identity.verify(
            self.own.trust, receipt, receipts.PURPOSE, self.line.receiver, now=self.clock.now()
        )
        receipts.compare(receipts.read(payload), own_view)
        self.failure.check()  # who cancelled meanwhile was told that it ends as cancelled
        return Outcome(receipt, own_view)


@contextmanager
def _round_span(meter: Meter) -> Iterator[None]:
    with tracing.span("round", attributes={"number": meter.round}) as span:
        try:
            yield
        finally:
            sent, wire = meter.sent_bytes, meter.wire_bytes
            span.set(read_bytes=meter.read_bytes, sent_bytes=sent, wire_bytes=wire)
