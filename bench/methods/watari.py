"""Watari, agent to agent: two fresh agents, from StartTransfer to the receipt.

Both managers' parts (hold, grant, hand-over) are outside of what is timed. The receipt, for which
the destination has flushed and checked everything, is inside.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import federation
from bench.images import build
from bench.link import Link, Side
from bench.methods.result import Result, same, timed
from bench.migration import Migration, new_machine
from watari import errors
from watari.v1 import agent_pb2, common_pb2

NAME = "watari"
SECONDS_MAX = 3600.0
QCOW2_MAGIC = b"QFI\xfb"
Hosts = tuple[federation.Host, federation.Host]


@dataclass
class Moved:
    """How one transfer went, as its agents tell it."""

    transfer: agent_pb2.Transfer
    stages: dict[str, float]


def run(link: Link, image: Path, folder: Path) -> Result:
    """Cold: empty shelves, fresh agents, no connection open between them."""
    with hosts(link, folder) as pair:
        vm_id, disk = new_machine(pair[0], "first", "qcow2" if _is_qcow2(image) else "raw")
        build.copy(image, disk)
        return measure(link, pair, Migration(*pair, vm_id), disk)


@contextlib.contextmanager
def hosts(link: Link, folder: Path, options: str = "") -> Iterator[Hosts]:
    """An agent at each end of a link."""
    sides = (link.source, link.destination)
    with federation.agents(sides, folder, options=options) as pair:
        yield pair


@contextlib.contextmanager
def neighbours(link: Link, folder: Path, options: str = "") -> Iterator[Hosts]:
    """Two agents at the source's end, which meet over its loopback; the link stays idle."""
    side = Side("127.0.0.1", link.source.control, link.source.prefix)
    ports = (7453, 7454)
    with federation.agents((side, side), folder, second_ports=ports, options=options) as pair:
        yield pair


def measure(
    link: Link,
    pair: Hosts,
    migration: Migration,
    disk: Path,
    options: common_pb2.TransferOptions | None = None,
) -> Result:
    """Moves a machine and compares the disk that arrived with `disk`: what the guest sees."""
    migration.hold()
    before = [host.usage().cpu_seconds for host in pair]
    with timed(link) as measured:
        moved = transfer(migration, options)
    usage = [host.usage() for host in pair]
    arrived = migration.activate()
    identical = _same_qcow2(disk, arrived) if _is_qcow2(disk) else same(disk, arrived)
    result = measured.result(NAME, identical, **moved.stages)
    if pair[0].side == link.destination:
        result.wire_bytes, result.back_bytes = result.back_bytes, result.wire_bytes
    result.further |= told(moved.transfer)
    for name, use, cpu in zip(("source", "destination"), usage, before, strict=True):
        result.further[name] = use.as_dict() | {"cpu_seconds": round(use.cpu_seconds - cpu, 2)}
    return result


def transfer(migration: Migration, options: common_pb2.TransferOptions | None = None) -> Moved:
    """Starts, watches to the end, and times each state. Raises WatariError when it failed."""
    entered: dict[agent_pb2.TransferState.ValueType, float] = {}
    start = time.monotonic()
    migration.start(options)
    last = agent_pb2.Transfer()
    for last in migration.watch(SECONDS_MAX):
        entered.setdefault(last.state, time.monotonic() - start)
    if last.state != agent_pb2.TRANSFER_STATE_SUCCEEDED:
        raise errors.from_problem(last.problem)
    return Moved(last, _stages(entered))


def told(transfer: agent_pb2.Transfer) -> dict[str, Any]:
    """The agent's own counters."""
    progress = transfer.progress
    names = (
        "wire_bytes sent_bytes zero_bytes deduplicated_bytes read_bytes streams"
        " compression_level attempt round_trip_seconds"
    )
    return {f"told_{name}": getattr(progress, name) for name in names.split()}


def _is_qcow2(image: Path) -> bool:
    with image.open("rb") as file:
        return file.read(len(QCOW2_MAGIC)) == QCOW2_MAGIC


def _same_qcow2(disk: Path, arrived: Path) -> bool:
    """Whether a raw disk has what a qcow2 one shows. Raises CalledProcessError."""
    command = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", str(disk), str(arrived)]
    code = subprocess.run(command, check=False, timeout=SECONDS_MAX).returncode
    if code > 1:
        raise subprocess.CalledProcessError(code, command)
    return code == 0


def _stages(entered: "dict[agent_pb2.TransferState.ValueType, float]") -> dict[str, float]:
    """Seconds spent in each state that was seen."""
    order = sorted(entered.items(), key=lambda each: each[1])
    ends = [at for _, at in order[1:]]
    return {
        agent_pb2.TransferState.Name(state).removeprefix("TRANSFER_STATE_").lower(): end - at
        for (state, at), end in zip(order, ends, strict=False)
    }
