"""A manager process that reserves and confirms for many clients, over mutual TLS.

Measured: pairs of Reserve and ConfirmReservation a second, how long a pair takes, and what it costs
in processor time, on SQLite and on a real PostgreSQL that flushes every commit. All on one machine:
clients, manager and database share its processors. The clients are a process of their own
(`bench.reserve_load`), so that they wait for none of the manager's threads and it for none of
theirs. Where other work shares the machine, pairs a second say little, and the processor time of a
pair still says what it costs.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from bench import processor
from bench.reserve_load import Orders
from manager.settings.store import StoreSettings
from tests.support import managers, postgresql

DATABASES = ("postgresql", "sqlite")
VCPUS = 10**9
START_SECONDS = 3.0
"""The clients' process is up within this time."""


@dataclass(frozen=True)
class Size:
    """Of what is asked."""

    clients: int = 16
    seconds: float = 20.0
    warm_seconds: float = 3.0
    processors: tuple[int, ...] = ()
    """That the manager keeps to; none: all."""


def run(databases: list[str], size: Size) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    # The scripted agent in this process tells of every call; nobody reads it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return {database: _measure(database, size) for database in databases}


def text(found: dict[str, Any]) -> str:
    """For people."""
    return "".join(
        f"{database}: {each['pairs_per_second']:.0f} pairs a second by {each['clients']} clients; "
        f"a pair takes {each['p50_ms']:.1f} ms (p50), {each['p99_ms']:.1f} ms (p99), and of the "
        f"processors {_costs(each['processor_ms_per_pair'])}\n"
        for database, each in found.items()
    )


def _costs(by_process: dict[str, float]) -> str:
    parts = [f"{ms:.2f} ms {process}" for process, ms in by_process.items()]
    return f"{sum(by_process.values()):.2f} ms: {', '.join(parts)}"


def _measure(database: str, size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="watari-bench-") as name, ExitStack() as stack:
        store, used = stack.enter_context(_database(database, Path(name)))
        place = stack.enter_context(
            managers.managers(
                Path(name), store, vcpus=VCPUS, hurried=False, processors=size.processors
            )
        )
        (process,) = place.processes
        begin = time.monotonic() + START_SECONDS + size.warm_seconds
        orders = Orders(
            identity=str(place.caller_folder),
            address=process.target.address,
            server=str(process.target.spiffe_id),
            clients=size.clients,
            begin=begin,
            end=begin + size.seconds,
        )
        counters = {"manager": lambda: processor.seconds(process.pid), "database": used}
        spent, told = _load(orders, counters)
    every = sorted(told["seconds"])
    spent["clients"] = told["processor_seconds"]
    return {
        "clients": size.clients,
        "pairs": len(every),
        "pairs_per_second": len(every) / size.seconds,
        "p50_ms": every[len(every) // 2] * 1000,
        "p99_ms": every[len(every) * 99 // 100] * 1000,
        "processor_ms_per_pair": {
            name: seconds * 1000 / len(every) for name, seconds in spent.items() if seconds
        },
    }


def _load(
    orders: Orders, counters: dict[str, Callable[[], float]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """What each kind of process used of the processors meanwhile, and what the clients tell."""
    command = [sys.executable, "-m", "bench.reserve_load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
        assert clients.stdin is not None  # noqa: S101 - piped
        assert clients.stdout is not None  # noqa: S101 - piped
        clients.stdin.write(json.dumps(asdict(orders)).encode())
        clients.stdin.close()
        time.sleep(max(0.0, orders.begin - time.monotonic()))
        before = {name: count() for name, count in counters.items()}
        time.sleep(max(0.0, orders.end - time.monotonic()))
        spent = {name: count() - before[name] for name, count in counters.items()}
        told: dict[str, Any] = json.load(clients.stdout)
    return spent, told


@contextmanager
def _database(database: str, folder: Path) -> Iterator[tuple[StoreSettings, Callable[[], float]]]:
    """And the processor time that its own processes use: SQLite has none."""
    if database == "sqlite":
        yield StoreSettings(path=folder / "manager.sqlite"), lambda: 0.0
        return
    with postgresql.server(folder / "postgresql") as server:
        yield server.settings(), lambda: processor.seconds_of_family(server.pid)
