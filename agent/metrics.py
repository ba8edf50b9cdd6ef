"""What Prometheus is told of an agent, beside its calls. It names no machine and no peer."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

from agent.hypervisors import Hypervisor
from agent.transfer.jobs import Jobs
from agent.transfer.sessions import Sessions
from watari import clock, errors
from watari.metrics import Gauge
from watari.v1 import agent_pb2

LOOK_SECONDS = 15.0
"""Between two looks at the hypervisor: a fetch must never wait for it."""

_PREFIX = "TRANSFER_STATE_"


class Reach:
    """Whether the hypervisor answers, as it was seen last."""

    def __init__(self, hypervisor: Hypervisor, time: clock.Clock) -> None:
        self._hypervisor = hypervisor
        self._clock = time
        self._lock = threading.Lock()
        self._up = False
        self._answered_at = time.monotonic()

    def look(self) -> None:
        """Asks it for its machines."""
        try:
            self._hypervisor.guests()
        except errors.WatariError:
            self._note(up=False)
        else:
            self._note(up=True)

    def _note(self, *, up: bool) -> None:
        with self._lock:
            self._up = up
            if up:
                self._answered_at = self._clock.monotonic()

    def seen(self) -> tuple[bool, float]:
        """Whether it answered last time, and the seconds since it last did."""
        with self._lock:
            return self._up, self._clock.monotonic() - self._answered_at


def collector(jobs: Jobs, sessions: Sessions, reach: Reach) -> Callable[[], Iterator[Gauge]]:
    """What is asked at every fetch."""

    def collect() -> Iterator[Gauge]:
        up, age = reach.seen()
        yield Gauge("watari_agent_hypervisor_up", "Whether the hypervisor answers.", float(up))
        yield Gauge("watari_agent_hypervisor_age_seconds", "Since it last answered.", age)
        states: Counter[int] = Counter()
        rate = 0
        for transfer in jobs.snapshots():
            states[transfer.state] += 1
            if not transfer.HasField("ended_at"):
                rate += transfer.progress.rate_bytes_per_second
        gauge = Gauge(
            "watari_agent_transfers",
            "Transfers from here since the start; ended ones as far as they are remembered.",
            labels=["state"],
        )
        for name, number in agent_pb2.TransferState.items():
            if number:
                gauge.add_metric([name.removeprefix(_PREFIX).lower()], states[number])
        yield gauge
        yield Gauge("watari_agent_sending_bytes_per_second", "Settled, of all transfers.", rate)
        yield Gauge("watari_agent_receiving_sessions", "Sessions that are open.", sessions.count)

    return collect
