"""What happens to the nodes and the directories: one thing after another, from a seed."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from tests.support.etcd_cluster import Cluster, Node
from tests.support.processes import Process
from tests.support.star_network import Host

LONG, SHORT = (1.0, 4.0), (0.5, 2.5)
"""Seconds that a fault lasts, and that pass until the next one."""


COMPACTED = "a directory is cut off while history is dropped"
"""After which it, and whoever watched there, begins anew."""


class Weather:
    """Faults, each healed before the next one, all of them healed in the end."""

    def __init__(
        self,
        cluster: Cluster,
        hosts: Sequence[Host],
        directories: Sequence[Process],
        directory_hosts: Sequence[Host],
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._hosts = hosts
        self._directories = directories
        self._directory_hosts = directory_hosts
        self._rng = rng
        self.happened: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[threading.Event], None]] = {
            "the leader is killed": lambda stop: self._kill(self._leader(), stop),
            "a follower is killed": lambda stop: self._kill(self._follower(), stop),
            "the leader is cut off": lambda stop: self._cut([self._host(self._leader())], stop),
            "a follower is cut off": lambda stop: self._cut([self._host(self._follower())], stop),
            "the leader stands still": lambda stop: self._pause(self._leader(), stop),
            "a directory is killed": self._kill_directory,
            "a directory is cut off": lambda stop: self._cut(
                [rng.choice(self._directory_hosts)], stop
            ),
            "most nodes are cut off": lambda stop: self._cut(rng.sample(self._hosts, 2), stop),
            "a directory and the leader are killed": self._kill_both,
            COMPACTED: self._compact,
        }

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        kinds = list(self._kinds)
        self._rng.shuffle(kinds)
        while not stop.wait(self._rng.uniform(*SHORT)):
            kind = kinds[self.happened.total() % len(kinds)]
            self.happened[kind] += 1
            self._kinds[kind](stop)

    def _leader(self) -> Node:
        return self._cluster.await_leader()

    def _follower(self) -> Node:
        leader = self._leader()
        return self._rng.choice([node for node in self._cluster.nodes if node is not leader])

    def _host(self, node: Node) -> Host:
        return self._hosts[self._cluster.nodes.index(node)]

    def _last(self, stop: threading.Event) -> None:
        stop.wait(self._rng.uniform(*LONG))

    def _kill(self, node: Node, stop: threading.Event) -> None:
        node.kill()
        self._last(stop)
        self._cluster.restart(node)

    def _pause(self, node: Node, stop: threading.Event) -> None:
        node.pause()
        self._last(stop)
        node.resume()

    def _cut(self, hosts: Sequence[Host], stop: threading.Event) -> None:
        for host in hosts:
            host.cut()
        self._last(stop)
        for host in hosts:
            host.join()

    def _kill_directory(self, stop: threading.Event) -> None:
        directory = self._rng.choice(self._directories)
        directory.kill()
        self._last(stop)
        directory.start()

    def _compact(self, stop: threading.Event) -> None:
        host = self._rng.choice(self._directory_hosts)
        host.cut()
        self._last(stop)
        endpoint = self._leader().client
        (status,) = json.loads(
            self._cluster.etcdctl("endpoint", "status", "-w", "json", endpoints=endpoint)
        )
        revision = status["Status"]["header"]["revision"]
        self._cluster.etcdctl("compact", str(revision), endpoints=endpoint)
        host.join()

    def _kill_both(self, stop: threading.Event) -> None:
        leader, directory = self._leader(), self._rng.choice(self._directories)
        leader.kill()
        directory.kill()
        self._last(stop)
        self._cluster.restart(leader)
        directory.start()
