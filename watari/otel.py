"""Records spans with OpenTelemetry and sends them to a collector: `watari[otel]`.

```
span ends -> Gate (counts, bounded) -> batches, in a thread -> Counted exporter -> collector
```

Nothing of it makes a call wait or fail. Spans that the collector does not take in time are dropped
and counted.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes
from prometheus_client import Counter

from watari import __version__, tracing
from watari.identity import SpiffeId
from watari.settings import TelemetrySettings
from watari.tracing import Kind, Parent, Value

SPANS_QUEUED_MAX = 2048
"""Spans that wait for the collector, those of a batch under way included; one has about 1 KiB."""

SPANS_PER_BATCH_MAX = 256
BATCH_SECONDS = 1.0

EXPORT_SECONDS_MAX = 5.0
"""Deadline of a batch, its repetitions included."""

SHUTDOWN_SECONDS_MAX = 3.0
"""What the last batch is given when a server stops."""

ENTRIES_PER_SECOND_MAX = 200.0
"""Spans that may begin without a recorded one around them: calls of peers, who choose their trace's
id and so what the ratio says of it. Ten seconds' worth at once."""

_RANDOM_BITS = 56
"""Of a trace's id, from the right, that are random in every UUID and by the W3C's level 2."""

EXPORTED = Counter("watari_trace_spans_exported", "Spans that the collector took.")
DROPPED = Counter("watari_trace_spans_dropped", "Spans that were lost, by why.", ["why"])

_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}", re.ASCII)

OTHER = "OTHER"
"""Stands for reasons that are no codes."""

_root: ContextVar[Parent | None] = ContextVar("watari_trace_root", default=None)


def start(settings: TelemetrySettings, service: str, identity: SpiffeId, stack: ExitStack) -> None:
    """Has this process record its spans until the stack is closed."""
    exporter = OTLPSpanExporter(
        settings.otlp_endpoint,
        insecure=settings.otlp_endpoint.startswith("http://"),
        timeout=EXPORT_SECONDS_MAX,
    )
    gate = Gate(exporter)
    resource = Resource(
        {
            "service.name": f"watari-{service}",
            "service.version": __version__,
            "service.instance.id": str(identity),
            "watari.provider": identity.domain,
        }
    )
    provider = TracerProvider(
        sampler=Within(settings.sample_ratio),
        resource=resource,
        id_generator=_Ids(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(gate)
    stack.callback(gate.shutdown)
    stack.callback(tracing.remove)
    tracing.install(_Recorder(provider.get_tracer("watari", __version__)))


class Gate(SpanProcessor):
    """Lets in what there is room for."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stopped = False
        self._batches = BatchSpanProcessor(
            _Counted(exporter, self._left),
            max_queue_size=SPANS_QUEUED_MAX,
            max_export_batch_size=SPANS_PER_BATCH_MAX,
            schedule_delay_millis=BATCH_SECONDS * 1000,
            export_timeout_millis=EXPORT_SECONDS_MAX * 1000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context.trace_flags.sampled:
            return
        with self._lock:
            if self._stopped or self._inside >= SPANS_QUEUED_MAX:
                DROPPED.labels("queue").inc()
                return
            self._inside += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Sends what is left, for as long as that may take."""
        with self._lock:
            self._stopped = True
        # The SDK's own waits longer for a collector that is away than a server may take to stop.
        thread = threading.Thread(target=self._batches.shutdown, daemon=True)
        thread.start()
        thread.join(SHUTDOWN_SECONDS_MAX)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._batches.force_flush(timeout_millis)

    def _left(self, number: int) -> None:
        with self._lock:
            self._inside -= number


class _Counted(SpanExporter):
    """Counts what becomes of spans."""

    def __init__(self, exporter: SpanExporter, left: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._left = left

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._left(len(spans))
            if result is SpanExportResult.SUCCESS:
                EXPORTED.inc(len(spans))
            else:
                DROPPED.labels("collector").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Within(Sampler):
    """Keeps a trace by its id, within what this process bears.

    A caller's flag can only say no: whoever says yes gets what the ratio and the rate allow.
    """

    def __init__(self, ratio: float) -> None:
        self._bound = round(ratio * (1 << _RANDOM_BITS))
        self._lock = threading.Lock()
        self._room_max = ENTRIES_PER_SECOND_MAX * 10
        self._room, self._at = self._room_max, time.monotonic()

    def should_sample(
        self,
        parent_context: otel_context.Context | None,
        trace_id: int,
        name: str,  # noqa: ARG002 - the SDK's
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.is_remote:
            kept = parent.trace_flags.sampled
        else:
            asked = parent.trace_flags.sampled if parent.is_valid else True
            low = trace_id & ((1 << _RANDOM_BITS) - 1)
            kept = asked and low < self._bound and self._take()
        if not kept:
            return SamplingResult(Decision.DROP)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "watari"

    def _take(self) -> bool:
        with self._lock:
            now = time.monotonic()
            gained = (now - self._at) * ENTRIES_PER_SECOND_MAX
            self._room, self._at = min(self._room_max, self._room + gained), now
            if self._room < 1:
                DROPPED.labels("rate").inc()
                return False
            self._room -= 1
            return True


class _Ids(RandomIdGenerator):
    """Random ids, except for the root span of a migration."""

    def generate_trace_id(self) -> int:
        root = _root.get()
        return root.trace_id if root else super().generate_trace_id()

    def generate_span_id(self) -> int:
        root = _root.get()
        return root.span_id if root else super().generate_span_id()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self.span = span
        context = span.get_span_context()
        flags = int(context.trace_flags) & 1
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"

    def set(self, **attributes: Value) -> None:
        self.span.set_attributes(_named(attributes))

    def end(self, error: str = "") -> None:
        if not self.span.is_recording():
            return
        if error:
            # A peer's reason may be any text; codes are what ours look like.
            code = error if _CODE.fullmatch(error) else OTHER
            self.span.set_attribute("error.type", code)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class _Recorder:
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self, name: str, kind: Kind, parent: Parent | None, attributes: dict[str, Value]
    ) -> tracing.Span:
        context = None
        if parent is not None and not trace.get_current_span().get_span_context().is_valid:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if parent.sampled else 0)
            remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        span = self._tracer.start_span(name, context, _KINDS[kind], _named(attributes))
        return _Span(span)

    @contextmanager
    def current(self, span: tracing.Span) -> Iterator[None]:
        assert isinstance(span, _Span)  # noqa: S101 - from `begin`
        token = otel_context.attach(trace.set_span_in_context(span.span))
        try:
            yield
        finally:
            otel_context.detach(token)

    def migration(self, root: Parent, began: int, ended: int, values: dict[str, Value]) -> None:
        token = _root.set(root)
        try:
            span = self._tracer.start_span(
                "migration",
                otel_context.Context(),
                attributes=_named(values),
                start_time=began * 1000,
            )
        finally:
            _root.reset(token)
        span.end(ended * 1000)


def _named(attributes: dict[str, Value]) -> dict[str, Value]:
    return {tracing.NAMES[name]: value for name, value in attributes.items()}
