"""A burst of placed migrations against scarce room: how long answers take, and what they cost.

Brokers, managers, the directory and stand-ins of hosts are all in this process, over mutual TLS on
loopback, so that its processor time is that of every side together.
"""

import logging
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from broker import metrics
from tests.conftest import Federation
from tests.support.burst import Outcome, burst


@dataclass(frozen=True)
class Size:
    """Of what is asked."""

    machines: int = 500
    clouds: int = 4
    room: int = 8
    """Machines that each cloud has room for."""
    brokers: int = 2


def run(size: Size) -> dict[str, Any]:
    """All of it, as numbers for JSON."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rooms = {f"cloud-{number}": size.room for number in range(size.clouds)}
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder) / "federation")
        with burst(federation, Path(folder), rooms, size.machines, size.brokers) as world:
            before = _counted()
            began, used = time.monotonic(), time.process_time()
            outcomes = world.run()
            seconds, processor = time.monotonic() - began, time.process_time() - used
            granted = world.account(outcomes)
            asked = _counted() - before
    return {
        "granted": sum(granted.values()),
        "refused": Counter(each.error.reason for each in outcomes if each.error is not None),
        "seconds": seconds,
        "processor_ms_per_request": processor / size.machines * 1000,
        "granted_seconds": _spread([each for each in outcomes if each.error is None]),
        "refused_seconds": _spread([each for each in outcomes if each.error is not None]),
        "holds_asked": asked,
    }


def _counted() -> Counter[str]:
    found: Counter[str] = Counter()
    for family in (metrics.HOLDS, metrics.PASSED_OVER):
        for sample in next(iter(family.collect())).samples:
            if sample.name.endswith("_total"):
                found[sample.labels.get("outcome", "passed over")] += int(sample.value)
    return found


def _spread(outcomes: list[Outcome]) -> dict[str, float]:
    if not outcomes:
        return {}
    ordered = sorted(each.seconds for each in outcomes)
    return {
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        "most": ordered[-1],
    }
