"""BrokerService: checks requests and calls the domain."""

import grpc

from broker import demands, metrics, place
from broker.automation.desk import Desk
from broker.automation.service import AutomationCalls
from broker.batch.batcher import Batcher
from broker.catalogue import Catalogue
from broker.migrate import Migrator
from watari import rpc, validate
from watari.clock import Clock
from watari.v1 import broker_pb2, broker_pb2_grpc

VM_BYTES_MAX = 256
"""Longest name of a machine."""


class BrokerServicer(AutomationCalls, broker_pb2_grpc.BrokerServiceServicer):
    """Placement, and automatic placement where it is switched on."""

    def __init__(
        self,
        catalogue: Catalogue,
        migrator: Migrator,
        batcher: Batcher,
        clock: Clock,
        desk: Desk | None = None,
    ) -> None:
        AutomationCalls.__init__(self, desk)
        self._catalogue = catalogue
        self._migrator = migrator
        self._batcher = batcher
        self._clock = clock

    def Place(
        self, request: broker_pb2.PlaceRequest, _context: grpc.ServicerContext
    ) -> broker_pb2.PlaceResponse:
        with metrics.asked("Place"):
            validate.require_uuid(request.request_id, "request_id")
            wanted = demands.of_place(request)
            snapshot = self._catalogue.current(request.directory_revision_min)
            now = self._clock.now()
            return place.response(place.place(snapshot, wanted, now), wanted.candidates_max, now)

    def Migrate(
        self, request: broker_pb2.MigrateRequest, context: grpc.ServicerContext
    ) -> broker_pb2.MigrateResponse:
        with metrics.asked("Migrate"):
            validate.require_uuid(request.migration_id, "migration_id")
            validate.require_text(request.vm, "vm", bytes_max=VM_BYTES_MAX, empty=False)
            demands.of_migrate(request)
            left = context.time_remaining()
            return self._migrator.migrate(request, rpc.current_peer(), left)

    def PlaceBatch(
        self, request: broker_pb2.PlaceBatchRequest, context: grpc.ServicerContext
    ) -> broker_pb2.PlaceBatchResponse:
        with metrics.asked("PlaceBatch"):
            validate.require_uuid(request.request_id, "request_id")
            return self._batcher.place(request, context.time_remaining())
