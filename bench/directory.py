"""A directory on a real etcd of three nodes, with a federation's catalogue in it.

Measured: how long a broker takes to load all of it, how late a watcher hears of a change, how long
a directory takes to start, and what the processes hold in memory. All on one machine: etcd's nodes,
two directories, publishers, watchers and the broker's catalogue share its processors.
"""

import contextlib
import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker import reading
from broker.reading import Source
from broker.settings import CatalogueSettings
from tests.conftest import TOKYO, Federation
from tests.support import directory_server, etcd_cluster, processes
from tests.support.catalogue_records import capacity, cloud, offer
from tests.support.directory_samples import new_id
from tests.support.directory_server import DIRECTORY
from tests.support.processes import Process
from watari import errors, rpc
from watari.clock import SystemClock
from watari.identity import SpiffeId
from watari.v1 import directory_pb2, directory_pb2_grpc

DIRECTORIES = 2
PUBLISHERS, WATCHERS_EACH = 16, 2
LEASE_SECONDS = 3600
CALL_SECONDS_MAX = 30.0
SETTLE_SECONDS = 5.0
_Stub = directory_pb2_grpc.DirectoryServiceStub


@dataclass(frozen=True)
class Size:
    """Of the catalogue and of what is asked of it."""

    clouds: int = 1000
    offers: int = 100_000
    changes_per_second: float = 200.0
    seconds: float = 60.0
    loads: int = 3


def run(size: Size) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    with tempfile.TemporaryDirectory(prefix="watari-bench-") as name:
        folder = Path(name)
        with _field(folder) as (federation, cluster, directories):
            stubs = [_stub(federation, target) for _, target in directories]
            filled_seconds, leases = _fill(stubs, size)
            loads = [_load(stubs[number % len(stubs)]) for number in range(size.loads)]
            delays = _changes(stubs, leases, size)
            memory = {
                f"directory {number}": process.peak_rss_bytes()
                for number, (process, _) in enumerate(directories)
            }
            memory |= {node.name: processes.peak_rss_bytes(node.pid) for node in cluster.nodes}
            database_bytes = _database_bytes(cluster)
            started_seconds = _restart(directories[0][0])
    return {
        "clouds": size.clouds,
        "offers": size.offers,
        "filled_seconds": filled_seconds,
        "load_seconds": loads,
        "change_to_watcher": delays,
        "peak_rss_bytes": memory,
        "database_bytes": database_bytes,
        "started_seconds": started_seconds,
    }


def text(found: dict[str, Any]) -> str:
    """For people."""
    delays, memory = found["change_to_watcher"], found["peak_rss_bytes"]
    in_ms = {name: delays[f"{name}_seconds"] * 1000 for name in ("p50", "p99", "max")}
    rate, watchers = delays["per_second"], delays["watchers"]
    size = f"{found['clouds']:,} clouds, {found['offers']:,} offers"
    load = statistics.median(found["load_seconds"])
    held = ", ".join(f"{who} {size_bytes >> 20} MiB" for who, size_bytes in memory.items())
    lines = [
        f"{size}: published in {found['filled_seconds']:.1f} s, a broker loads it in {load:.2f} s",
        f"{delays['changes']:,} changes, {rate:.0f} a second, to {watchers} watchers: after "
        + ", ".join(f"{name} {value:.1f} ms" for name, value in in_ms.items())
        + f"; missed {delays['missed']}",
        f"a directory starts in {found['started_seconds']:.1f} s",
        f"peak memory: {held}; etcd's file {found['database_bytes'] >> 20} MiB",
    ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _field(
    folder: Path,
) -> Iterator[tuple[Federation, etcd_cluster.Cluster, list[tuple[Process, rpc.Target]]]]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(etcd_cluster.cluster(folder / "etcd"))
        federation = Federation(folder / "federation")
        caller = federation.party(f"spiffe://{TOKYO}/manager/main")
        directories = []
        for number in range(DIRECTORIES):
            target = processes.target(processes.free_port(), DIRECTORY)
            config = folder / f"directory{number}.toml"
            limits = f"clouds_per_provider_max = {Size.clouds * 2}"
            base = directory_server.etcd_config(federation, cluster, target.address)
            config.write_text(base.replace("[directory]", f"[directory]\n{limits}", 1))
            process = Process("directory", config, target, caller)
            stack.callback(process.stop)
            process.start()
            directories.append((process, target))
        yield federation, cluster, directories


def _stub(federation: Federation, target: rpc.Target) -> _Stub:
    party = federation.party(f"spiffe://{TOKYO}/manager/main")
    return _Stub(rpc.connect(party, rpc.Target(target.address, SpiffeId.parse(DIRECTORY))))


def _fill(stubs: Sequence[_Stub], size: Size) -> tuple[float, list[str]]:
    """Seconds, and the lease of each cloud."""
    each = size.offers // size.clouds

    def publish(number: int) -> str:
        stub, cloud_id = stubs[number % len(stubs)], _cloud_id(number)
        lease_id = new_id()
        grant = directory_pb2.GrantLeaseRequest(
            lease_id=lease_id, cloud_id=cloud_id, ttl_seconds=LEASE_SECONDS
        )
        rpc.call(stub.GrantLease, grant, timeout_seconds=CALL_SECONDS_MAX)
        records = [cloud(cloud_id, domain=TOKYO), capacity(cloud_id)]
        records += [offer(cloud_id, f"offer-{at:04}") for at in range(each)]
        _publish(stub, lease_id, records)
        return lease_id

    began = time.monotonic()
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        leases = list(pool.map(publish, range(size.clouds)))
    return time.monotonic() - began, leases


def _load(stub: _Stub) -> float:
    """Seconds until a broker has the whole catalogue."""

    def query(
        request: directory_pb2.QueryRecordsRequest, timeout: float
    ) -> directory_pb2.QueryRecordsResponse:
        return rpc.call(stub.QueryRecords, request, timeout_seconds=timeout)

    @contextlib.contextmanager
    def watch(
        request: directory_pb2.WatchRecordsRequest, timeout: float
    ) -> Iterator[Iterator[directory_pb2.WatchRecordsResponse]]:
        with rpc.stream(stub.WatchRecords, request, timeout_seconds=timeout) as messages:
            yield messages

    settings = CatalogueSettings(
        read_seconds_max=CALL_SECONDS_MAX, records_max=1_000_000, page_size=1000
    )
    source, clock = Source("directory", query, watch), SystemClock()
    began = time.monotonic()
    found = reading.read(source, settings, clock, began + CALL_SECONDS_MAX)
    found.store.snapshot(found.revision, found.taken_at)
    return time.monotonic() - began


def _changes(stubs: Sequence[_Stub], leases: Sequence[str], size: Size) -> dict[str, Any]:
    """Changes at a steady rate, and how long after the call each watcher had each."""
    sent: dict[str, float] = {}
    delays: list[list[float]] = []
    ready = threading.Barrier(DIRECTORIES * WATCHERS_EACH + 1)

    def watch(stub: _Stub, found: list[float]) -> None:
        request = directory_pb2.WatchRecordsRequest()
        seconds_max = size.seconds + 2 * SETTLE_SECONDS + CALL_SECONDS_MAX
        with (
            contextlib.suppress(errors.WatariError),  # the directory stops before they do
            rpc.stream(stub.WatchRecords, request, timeout_seconds=seconds_max) as messages,
        ):
            next(messages)
            ready.wait(CALL_SECONDS_MAX)
            for message in messages:
                now = time.monotonic()
                found += [now - sent[change.record.labels["n"]] for change in message.changes]

    threads = []
    for stub in stubs:
        for _ in range(WATCHERS_EACH):
            delays.append([])
            threads.append(threading.Thread(target=watch, args=(stub, delays[-1]), daemon=True))
            threads[-1].start()
    ready.wait(CALL_SECONDS_MAX)
    numbers, began = itertools.count(), time.monotonic()
    total = round(size.changes_per_second * size.seconds)

    def publish() -> None:
        while (number := next(numbers)) < total:
            time.sleep(max(0.0, began + number / size.changes_per_second - time.monotonic()))
            record = capacity(_cloud_id(number % size.clouds))
            record.labels["n"] = str(number)
            sent[str(number)] = time.monotonic()
            _publish(stubs[number % len(stubs)], leases[number % size.clouds], [record])

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        for future in [pool.submit(publish) for _ in range(PUBLISHERS)]:
            future.result()
    took = time.monotonic() - began
    time.sleep(SETTLE_SECONDS)
    everything = sorted(itertools.chain.from_iterable(delays))
    percentiles = statistics.quantiles(everything, n=100)
    return {
        "changes": total,
        "per_second": total / took,
        "watchers": len(delays),
        "missed": total * len(delays) - len(everything),
        "p50_seconds": statistics.median(everything),
        "p99_seconds": percentiles[98],
        "max_seconds": everything[-1],
    }


def _publish(stub: _Stub, lease_id: str, records: Sequence[directory_pb2.Record]) -> None:
    puts = [directory_pb2.RecordPut(record=record) for record in records]
    request = directory_pb2.PublishRequest(request_id=new_id(), lease_id=lease_id, puts=puts)
    rpc.call(stub.Publish, request, timeout_seconds=CALL_SECONDS_MAX, idempotent=True)


def _restart(directory: Process) -> float:
    directory.stop()
    began = time.monotonic()
    directory.start()
    return time.monotonic() - began


def _database_bytes(cluster: etcd_cluster.Cluster) -> int:
    """Of the largest node."""
    told = json.loads(cluster.etcdctl("endpoint", "status", "-w", "json"))
    return max(int(node["Status"]["dbSize"]) for node in told)


def _cloud_id(number: int) -> str:
    return f"cloud-{number:04}"
