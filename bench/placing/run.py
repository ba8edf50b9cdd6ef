"""Questions and changes, timed: in process, and over gRPC with mutual TLS to a broker's server.

Wall time is what a caller sees; processor time is what a question costs, and what a rate on one
core follows from on a machine that others use too.
"""

import contextlib
import gc
import random
import resource
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import structlog

from bench.placing import federation
from bench.placing.federation import Size
from broker import demands, place
from broker.batch.batcher import Batcher
from broker.catalogue import Catalogue
from broker.deciding import Decider
from broker.holding import Holder, HoldSettings
from broker.inflight import InFlightSettings
from broker.migrate import Migrator
from broker.reading import Messages, Source
from broker.refusals import Refusals
from broker.releasing import Releasing
from broker.service import BrokerServicer
from broker.settings import CatalogueSettings
from broker.snapshot import Snapshot, Store
from tests.conftest import Federation
from watari import logs, rpc
from watari.clock import Clock, SystemClock
from watari.v1 import broker_pb2, broker_pb2_grpc, directory_pb2

BROKER, USER = "spiffe://hub.example/broker/main", "spiffe://tokyo.example/user/alice"
WARM_UP = 20


class Replayed:
    """A directory in this process: records from a seed, and as many changes a second as are asked
    for.
    """

    def __init__(self, size: Size) -> None:
        self.records = [one for _, records in federation.published(size) for one in records]
        self.per_second = 0.0
        self.sent = 0
        self.ended = threading.Event()
        self._size = size

    def query(
        self, request: directory_pb2.QueryRecordsRequest, _timeout_seconds: float
    ) -> directory_pb2.QueryRecordsResponse:
        start = int(request.page_token or 0)
        end = start + request.page_size
        return directory_pb2.QueryRecordsResponse(
            records=self.records[start:end],
            next_page_token=str(end) if end < len(self.records) else "",
            revision=1,
        )

    @contextlib.contextmanager
    def watch(
        self, request: directory_pb2.WatchRecordsRequest, _timeout_seconds: float
    ) -> Iterator[Messages]:
        yield self._changes(request.after_revision)

    def _changes(self, revision: int) -> Messages:
        rng = random.Random(self._size.seed)
        yield directory_pb2.WatchRecordsResponse(revision=revision)
        due = time.monotonic()
        while not self.ended.is_set():
            rate = self.per_second
            due = max(due + (1 / rate if rate else 0.05), time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            if not rate:
                yield directory_pb2.WatchRecordsResponse(revision=revision)
            else:
                revision += 1
                message = directory_pb2.WatchRecordsResponse(revision=revision)
                record = federation.change(rng, self._size)
                message.changes.add(kind=directory_pb2.CHANGE_KIND_PUT, record=record)
                self.sent += 1
                yield message


def run(size: Size, questions: int, changes_per_second: float) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    directory = Replayed(size)
    clock = SystemClock()
    source = Source("replayed", directory.query, directory.watch)
    settings = CatalogueSettings(page_size=1000, first_seconds_max=600, read_seconds_max=600)
    found: dict[str, Any] = {"clouds": size.clouds, "offers": size.offers}
    with (
        tempfile.TemporaryDirectory(prefix="watari-bench-") as name,
        contextlib.ExitStack() as stack,
    ):
        # As a broker does it: a line for each call, which nobody reads here.
        log = stack.enter_context((Path(name) / "log").open("w"))
        stack.callback(structlog.reset_defaults)
        logs.configure("bench", "info", json=True, stream=log)
        before, began = _rss_bytes(), time.process_time()
        catalogue = stack.enter_context(Catalogue([source], settings, clock))
        stack.callback(directory.ended.set)
        snapshot = catalogue.current()
        found["load_cpu_seconds"] = time.process_time() - began
        directory.records.clear()
        gc.collect()
        gc.freeze()
        found["columns_bytes"] = snapshot.columns.nbytes()
        found["grown_bytes"] = _rss_bytes() - before
        rng = random.Random(size.seed + 1)
        asked = [federation.requirements(rng, size) for _ in range(questions)]

        def answer(request: broker_pb2.PlaceRequest) -> broker_pb2.PlaceResponse:
            wanted, now = demands.of_place(request), clock.now()
            placement = place.place(catalogue.current(), wanted, now)
            return place.response(placement, wanted.candidates_max, now)

        found["in_process"] = timed(answer, asked)
        found["in_flight"] = _decided(catalogue.current(), asked, clock)
        stub = _served(Path(name), catalogue, stack)

        def call(request: broker_pb2.PlaceRequest) -> broker_pb2.PlaceResponse:
            request.request_id = str(uuid.uuid4())
            return rpc.call(stub.Place, request, timeout_seconds=30)

        found["over_grpc"] = timed(call, asked)
        directory.per_second = changes_per_second
        sent, revision, start = directory.sent, catalogue.current().revision, time.monotonic()
        found["in_a_storm"] = timed(answer, asked)
        took = time.monotonic() - start
        found["in_a_storm"]["changes_per_second"] = (directory.sent - sent) / took
        found["in_a_storm"]["applied_per_second"] = (catalogue.current().revision - revision) / took
        directory.per_second = 0.0
    found["updates"] = _updates(size)
    return found


def timed(
    answer: Callable[[broker_pb2.PlaceRequest], broker_pb2.PlaceResponse],
    asked: list[broker_pb2.PlaceRequest],
) -> dict[str, float]:
    """One question after the other: milliseconds of wall time each, of this thread's processor
    time each, and of all threads' processor time on average.
    """
    for request in asked[:WARM_UP]:
        answer(request)
    wall, own, began = [], [], time.process_time()
    for request in asked:
        start, start_own = time.perf_counter(), time.thread_time()
        answer(request)
        wall.append((time.perf_counter() - start) * 1000)
        own.append((time.thread_time() - start_own) * 1000)
    cpu_ms = (time.process_time() - began) * 1000 / len(asked)
    cuts, own_cuts = statistics.quantiles(wall, n=100), statistics.quantiles(own, n=100)
    return {
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "max_ms": max(wall),
        "cpu_ms": cpu_ms,
        "per_second_of_cpu": 1000 / cpu_ms,
        "own_cpu_p50_ms": own_cuts[49],
        "own_cpu_p99_ms": own_cuts[98],
    }


def text(found: dict[str, Any]) -> str:
    """For people."""
    held, grown = found["columns_bytes"] / 2**20, found["grown_bytes"] / 2**20
    lines = [f"{found['clouds']:,} clouds, {found['offers']:,} offers:"]
    lines.append(
        f"read and laid out in {found['load_cpu_seconds']:.1f} s of processor, columns "
        f"{held:.0f} MiB, the process grew by {grown:.0f} MiB"
    )
    for name in ("in_process", "over_grpc", "in_a_storm"):
        one = found[name]
        lines.append(
            f"{name.replace('_', ' ')}: p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms, "
            f"processor {one['cpu_ms']:.2f} ms, {one['per_second_of_cpu']:.0f} a second of it"
        )
    own, flight = found["in_process"], found["in_flight"]
    lines.append(
        f"processor of a question in process: p50 {own['own_cpu_p50_ms']:.2f} ms, p99 "
        f"{own['own_cpu_p99_ms']:.2f} ms; of a decision with up to {flight['decisions']} in flight "
        f"{flight['cpu_ms']:.2f} ms"
    )
    storm, updates = found["in_a_storm"], found["updates"]
    lines.append(
        f"storm: {storm['changes_per_second']:.0f} changes a second sent, "
        f"{storm['applied_per_second']:.0f} applied; a change costs {updates['put_us']:.0f} us, a "
        f"snapshot of {updates['changes']} changes {updates['snapshot_ms']:.0f} ms of processor"
    )
    return "\n".join(lines) + "\n"


def _decided(
    snapshot: Snapshot, asked: list[broker_pb2.PlaceRequest], clock: Clock
) -> dict[str, float]:
    """Decisions as for `Migrate`, each of which sees all before it as in flight."""
    decider = Decider(InFlightSettings(seconds_max=1e6, shown_after_seconds=1e6))
    began = time.thread_time()
    for number, request in enumerate(asked):
        wanted, now = demands.of_place(request), clock.now()
        decider.decide(
            str(number),
            snapshot,
            wanted.needed,
            now,
            lambda view, wanted=wanted, now=now: place.place(  # type: ignore[misc]
                view, wanted, now, held_max=demands.CANDIDATES_MAX
            ),
        )
    cpu_ms = (time.thread_time() - began) * 1000 / len(asked)
    in_flight = decider.in_flight(snapshot, clock.now())
    return {"cpu_ms": cpu_ms, "decisions": len(in_flight.decisions)}


def _updates(size: Size, changes: int = 50, rounds: int = 10) -> dict[str, float]:
    """What taking changes costs, without anything else."""
    store = Store()
    for _, records in federation.published(size):
        for record in records:
            store.put(record)
    clock, rng = SystemClock(), random.Random(size.seed)
    store.snapshot(1, clock.now())
    gc.collect()
    gc.freeze()
    put = laid = 0.0
    for number in range(rounds):
        batch = [federation.change(rng, size) for _ in range(changes)]
        start = time.process_time()
        for record in batch:
            store.put(record)
        middle = time.process_time()
        store.snapshot(2 + number, clock.now())
        put, laid = put + middle - start, laid + time.process_time() - middle
    return {
        "changes": changes,
        "put_us": put / rounds / changes * 1e6,
        "snapshot_ms": laid / rounds * 1000,
    }


def _served(
    folder: Path, catalogue: Catalogue, stack: contextlib.ExitStack
) -> broker_pb2_grpc.BrokerServiceStub:
    """A broker's server in this process, and a user's calls to it."""
    parties, clock = Federation(folder), SystemClock()
    own = parties.party(BROKER)

    def managers(_endpoint: object) -> Any:
        raise NotImplementedError("nothing is migrated here")

    decider = Decider(InFlightSettings())
    settings = HoldSettings()
    releasing = stack.enter_context(Releasing(settings.releases_max))
    holder = Holder(managers, Refusals(settings.refusals), releasing, clock, settings)
    migrator = Migrator(
        catalogue, decider, holder, managers, own, clock, submissions_max=1, manager_seconds=1.0
    )
    servicer = BrokerServicer(catalogue, migrator, Batcher(catalogue, clock, 1), clock)

    def register(server: grpc.Server) -> None:
        broker_pb2_grpc.add_BrokerServiceServicer_to_server(servicer, server)

    server = rpc.Server("broker", own, "127.0.0.1:0", clock=clock, servicers=register)
    port = server.start()
    stack.callback(lambda: server.stop(0).wait(10))
    channel = rpc.connect(parties.party(USER), rpc.Target(f"127.0.0.1:{port}", own.spiffe_id))
    stack.callback(channel.close)
    return broker_pb2_grpc.BrokerServiceStub(channel)


def _rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
