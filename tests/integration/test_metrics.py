"""What Prometheus fetches from a server, over HTTP and over HTTPS with certificates."""

import contextlib
import http.client
import json
import re
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from directory.records import Key
from tests.support import etcd_cluster
from tests.support.directory_samples import capacity, cloud, offer
from tests.support.directory_server import TOKYO, Start
from tests.support.processes import free_port
from watari import errors, metrics
from watari.metrics import MetricsSettings

SECONDS_MAX = 30.0
PROMETHEUS = Path(__file__).resolve().parents[2] / "compose" / "prometheus"


def fetched(address: str, context: ssl.SSLContext | None = None) -> dict[str, float]:
    """Values by name with labels, as the page has them."""
    if context:
        connection = http.client.HTTPSConnection(address, timeout=SECONDS_MAX, context=context)
    else:
        connection = http.client.HTTPConnection(address, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_a_directory_tells_what_it_has_and_counts_its_calls(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    running = start(metrics=MetricsSettings(address), stale_retention_seconds=3600)
    tokyo = running.client(TOKYO)
    method = '{code="OK",method="/watari.v1.DirectoryService/Publish"}'
    before = fetched(address).get(f"watari_rpc_calls_total{method}", 0.0)
    lease, other = tokyo.lease("tokyo", ttl_seconds=10), tokyo.lease("tokyo", ttl_seconds=3600)
    tokyo.publish(lease, offer(), offer(name="b"))
    revision = tokyo.publish(other, cloud(), capacity())
    with tokyo.watch() as messages:
        next(messages)
        found = fetched(address)
    assert found["watari_directory_watchers"] == 1
    assert found["watari_directory_revision"] == revision
    assert found["watari_directory_leases"] == 2
    assert found["watari_directory_store_up"] == 1
    assert found['watari_directory_records{kind="offer",stale="false"}'] == 2
    assert found[f"watari_rpc_calls_total{method}"] == before + 2
    running.clock.advance(11)
    with tokyo.watch(after_revision=revision) as messages:
        next(messages)
        changes = [Key.of(change.record.key).name for change in next(messages).changes]
    assert changes == ["b", "standard"]
    found = fetched(address)
    assert found['watari_directory_records{kind="offer",stale="true"}'] == 2
    assert found["watari_directory_leases"] == 1


def test_the_dashboard_and_the_alerts_name_metrics_that_there_are(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    running = start(metrics=MetricsSettings(address))
    tokyo = running.client(TOKYO)
    tokyo.publish(tokyo.lease("tokyo"), cloud())
    there = {name.partition("{")[0] for name in fetched(address)}
    for file in ("dashboard.json", "alerts.yml"):
        named = re.findall(r"watari_\w+", (PROMETHEUS / file).read_text())
        assert named
        assert set(named) <= there, file
    assert json.loads((PROMETHEUS / "dashboard.json").read_text())["panels"]


def test_a_page_with_a_client_authority_is_for_its_clients_only(tmp_path: Path) -> None:
    ours = etcd_cluster.Certificates(tmp_path / "ours", [])
    address = f"127.0.0.1:{free_port()}"
    settings = MetricsSettings(
        address, ours.path("node.pem"), ours.path("node-key.pem"), ours.path("ca.pem")
    )
    with ExitStack() as stack:
        metrics.serve(settings, stack)
        context = ssl.create_default_context(cafile=str(ours.path("ca.pem")))
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            fetched(address, context)
        context.load_cert_chain(ours.path("client.pem"), ours.path("client-key.pem"))
        assert any(name.startswith("watari_rpc_seconds") for name in fetched(address, context))


def test_an_address_that_is_taken_is_told(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    start(metrics=MetricsSettings(address))
    with ExitStack() as stack, pytest.raises(errors.Unavailable, match=address):
        metrics.serve(MetricsSettings(address), stack)


def test_settings_that_do_not_belong_together_are_refused() -> None:
    for settings in ({"certificate": Path("c")}, {"client_ca": Path("c")}):
        with pytest.raises(ValueError, match="certificate"):
            MetricsSettings("127.0.0.1:1", **settings)
