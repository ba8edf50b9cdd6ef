"""What a whole federation tells of a migration that crosses it, through a crash in the middle."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_metrics import fetched
from tests.support import local as locals_
from tests.support.collector import Collector, Span, collecting
from tests.support.local import NAMES, Local, wait_until
from tests.support.shelves import MIB, Content
from watari.tracing import Parent
from watari.v1 import manager_pb2

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
ROLES = ("directory", "manager", "broker", "agent")
DISK = Content(16 * MIB, ((0, 4 * MIB), (12 * MIB, MIB)))


def environ(endpoint: str) -> dict[str, str]:
    """Metrics on a port of each one's own, and traces for a collector."""
    settings = {"METRICS__ADDRESS": "127.0.0.1:0", "TELEMETRY__OTLP_ENDPOINT": endpoint}
    return {
        f"WATARI_{role.upper()}_{name}": value for role in ROLES for name, value in settings.items()
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("telemetry") / "federation"
    yield from locals_.running(folder, environ(collector.endpoint))


def page(local: Local, name: str) -> dict[str, float]:
    """What a process tells Prometheus now."""
    log = (local.layout.root / "logs" / f"{name}.log").read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    (*_, told) = (line for line in lines if line["event"] == "metrics")
    return fetched(f"127.0.0.1:{told['port']}")


def test_a_migration_through_a_crash_is_one_trace_of_both_providers_and_shows_in_the_metrics(
    local: Local, collector: Collector
) -> None:
    vm_id = local.put("web-of-a-tenant", DISK)
    migration_id = local.migrate(vm_id, limit_bytes_per_second=2 * MIB)
    wait_until(lambda: local.migration(migration_id).progress.done_bytes > MIB, 60)
    wait_until(lambda: any(s.name == "saga reserve" for s in collector.spans()), 60)
    assert local.migration(migration_id).state == manager_pb2.MIGRATION_STATE_COPYING
    local.kill("tokyo-manager")
    local.up(**environ(collector.endpoint))
    ended = local.wait_ended(migration_id)
    assert ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED

    trace_id = uuid.UUID(migration_id).hex
    root = Parent.of_migration(migration_id)
    assert root is not None
    wait_until(lambda: any(s.name == "migration" for s in collector.trace(trace_id)), 60)
    wait_until(lambda: any(s.name == "transfer" for s in collector.trace(trace_id)), 60)
    wait_until(
        lambda: (
            {s.service for s in collector.trace(trace_id) if "osaka" in s.provider}
            == {"watari-manager", "watari-agent"}
        ),
        60,
    )
    spans = collector.trace(trace_id)
    by_id = {span.span_id: span for span in spans}
    assert by_id[f"{root.span_id:016x}"].name == "migration"

    def under(span: Span) -> str:
        return by_id[span.parent_id].name

    steps = [span for span in spans if span.name.startswith("saga ")]
    assert {"saga reserve", "saga copy", "saga hand_over", "saga retire"} <= {
        span.name for span in steps
    }
    assert {under(span) for span in steps} == {"migration"}
    (attempt,) = [span for span in spans if span.name == "transfer"]
    assert under(attempt) == "migration"
    (last,) = [span for span in spans if span.name == "round"]
    assert under(last) == "transfer"
    assert last.attributes["watari.bytes.read"] >= 5 * MIB
    (reserved,) = [
        span for span in spans if span.name.endswith("/Reserve") and "osaka" in span.provider
    ]
    asking = by_id[reserved.parent_id]
    assert "tokyo" in asking.provider
    assert under(asking) == "saga reserve"
    told = repr(collector.spans())
    assert "web-of-a-tenant" not in told
    assert "<domain" not in told

    source, destination = page(local, "tokyo-manager"), page(local, "osaka-manager")
    assert source['watari_manager_migration_seconds_count{state="succeeded"}'] == 1
    assert source['watari_manager_migrations{state="copying"}'] == 0
    assert source['watari_manager_owed_calls{kind="unhold"}'] == 0
    assert source["watari_manager_audit_head_sequence"] > 5
    assert source['watari_manager_hosts{reachable="true"}'] == 1
    assert destination['watari_manager_inventory_allocated{class="disk_bytes"}'] == DISK.size
    assert destination['watari_manager_reservations{state="confirmed"}'] == 0
    sent, received = page(local, "tokyo-agent"), page(local, "osaka-agent")
    assert sent['watari_agent_bytes_total{what="read"}'] >= 5 * MIB
    assert sent['watari_agent_transfers{state="succeeded"}'] == 1
    assert sent["watari_agent_hypervisor_up"] == 1
    wire = received['watari_agent_bytes_total{what="received"}']
    assert 0 < wire <= sent['watari_agent_bytes_total{what="sent"}']
    method = 'code="OK",method="/watari.v1.ReservationService/Reserve"'
    assert destination[f"watari_rpc_calls_total{{{method}}}"] == 1
    assert page(local, "tokyo-manager")["watari_trace_spans_exported_total"] > 0


def test_every_metric_of_every_server_is_documented_and_no_other(local: Local) -> None:
    there = set()
    for name in NAMES:
        found = page(local, name)
        assert "process_resident_memory_bytes" in found
        for each in found:
            there.add(re.sub(r"_(bucket|count|sum|created|total)$", "", each.partition("{")[0]))
    told = {
        re.sub(r"_total$", "", each)
        for each in re.findall(r"^\| `(watari_\w+)", DOCUMENT.read_text(), re.MULTILINE)
    }
    ours = {name for name in there if name.startswith("watari_")}
    # What has labels is told once it has counted something.
    assert ours - told == set()
    assert told - ours <= {
        *("watari_broker_queries", "watari_broker_refusals"),
        *("watari_broker_holds", "watari_broker_releases", "watari_broker_plan_moves"),
        *("watari_broker_estimate_ratio", "watari_trace_spans_dropped"),
    }


def test_a_collector_that_is_away_keeps_no_migration_waiting(
    local: Local, collector: Collector
) -> None:
    vm_id = local.put("without-a-collector", DISK)
    collector.stop()
    before = len(collector.spans())
    ended = local.wait_ended(local.migrate(vm_id))
    assert ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    lost = 'watari_trace_spans_dropped_total{why="collector"}'
    wait_until(lambda: page(local, "tokyo-manager").get(lost, 0) > 0, 60)
    assert len(collector.spans()) == before
