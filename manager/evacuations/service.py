"""ManagerService's calls about evacuations: check a request, call the domain, return."""

from collections.abc import Callable, Iterator

import grpc

from manager import requests
from manager.evacuations.running import Evacuations
from watari import rpc, validate
from watari.v1 import manager_pb2


class EvacuationCalls:
    """The part of ManagerService that is about evacuations. Callers: own operators."""

    def __init__(
        self, evacuations: Evacuations, gone: Callable[[grpc.ServicerContext], Callable[[], bool]]
    ) -> None:
        self._evacuations = evacuations
        self._nobody_waits = gone

    def StartEvacuation(
        self, request: manager_pb2.StartEvacuationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.StartEvacuationResponse:
        started = self._evacuations.start(requests.evacuate(request), rpc.current_peer())
        return manager_pb2.StartEvacuationResponse(evacuation=started)

    def GetEvacuation(
        self, request: manager_pb2.GetEvacuationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.GetEvacuationResponse:
        evacuation_id = validate.require_uuid(request.evacuation_id, "evacuation_id")
        return manager_pb2.GetEvacuationResponse(evacuation=self._evacuations.get(evacuation_id))

    def WatchEvacuation(
        self, request: manager_pb2.WatchEvacuationRequest, context: grpc.ServicerContext
    ) -> Iterator[manager_pb2.WatchEvacuationResponse]:
        evacuation_id = validate.require_uuid(request.evacuation_id, "evacuation_id")
        with self._evacuations.watch(evacuation_id, self._nobody_waits(context)) as changes:
            for evacuation in changes:
                yield manager_pb2.WatchEvacuationResponse(evacuation=evacuation)

    def CancelEvacuation(
        self, request: manager_pb2.CancelEvacuationRequest, _context: grpc.ServicerContext
    ) -> manager_pb2.CancelEvacuationResponse:
        evacuation_id = validate.require_uuid(request.evacuation_id, "evacuation_id")
        cancelled = self._evacuations.cancel(evacuation_id, rpc.current_peer())
        return manager_pb2.CancelEvacuationResponse(evacuation=cancelled)
