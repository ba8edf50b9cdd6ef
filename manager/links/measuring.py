"""Has hosts measure round trips to other clouds, and notes what migrations told of the way.

What cannot be measured is not written: an older measurement stays until its time is over.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from manager.agents import Agents
from manager.links import rows
from manager.links.observing import Observed
from manager.settings.publishing import LinkSettings
from manager.store import Store, micros
from watari import errors, logs
from watari.clock import Clock

HOSTS_TRIED_MAX = 2
"""Hosts that are asked for one round trip: the first may be down, or behind a firewall."""

CONCURRENT_MAX = 4
"""Round trips that are measured at a time."""

_log = logs.get(__name__)


class Links:
    """The ways from this cloud. May be used from any thread."""

    def __init__(
        self,
        settings: LinkSettings,
        store: Store,
        clock: Clock,
        agents: Agents,
        others: Callable[[], Mapping[str, str]],
    ) -> None:
        """`others` are the clouds that are known, with host:port of their managers."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._agents = agents
        self._others = others
        self._turn = 0

    def measure(self) -> None:
        """Measure what is due: the oldest first, never measured ones before."""
        others = self._others()
        with self._store.read() as connection:
            known = rows.every(connection)
        due_before = self._now() - round(self._settings.measure_seconds * 1_000_000)
        age = {cloud: known[cloud].round_trip_at if cloud in known else 0 for cloud in others}
        due = sorted(
            (cloud for cloud in others if age[cloud] <= due_before), key=lambda each: age[each]
        )
        chosen = list(islice(due, self._settings.clouds_at_a_time_max))
        if not chosen or not self._agents.host_ids:
            return
        with ThreadPoolExecutor(CONCURRENT_MAX, thread_name_prefix="links") as pool:
            list(pool.map(lambda cloud: self._measure_one(cloud, others[cloud]), chosen))

    def observed(self, to_cloud: str, observed: Observed) -> None:
        """A migration to that cloud has ended, and reached this."""
        valid = round(self._settings.throughput_valid_seconds * 1_000_000)
        with self._store.write() as connection:
            rows.put_observed(connection, to_cloud, observed, self._now(), valid)

    def _measure_one(self, to_cloud: str, address: str) -> None:
        hosts = self._agents.host_ids
        self._turn += 1
        problem: errors.WatariError | None = None
        for offset in range(min(HOSTS_TRIED_MAX, len(hosts))):
            host_id = hosts[(self._turn + offset) % len(hosts)]
            try:
                seconds = self._agents.round_trip(host_id, address)
            except errors.WatariError as error:
                problem = error
                continue
            with self._store.write() as connection:
                taken = max(1, round(seconds * 1_000_000))
                rows.put_round_trip(connection, to_cloud, taken, self._now())
            return
        _log.info("round trip not measured", cloud_id=to_cloud, problem=str(problem))

    def _now(self) -> int:
        return micros(self._clock.now())
