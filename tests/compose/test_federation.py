"""The federation in containers: machines cross while parts of it are stopped, and none is lost."""

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compose import machine, plan, prepare
from tests.support import containers
from tests.support.command_line import CommandLine, Ended
from tests.support.containers import Containers, wait_until
from watari.cli import sparse
from watari.cli.exits import Exit

pytestmark = pytest.mark.timeout(3600)
"""The first test builds the images, and perhaps their base."""

MIB = 1024 * 1024
DISK_BYTES, CONTENT_BYTES = 256 * MIB, 24 * MIB

LIMIT = "2M"
"""Bytes a second: a machine takes some twelve seconds. What is stopped is away for that long, which
is longer than a lease, so what is fresh in the end was renewed meanwhile.
"""

SEEN_SECONDS_MAX = 60.0
BEGUN_SECONDS_MAX = 60.0
ENDED_SECONDS_MAX = 300.0
PUBLISHED_SECONDS_MAX = 90.0


@dataclass(frozen=True)
class Outside:
    """Whoever moves machines, with the command line on this machine."""

    federation: Containers
    command: CommandLine

    def put(self, folder: Path, name: str) -> tuple[str, Path]:
        """Makes a machine in tokyo; its UUID, and the original of its disk."""
        disk = folder / f"{name}.raw"
        rng = random.Random(name)
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
            for at in range(0, CONTENT_BYTES, MIB):
                file.seek(at * 7)
                file.write(rng.randbytes(MIB))
        machine.put(self.federation.state, "tokyo", name, [disk])
        return self.await_seen(name), disk

    def await_seen(self, name: str) -> str:
        """Waits until tokyo's manager knows a machine, which its agent has told it; its UUID."""
        found: list[str] = []

        def seen() -> bool:
            vms = self.command.json("vm", "list", "--cloud", "tokyo")
            found.extend(vm["vm_id"] for vm in vms if vm["name"] == name)
            return bool(found)

        wait_until(
            seen,
            SEEN_SECONDS_MAX,
            lambda: f"nobody sees {name}:\n{self.federation.log('tokyo-manager-1')}",
        )
        return found[0]

    def begin(self, vm_id: str, *where: str) -> str:
        """Starts a migration that takes its time; its id. As anyone would, it says so again when a
        server is away, or is at another address since it was started again.
        """
        migration_id = str(uuid.uuid4())
        options = ("--limit", LIMIT, "--detach", "--id", migration_id, *where)
        said: list[Ended] = []

        def begun() -> bool:
            said.append(self.command.run("migrate", vm_id, "--from", "tokyo", *options, code=None))
            assert said[-1].code in {Exit.OK, Exit.UNAVAILABLE}, said[-1]
            return said[-1].code == Exit.OK

        wait_until(begun, BEGUN_SECONDS_MAX, lambda: str(said[-1]))
        return migration_id

    def state(self, migration_id: str) -> dict[str, Any]:
        """A migration; nothing while its manager is away."""
        ended = self.command.run(
            "migration", "show", migration_id, "--cloud", "tokyo", "-o", "json", code=None
        )
        return dict(ended.json) if ended.code == 0 else {}

    def await_end(self, migration_id: str) -> None:
        """Waits for a final state, which must be success."""

        def ended() -> bool:
            return self.state(migration_id).get("state") in {"succeeded", "failed", "cancelled"}

        wait_until(ended, ENDED_SECONDS_MAX, lambda: str(self.state(migration_id)))
        assert self.state(migration_id)["state"] == "succeeded", self.state(migration_id)

    def check_arrived(self, vm_id: str, disk: Path) -> None:
        """It is in osaka, there only, and every byte of it."""
        found = [vm for vm in self.command.json("vm", "list") if vm["vm_id"] == vm_id]
        assert [(vm["cloud_id"], vm["problem"]) for vm in found] == [("osaka", None)]
        shelves = self.federation.state / "shelves"
        assert sparse.first_difference(shelves / "osaka" / "vms" / vm_id / "vda.raw", disk) is None
        assert not (shelves / "tokyo" / "vms" / vm_id).exists()

    def fresh_clouds(self, directory: plan.Service) -> set[str]:
        """Clouds whose records one of the directories calls fresh; none while it is away."""
        environ = {
            **self.command.environ,
            "WATARI_CLIENT_DIRECTORY__ADDRESS": (
                f"127.0.0.1:{self.federation.ports}{directory.published}"
            ),
            "WATARI_CLIENT_DIRECTORY__SPIFFE_ID": str(directory.spiffe_id),
            "WATARI_CLIENT_FURTHER_DIRECTORIES": "",
        }
        asked = CommandLine(self.command.state, environ)
        ended = asked.run("cloud", "list", "-o", "json", code=None)
        if ended.code:
            return set()
        return {cloud["cloud_id"] for cloud in ended.json if not cloud["stale"]}

    def await_fresh(self, directory: plan.Service) -> None:
        """Waits until both clouds are in a directory."""
        wait_until(
            lambda: self.fresh_clouds(directory) == {"tokyo", "osaka"},
            PUBLISHED_SECONDS_MAX,
            lambda: f"{directory.name} lacks a cloud:\n{self.federation.log(directory.name)}",
        )

    def await_room(self) -> None:
        """Waits until the broker knows of room in both clouds: a manager publishes its cloud before
        it has seen its host.
        """
        said: list[Ended] = []

        def has_room() -> bool:
            said.append(self.command.run("place", "-o", "json", code=None))
            found = said[-1].json["candidates"] if said[-1].code == Exit.OK else []
            return {one["cloud_id"] for one in found} == {"tokyo", "osaka"}

        wait_until(has_room, PUBLISHED_SECONDS_MAX, lambda: str(said[-1]))


@pytest.fixture(scope="module")
def outside(federation: Containers, tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """With both clouds in both directories, and room in them."""
    environ = {"WATARI_CLIENT_CONFIG": str(federation.state / "client.toml")}
    found = Outside(federation, CommandLine(tmp_path_factory.mktemp("none"), environ))
    for directory in DIRECTORIES:
        found.await_fresh(directory)
    found.await_room()
    return found


DIRECTORIES = tuple(each for each in plan.services() if each.name.startswith("directory-"))


@contextmanager
def away(federation: Containers, service: str) -> Iterator[None]:
    """A service is stopped for the length of the block."""
    federation.stop(service)
    try:
        yield
    finally:
        federation.start(service)


def test_no_process_is_root_may_write_to_its_image_or_has_a_capability(
    federation: Containers,
) -> None:
    owner = prepare.default_owner()
    for name in federation.names:
        status = federation.execute(name, "cat", "/proc/1/status")
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert set(fields["Uid"].split()) == {str(owner)}, name
        assert {int(fields[f"Cap{each}"], 16) for each in ("Eff", "Prm", "Bnd")} == {0}, name
        assert fields["NoNewPrivs"].strip() == "1", name
        assert federation.inspect(name, "{{.HostConfig.ReadonlyRootfs}}") == "true", name


def test_no_secret_is_in_an_image_an_environment_or_a_log(federation: Containers) -> None:
    keys = [
        *(path.read_text().splitlines()[1] for path in federation.state.glob("secrets/*.pem")),
        *(path.read_text() for path in federation.state.glob("secrets/*-database")),
    ]
    for name in federation.names:
        told = federation.inspect(name, "{{json .}}") + federation.log(name)
        assert not [key for key in keys if key in told], name
    for image in containers.IMAGES:
        tagged = f"{image}:{federation.name}"
        command = ["run", "--rm", "--ulimit", "host", "--user", "root", tagged]
        named = "find / -xdev -name '*.pem' -o -xdev -name '*.key'"
        search = f"{named} | xargs -r grep -l 'PRIVATE KEY' || true"
        found = federation.podman(*command, "sh", "-c", search)
        assert not found.strip(), found


def test_the_sample_machine_crosses_by_the_brokers_choice(outside: Outside) -> None:
    vm_id = outside.await_seen(prepare.SAMPLE)
    shelves = outside.federation.state / "shelves"
    (original,) = (shelves / "tokyo" / "vms" / vm_id).glob("*.raw")
    copy = outside.command.state / "original.raw"
    sparse.copy(original, copy)
    ended = outside.command.json("migrate", prepare.SAMPLE, "--place", "--region", "jp-west")
    assert ended["state"] == "succeeded"
    outside.check_arrived(vm_id, copy)


def test_a_policy_outlives_its_broker(outside: Outside) -> None:
    tokyo, acme = ("--as", "tokyo"), ("--as", "tokyo", "--tenant", "acme")
    outside.command.json("policy", "put", "cheap", "--currency", "JPY", *acme)
    outside.federation.restart("broker")
    outside.federation.await_healthy("broker")
    (policy,) = outside.command.json("policy", "list", *tokyo)
    assert (policy["policy_id"], policy["tenant"]) == ("cheap", "acme")
    outside.command.run("policy", "delete", "cheap", *acme)
    assert outside.command.json("policy", "list", *tokyo) == []


def test_machines_cross_while_a_node_of_etcd_is_away(outside: Outside, tmp_path: Path) -> None:
    vm_id, disk = outside.put(tmp_path, "during-etcd")
    migration_id = outside.begin(vm_id, "--place")
    with away(outside.federation, "etcd-1"):
        outside.await_end(migration_id)
        for directory in DIRECTORIES:
            outside.await_fresh(directory)
    outside.check_arrived(vm_id, disk)


def test_machines_cross_while_a_directory_is_away(outside: Outside, tmp_path: Path) -> None:
    first, second = DIRECTORIES
    before, before_disk = outside.put(tmp_path, "before-directory")
    during, during_disk = outside.put(tmp_path, "during-directory")
    begun = outside.begin(before, "--place")
    with away(outside.federation, first.name):
        placed = outside.begin(during, "--place")
        outside.await_end(begun)
        outside.await_end(placed)
        outside.await_fresh(second)
        assert len(outside.command.json("cloud", "list")) == 2, "nobody asks the second one"
    outside.await_fresh(first)
    outside.check_arrived(before, before_disk)
    outside.check_arrived(during, during_disk)


def test_machines_cross_while_servers_of_theirs_are_restarted(
    outside: Outside, tmp_path: Path
) -> None:
    vm_id, disk = outside.put(tmp_path, "during-restarts")
    migration_id = copying(outside, vm_id)
    services = ("tokyo-front", "osaka-manager", "osaka-agent")
    for service in services:
        outside.federation.restart(service)
    outside.await_end(migration_id)
    outside.federation.await_healthy(*services)
    outside.check_arrived(vm_id, disk)


def test_machines_cross_after_a_node_of_etcd_and_a_directory_were_killed(
    outside: Outside, tmp_path: Path
) -> None:
    """The others have everything: they are away at once, and nothing that was published is lost."""
    vm_id, disk = outside.put(tmp_path, "after-kill")
    outside.await_room()
    outside.federation.kill("etcd-2")
    outside.federation.kill("directory-2")
    outside.await_end(outside.begin(vm_id, "--place"))
    outside.federation.start("etcd-2")
    outside.federation.start("directory-2")
    for directory in DIRECTORIES:
        outside.await_fresh(directory)
    outside.check_arrived(vm_id, disk)


def copying(outside: Outside, vm_id: str) -> str:
    """A migration that copies."""
    migration_id = outside.begin(vm_id, "--to", "osaka")
    wait_until(
        lambda: outside.state(migration_id).get("state") == "copying",
        SEEN_SECONDS_MAX,
        lambda: str(outside.state(migration_id)),
    )
    return migration_id


def test_the_standby_finishes_what_the_active_manager_was_at(
    outside: Outside, tmp_path: Path
) -> None:
    federation, (managers,) = outside.federation, containers.PAIRS
    vm_id, disk = outside.put(tmp_path, "handed-over")
    first = federation.working(*managers)
    (second,) = set(managers) - {first}
    migration_id = copying(outside, vm_id)
    federation.kill(first)
    assert federation.working(*managers) == second
    federation.start(first)
    federation.stop(second)
    assert federation.working(*managers) == first
    federation.start(second)
    outside.await_end(migration_id)
    outside.check_arrived(vm_id, disk)
    assert federation.working(*managers) == first, "it took the lease from one that works"


def test_a_standby_ends_in_time_when_it_is_told_to(federation: Containers) -> None:
    (managers,) = containers.PAIRS
    (standby,) = set(managers) - {federation.working(*managers)}
    with away(federation, standby):
        assert federation.inspect(standby, "{{.State.ExitCode}}") == "0"


def test_machines_cross_while_postgresql_is_restarted_and_killed(
    outside: Outside, tmp_path: Path
) -> None:
    federation = outside.federation
    vm_id, disk = outside.put(tmp_path, "during-postgresql")
    further, further_disk = outside.put(tmp_path, "further")
    migration_id = copying(outside, vm_id)
    federation.restart("postgresql")
    begun = outside.begin(further, "--to", "osaka")
    federation.kill("postgresql")
    federation.start("postgresql")
    outside.await_end(migration_id)
    outside.await_end(begun)
    outside.check_arrived(vm_id, disk)
    outside.check_arrived(further, further_disk)


def test_a_manager_that_starts_without_postgresql_waits_for_it(federation: Containers) -> None:
    with away(federation, "postgresql"):
        federation.restart("osaka-manager")
        wait_until(
            lambda: "waiting for the database" in federation.log("osaka-manager"),
            SEEN_SECONDS_MAX,
            lambda: federation.log("osaka-manager"),
        )
    federation.await_healthy("osaka-manager")


def test_a_role_gets_into_its_own_database_only_and_not_without_tls(
    federation: Containers,
) -> None:
    password = (federation.state / "secrets" / "tokyo-database").read_text()

    def asked(database: str, mode: str, statement: str) -> str:
        """What osaka's side of the network gets as tokyo's role."""
        program = (
            "import psycopg,sys\n"
            "try:\n"
            f"  c=psycopg.connect(host='postgresql',user='tokyo',dbname={database!r},"
            f"sslmode={mode!r},sslrootcert='/etc/watari/database-ca.pem',"
            f"password=sys.stdin.read(),connect_timeout=5)\n"
            f"  print(c.execute({statement!r}).fetchall())\n"
            "except psycopg.Error as e: print('refused:', e)\n"
        )
        return federation.execute("osaka-manager", "python", "-c", program, stdin=password)

    roles = "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'tokyo'"
    assert asked("tokyo", "verify-full", roles).strip() == "[(False, False, False)]"
    assert "no pg_hba.conf entry" in asked("tokyo", "disable", roles)
    for database in ("osaka", "postgres", "template1"):
        assert "no pg_hba.conf entry" in asked(database, "verify-full", roles)
