"""A manager process that reserves and confirms for many clients, over mutual TLS.

Measured: pairs of Reserve and ConfirmReservation a second, and how long a pair takes, on SQLite and
on a real PostgreSQL that flushes every commit. All on one machine: clients, manager and database
share its processors, and clients are threads of one process.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from manager.store_settings import StoreSettings
from tests.support import managers, postgresql, reservations
from watari.rpc import client
from watari.v1 import manager_pb2

DATABASES = ("postgresql", "sqlite")
VCPUS = 10**9
TTL_SECONDS = 3600


@dataclass(frozen=True)
class Size:
    """Of what is asked."""

    clients: int = 16
    seconds: float = 20.0
    warm_seconds: float = 3.0


def run(databases: list[str], size: Size) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    # The scripted agent in this process tells of every call; nobody reads it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return {database: _measure(database, size) for database in databases}


def text(found: dict[str, Any]) -> str:
    """For people."""
    return "".join(
        f"{database}: {each['pairs_per_second']:.0f} pairs a second by {each['clients']} clients; "
        f"a pair takes {each['p50_ms']:.1f} ms (p50), {each['p99_ms']:.1f} ms (p99)\n"
        for database, each in found.items()
    )


def _measure(database: str, size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="watari-bench-") as name, ExitStack() as stack:
        store = stack.enter_context(_database(database, Path(name)))
        place = stack.enter_context(managers.managers(Path(name), store, vcpus=VCPUS))
        begin = time.monotonic() + size.warm_seconds
        taken: list[list[float]] = [[] for _ in range(size.clients)]
        threads = [
            threading.Thread(target=_pairs, args=(place, begin, begin + size.seconds, each))
            for each in taken
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    every = sorted(seconds for each in taken for seconds in each)
    return {
        "clients": size.clients,
        "pairs": len(every),
        "pairs_per_second": len(every) / size.seconds,
        "p50_ms": every[len(every) // 2] * 1000,
        "p99_ms": every[len(every) * 99 // 100] * 1000,
    }


@contextmanager
def _database(database: str, folder: Path) -> Iterator[StoreSettings]:
    if database == "sqlite":
        yield StoreSettings(path=folder / "manager.sqlite")
        return
    with postgresql.server(folder / "postgresql") as server:
        yield server.settings()


def _pairs(place: managers.Managers, begin: float, end: float, taken: list[float]) -> None:
    """What began before `begin` warms up; what ends after `end` does not count."""
    stub = next(place.stubs())
    while (began := time.monotonic()) < end:
        asked = reservations.request(ttl_seconds=TTL_SECONDS)
        client.call(stub.Reserve, asked)
        confirm = manager_pb2.ConfirmReservationRequest(reservation_id=asked.reservation_id)
        client.call(stub.ConfirmReservation, confirm)
        ended = time.monotonic()
        if began >= begin and ended <= end:
            taken.append(ended - began)
