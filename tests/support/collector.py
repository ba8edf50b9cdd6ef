"""An OpenTelemetry collector: the protocol's own service, which keeps every span it is sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2


@dataclass(frozen=True)
class Span:
    """A span as it came."""

    service: str
    provider: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    attributes: dict[str, str | int]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what it is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self.endpoint = ""
        self.server = grpc.server(ThreadPoolExecutor(4))

    def stop(self) -> None:
        """Goes away."""
        self.server.stop(0).wait(5)

    def Export(
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        found = [
            Span(
                str(resource["service.name"]),
                str(resource["watari.provider"]),
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.name,
                _values(span.attributes),
            )
            for group in request.resource_spans
            for resource in [_values(group.resource.attributes)]
            for scope in group.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Span]:
        """Everything so far."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace_id: str) -> list[Span]:
        """One trace so far."""
        return [span for span in self.spans() if span.trace_id == trace_id]


def _values(attributes: "list[common_pb2.KeyValue]") -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    server = collector.server
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        collector.stop()
