"""What is recorded of strangers, and what becomes of spans that nobody takes."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

import watari
from tests.support.collector import Collector, collecting
from tests.support.processes import free_port
from watari import errors, otel, service, tracing
from watari.identity import SpiffeId
from watari.settings import TelemetrySettings
from watari.tracing import Kind, Parent

OWN = SpiffeId.parse("spiffe://tokyo.example/manager/main")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"],
        [f"01-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE.upper()}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"00-{TRACE}-{SPAN}-1"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE}-{SPAN}-01\n"],
    ],
)
def test_a_traceparent_that_is_not_well_formed_is_none(values: list[str]) -> None:
    assert Parent.parse(values) is None


def test_a_traceparent_is_read() -> None:
    assert Parent.parse([f"00-{TRACE}-{SPAN}-01"]) == Parent(int(TRACE, 16), int(SPAN, 16), True)
    unsampled = Parent.parse([f"00-{TRACE}-{SPAN}-00"])
    assert unsampled is not None
    assert not unsampled.sampled


def test_the_trace_of_a_migration_follows_from_its_id() -> None:
    migration_id = "6f1f2d2e-0000-4000-8000-000000000001"
    root = Parent.of_migration(migration_id)
    assert root == Parent.of_migration(migration_id)
    assert root is not None
    assert root.trace_id == uuid.UUID(migration_id).int
    assert root.span_id
    for none in (None, "", "web", str(uuid.UUID(int=0))):
        assert Parent.of_migration(none) is None


def kept(sampler: otel.Within, trace_id: int, *, flag: int = 1) -> bool:
    """Whether a call with such a parent is recorded."""
    parent = SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(flag))
    context = set_span_in_context(NonRecordingSpan(parent))
    return bool(sampler.should_sample(context, trace_id, "call").decision.is_sampled())


def test_a_share_of_migrations_is_kept_and_the_same_one_by_every_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "ENTRIES_PER_SECOND_MAX", 1e6)
    one, other = otel.Within(0.25), otel.Within(0.25)
    ids = [uuid.uuid5(uuid.NAMESPACE_DNS, str(number)).int for number in range(2000)]
    found = [kept(one, each) for each in ids]
    assert found == [kept(other, each) for each in ids]
    assert 400 < sum(found) < 600


def test_a_peer_can_ask_for_less_and_never_for_more() -> None:
    assert not kept(otel.Within(1.0), 5, flag=0)
    assert not kept(otel.Within(0.0), 5)
    assert kept(otel.Within(1.0), 5)


def test_a_peer_that_chooses_its_traces_is_held_to_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "ENTRIES_PER_SECOND_MAX", 2.0)
    now = [100.0]
    monkeypatch.setattr(otel.time, "monotonic", lambda: now[0])
    sampler = otel.Within(1.0)
    assert sum(kept(sampler, 5) for _ in range(1000)) == 20
    now[0] += 3
    assert sum(kept(sampler, 5) for _ in range(1000)) == 6


def test_spans_carry_what_is_listed_and_codes_of_errors_but_no_messages(
    collector: Collector,
) -> None:
    with ExitStack() as stack:
        otel.start(TelemetrySettings(collector.endpoint), "manager", OWN, stack)
        with pytest.raises(KeyError), tracing.span("a", attributes={"tenant": "alice"}):
            pass
        with pytest.raises(errors.NotFound), tracing.span("b"):
            raise errors.NotFound("VM_NOT_FOUND", "no machine of alice")
        with pytest.raises(errors.NotFound), tracing.span("c"):
            raise errors.NotFound("a peer's\nwhim", "no")
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"b", "c"}
    assert spans["b"].attributes == {"error.type": "VM_NOT_FOUND"}
    assert spans["c"].attributes == {"error.type": "OTHER"}
    assert "alice" not in repr(spans)


def test_without_a_collector_spans_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel, "SPANS_QUEUED_MAX", 512)
    monkeypatch.setattr(otel, "ENTRIES_PER_SECOND_MAX", 1e6)
    monkeypatch.setattr(otel, "SHUTDOWN_SECONDS_MAX", 0.5)
    before = otel.DROPPED.labels("queue")._value.get()
    with ExitStack() as stack:
        endpoint = f"http://127.0.0.1:{free_port()}"
        otel.start(TelemetrySettings(endpoint), "manager", OWN, stack)
        for _ in range(5000):
            with tracing.span("call", Kind.SERVER):
                pass
        dropped = otel.DROPPED.labels("queue")._value.get() - before
        assert dropped >= 5000 - 512 - 2 * otel.SPANS_PER_BATCH_MAX
    assert not tracing.on()


def test_an_endpoint_without_the_extra_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "watari.otel")
    monkeypatch.delattr(watari, "otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    settings = TelemetrySettings("http://127.0.0.1:4317")
    with ExitStack() as stack, pytest.raises(errors.InvalidArgument) as caught:
        service._trace(settings, "manager", SimpleNamespace(stack=stack))  # type: ignore[arg-type]
    assert caught.value.reason == "CONFIG_INVALID"
    assert "watari[otel]" in caught.value.hint


def test_an_endpoint_is_an_address_of_http() -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        TelemetrySettings("127.0.0.1:4317")


def test_nothing_of_opentelemetry_is_imported_while_it_is_off() -> None:
    code = (
        "import sys, manager.__main__\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", "import watari.tls\n" + code], check=True, timeout=60)


def test_a_span_ends_with_its_block_and_leaves_nothing_behind() -> None:
    tracing.install(otel._Recorder(TracerProvider(shutdown_on_exit=False).get_tracer("test")))
    try:
        with tracing.span("outer") as outer, tracing.span("inner") as inner:
            assert outer.traceparent[:35] == inner.traceparent[:35]
            assert outer.traceparent != inner.traceparent
        assert not get_current_span().get_span_context().is_valid
    finally:
        tracing.remove()
