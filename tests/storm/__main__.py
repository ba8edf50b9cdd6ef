"""One storm; prints what happened as JSON, and ends with 1 when anything was wrong."""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from directory.records import Key
from tests.conftest import OSAKA, TOKYO, Federation
from tests.storm.parties import LABEL, Caller, Manager, Watcher, listing
from tests.storm.weather import Weather
from tests.support import directory_server, etcd_cluster, star_network
from tests.support.directory_server import DIRECTORY
from tests.support.processes import Process
from tests.support.star_network import Host
from watari import errors, rpc
from watari.identity import SpiffeId
from watari.v1 import directory_pb2

DIRECTORIES = 2
PORT = 7440
DRAIN_SECONDS_MAX = 90.0
"""How long what is under way may take after the last fault has been healed."""


@dataclass
class Field:
    """Where the storm is."""

    federation: Federation
    cluster: etcd_cluster.Cluster
    hosts: Sequence[Host]
    directories: Sequence[Process]
    directory_hosts: Sequence[Host]

    @property
    def targets(self) -> list[rpc.Target]:
        """The directories."""
        party = SpiffeId.parse(DIRECTORY)
        return [rpc.Target(f"{host.address}:{PORT}", party) for host in self.directory_hosts]


def main() -> None:
    """Parses the command line and runs one storm."""
    parser = argparse.ArgumentParser("python -m tests.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--managers", type=int, default=50)
    parser.add_argument("--watchers", type=int, default=3)
    parser.add_argument(
        "--interval", type=float, default=0.3, help="between a manager's changes, s"
    )
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="watari-storm-") as folder,
        _field(Path(folder)) as field,
    ):
        found = _storm(field, arguments)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(1 if found["wrong"] else 0)


def _storm(field: Field, arguments: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(arguments.seed)

    def caller(domain: str) -> Caller:
        party = field.federation.party(f"spiffe://{domain}/manager/main")
        return Caller(party, field.targets, random.Random(rng.random()))

    managers = [
        Manager(f"c{number:02}", caller((TOKYO, OSAKA)[number % 2]), random.Random(rng.random()))
        for number in range(arguments.managers)
    ]
    watchers = [Watcher(caller(TOKYO)) for _ in range(arguments.watchers)]
    weather = Weather(field.cluster, field.hosts, field.directories, field.directory_hosts, rng)
    stop, give_up, unwatched = threading.Event(), threading.Event(), threading.Event()
    publishing = [
        threading.Thread(target=each.run, args=(stop, give_up, arguments.interval), daemon=True)
        for each in managers
    ]
    watching = [
        threading.Thread(target=each.run, args=(unwatched,), daemon=True) for each in watchers
    ]
    for thread in (*publishing, *watching):
        thread.start()
    timer = threading.Timer(arguments.seconds, stop.set)
    timer.start()
    weather.run(stop)
    began = time.monotonic()
    for thread in publishing:
        thread.join(max(0.0, began + DRAIN_SECONDS_MAX - time.monotonic()))
    wrong = ["a manager did not finish"] * sum(thread.is_alive() for thread in publishing)
    give_up.set()
    drained = time.monotonic() - began
    wrong += _verdict(field, managers, watchers)
    unwatched.set()
    refusals: Counter[str] = sum(
        (each.caller.refusals for each in (*managers, *watchers)), Counter()
    )
    return {
        "seed": arguments.seed,
        "faults": dict(weather.happened),
        "acknowledged": sum(manager.acknowledged for manager in managers),
        "changes_watched": [watcher.changes for watcher in watchers],
        "resumptions": [watcher.resumptions for watcher in watchers],
        "listings": [watcher.listings for watcher in watchers],
        "refusals": dict(refusals),
        "drained_seconds": round(drained, 1),
        "wrong": wrong[:20],
    }


def _verdict(field: Field, managers: Sequence[Manager], watchers: Sequence[Watcher]) -> list[str]:
    """Everything that is not as it must be."""
    wrong = [problem for watcher in watchers for problem in watcher.wrong]
    # Nothing is written any more, save that leases run out: so wait for one state that stays.
    last = max(manager.last_revision for manager in managers)
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while True:
        listed: list[tuple[int, dict[Key, bytes]]] = []
        with contextlib.suppress(errors.Unavailable):  # one may be connecting to etcd again
            listed = [_listing_of(field, target) for target in field.targets]
        revisions = {revision for revision, _ in listed}
        positions = {watcher.position for watcher in watchers}
        if len(revisions) == 1 and revisions == positions and min(revisions) >= last:
            break
        if time.monotonic() > deadline:
            told = f"directories at {revisions}, watchers at {positions}, published {last}"
            return [*wrong, f"they do not agree: {told}"]
        time.sleep(0.2)
    wrong += [problem for watcher in watchers for problem in watcher.wrong if problem not in wrong]
    (_, first), *others = listed
    for _, other in others:
        wrong += _differences(first, other, "two directories")
    for watcher in watchers:
        wrong += _differences(first, watcher.state, "a watcher and the listing")
    for manager in managers:
        wrong += _lost(manager, first)
    return wrong


def _listing_of(field: Field, target: rpc.Target) -> tuple[int, dict[Key, bytes]]:
    party = field.federation.party(f"spiffe://{TOKYO}/manager/main")
    caller = Caller(party, [target], random.Random(0))
    revision, found = listing(caller.stub)
    return revision, {key: record.SerializeToString() for key, record in found.items()}


def _differences(one: dict[Key, bytes], other: dict[Key, bytes], who: str) -> list[str]:
    keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
    return [f"{who} differ in {key}" for key in keys]


def _lost(manager: Manager, found: dict[Key, bytes]) -> list[str]:
    wrong = []
    there = {}
    for key, raw in found.items():
        if key.cloud_id == manager.cloud_id:
            there[key.name] = int(directory_pb2.Record.FromString(raw).labels[LABEL])
    must = {name: number for name, number in manager.state.items() if number is not None}
    if there != must:
        wrong.append(f"{manager.cloud_id} has {there}, acknowledged was {must}")
    return wrong


@contextlib.contextmanager
def _field(folder: Path) -> Iterator[Field]:
    with contextlib.ExitStack() as stack:
        star_network.make_bridge()
        hosts = []
        for number in range(etcd_cluster.NODES + DIRECTORIES):
            hosts.append(Host(number))
            stack.callback(hosts[-1].close)
        nodes, directory_hosts = hosts[: etcd_cluster.NODES], hosts[etcd_cluster.NODES :]
        places = [etcd_cluster.Place(host.address, host.prefix) for host in nodes]
        cluster = stack.enter_context(etcd_cluster.cluster(folder / "etcd", places))
        federation = Federation(folder / "federation")
        directories = []
        for host in directory_hosts:
            process = _directory(folder, federation, cluster, host)
            stack.callback(process.stop)
            process.start()
            directories.append(process)
        yield Field(federation, cluster, nodes, directories, directory_hosts)


def _directory(
    folder: Path, federation: Federation, cluster: etcd_cluster.Cluster, host: Host
) -> Process:
    config = folder / f"directory-{host.address}.toml"
    config.write_text(directory_server.etcd_config(federation, cluster, f"{host.address}:{PORT}"))
    target = rpc.Target(f"{host.address}:{PORT}", SpiffeId.parse(DIRECTORY))
    caller = federation.party(f"spiffe://{TOKYO}/manager/main")
    return Process("directory", config, target, caller, host.prefix)


if __name__ == "__main__":
    main()
