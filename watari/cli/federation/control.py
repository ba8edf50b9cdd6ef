"""Starts, looks at and stops the local federation."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from watari import errors, rpc
from watari.cli import settings as client_settings
from watari.cli.clients import Clients
from watari.cli.federation import configs, processes
from watari.cli.federation import layout as layouts
from watari.cli.federation.layout import Layout, Process
from watari.cli.federation.processes import Running
from watari.clock import Clock
from watari.identity import Identity
from watari.v1 import directory_pb2

READY_SECONDS_MAX = 60.0
"""How long starting may take: seconds on a laptop, more where six starts share one slow core."""

GRACE_SECONDS = 20.0
"""What servers get to drain: longer than their own grace time of 10 s and a flush."""

KILL_SECONDS_MAX = 5.0
"""How long a killed process is waited for."""

HEALTH_SECONDS_MAX = 2.0
"""Deadline of one look at a server."""

POLL_SECONDS = 0.2
"""Between two looks while servers start."""

LOG_BYTES_MAX = 16 * 1024 * 1024
"""A longer log is put aside, in place of the one before it, when its server is started."""

_TAIL_BYTES = 2048
_TAIL_LINES = 3


@dataclass(frozen=True)
class Status:
    """How one server is."""

    process: Process
    state: str
    """ "serving", "not serving", or "down". """
    address: str
    pid: int | None
    log: Path


def up(
    layout: Layout, clock: Clock, environ: Mapping[str, str], on_step: Callable[[str], None]
) -> list[Status]:
    """Starts what does not run, and returns when all serve and both clouds are in the directory.

    Raises FailedPrecondition START_FAILED, CONFIG_INVALID, and OSError.
    """
    layout.create()
    with layout.locked(clock):
        configs.ensure(layout, clock)
        for process in layouts.processes():
            if _find(layout, process) is None:
                on_step(f"starting {process.name}")
                _start(layout, process, environ)
        deadline = clock.monotonic() + READY_SECONDS_MAX
        for process in layouts.processes():
            on_step(f"waiting for {process.name}")
            _await_serving(layout, process, clock, deadline)
        on_step("waiting for the clouds to be in the directory")
        _await_published(layout, clock, deadline)
        return status(layout)


def down(layout: Layout, clock: Clock) -> tuple[list[str], list[str]]:
    """Stops every server. Returns the names of those that ran, and of those that were killed."""
    if not layout.is_configured:
        return [], []
    with layout.locked(clock):
        found = {each.name: _find(layout, each) for each in layouts.processes()}
        running = {process: name for name, process in found.items() if process is not None}
        killed = processes.stop(
            running, clock, grace_seconds=GRACE_SECONDS, kill_seconds=KILL_SECONDS_MAX
        )
        for process in layouts.processes():
            layout.record(process).unlink(missing_ok=True)
        return list(running.values()), [running[process] for process in killed]


def status(layout: Layout) -> list[Status]:
    """How each server is, in the order of starting."""
    return [_status(layout, process) for process in layouts.processes()]


def is_anything_running(layout: Layout) -> bool:
    """Whether at least one server runs."""
    return any(_find(layout, process) for process in layouts.processes())


def _find(layout: Layout, process: Process) -> Running | None:
    return processes.find(layout.record(process), layout.settings(process))


def _status(layout: Layout, process: Process) -> Status:
    running = _find(layout, process)
    state = "down"
    if running is not None:
        state = "serving" if _is_serving(layout, process) else "not serving"
    pid = running.pid if running else None
    return Status(process, state, _address(layout, process), pid, layout.log(process))


def _start(layout: Layout, process: Process, environ: Mapping[str, str]) -> None:
    log = layout.log(process)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))
    processes.start(process.module, layout.settings(process), log, layout.record(process), environ)


def _await_serving(layout: Layout, process: Process, clock: Clock, deadline: float) -> None:
    while not _is_serving(layout, process):
        if _find(layout, process) is None:
            raise _start_failed(layout, process, "ended instead of serving")
        if clock.monotonic() >= deadline:
            raise _start_failed(layout, process, f"does not serve after {READY_SECONDS_MAX:g} s")
        clock.sleep(POLL_SECONDS)


def _await_published(layout: Layout, clock: Clock, deadline: float) -> None:
    """Waits until the directory has every cloud's record, offer and capacity, and none is stale."""
    clients = Clients(client_settings.load(layout.client, os.environ))
    wanted = {
        (kind, cloud.cloud_id)
        for cloud in layouts.CLOUDS
        for kind in (
            directory_pb2.RECORD_KIND_CLOUD,
            directory_pb2.RECORD_KIND_OFFER,
            directory_pb2.RECORD_KIND_CAPACITY,
        )
    }
    try:
        while missing := wanted - _published(clients):
            if clock.monotonic() >= deadline:
                cloud_id = min(cloud_id for _, cloud_id in missing)
                (process,) = (
                    each for each in layouts.processes() if each.name == f"{cloud_id}-manager"
                )
                raise _start_failed(layout, process, "does not publish its cloud")
            clock.sleep(POLL_SECONDS)
    finally:
        clients.close()


def _published(clients: Clients) -> set[tuple[int, str]]:
    records = clients.directory().records(directory_pb2.RECORD_KIND_UNSPECIFIED)
    return {(record.key.kind, record.key.cloud_id) for record in records if not record.stale}


def _is_serving(layout: Layout, process: Process) -> bool:
    """Asks the server's health service, as an operator of its own provider, over mutual TLS."""
    pki = layout.config / "pki" / process.spiffe_id.domain
    operator = f"operator-{layouts.OPERATOR_NAME}"
    identity = Identity.load(pki / f"{operator}.pem", pki / f"{operator}.key", pki / "trust")
    channel = rpc.connect(identity, rpc.Target(_address(layout, process), process.spiffe_id))
    try:
        response = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=HEALTH_SECONDS_MAX
        )
    except grpc.RpcError:  # not yet, not any more, or somebody else: in any case not serving
        return False
    finally:
        channel.close()
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _address(layout: Layout, process: Process) -> str:
    document = tomllib.loads(layout.settings(process).read_text())
    return str(document[process.module]["address"])


def _start_failed(layout: Layout, process: Process, what: str) -> errors.FailedPrecondition:
    log = layout.log(process)
    return errors.FailedPrecondition(
        "START_FAILED",
        f"{process.name} {what}. {_tail(log)}",
        hint=f"read {log}; `watari up` tries again, `watari down` stops the rest",
        process=process.name,
    )


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError as error:
        return f"Its log cannot be read: {error.strerror}"
    return "Its log ends:\n" + "\n".join(f"  {line[:500]}" for line in lines)
