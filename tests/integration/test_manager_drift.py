"""`watari manager audit`: what it finds in a real cloud, what it repairs and what it leaves."""

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from manager.settings.hosts import HostSettings
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.clouds import VM, Cloud, two_clouds
from tests.support.scripted_agent import HANGS
from watari import errors
from watari.cli import main
from watari.rpc import client
from watari.v1 import manager_pb2

OTHER = "6f1f2d2e-0000-4000-8000-000000000002"


@pytest.fixture
def pair(federation: Federation, tmp_path: Path) -> Iterator[tuple[Cloud, Cloud]]:
    """tokyo with web-1, which looks at its host only when it starts, and osaka."""
    with two_clouds(federation, tmp_path) as (tokyo, osaka):
        tokyo.change(hosts=HostSettings(poll_seconds=3600.0, call_seconds_max=3.0))
        tokyo.agent.add(VM, "web-1")
        tokyo.start()
        osaka.start()
        yield tokyo, osaka


def audit(cloud: Cloud, *, repair: bool = False) -> list[manager_pb2.Drift]:
    """What is found."""
    request = manager_pb2.AuditAllocationsRequest(repair=repair)
    return list(client.call(cloud.operator.AuditAllocations, request).drifts)


def kinds(drifts: list[manager_pb2.Drift]) -> list[tuple[str, str]]:
    """What it is, and of whom."""
    names = manager_pb2.DriftKind
    return [(names.Name(each.kind).removeprefix("DRIFT_KIND_"), each.subject_id) for each in drifts]


def test_a_cloud_in_order_has_no_drift_also_while_a_machine_crosses(pair):
    tokyo, osaka = pair
    assert audit(tokyo) == []
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "COPYING")
    assert audit(tokyo) == audit(osaka) == []
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")


def test_the_room_of_a_machine_is_kept_until_the_destination_keeps_the_machine(pair):
    tokyo, osaka = pair
    before = tokyo.inventory().allocated
    osaka.agent.refuse("ActivateIncoming", *[errors.Unavailable("PEER_UNAVAILABLE", "away")] * 20)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "HANDED_OVER")
    assert not tokyo.vms()
    assert tokyo.inventory().allocated == before
    assert audit(tokyo) == []
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert not tokyo.inventory().allocated.vcpus
    assert audit(tokyo) == []


def test_allocations_that_are_wrong_missing_or_nobodys_are_found_and_repaired(pair):
    tokyo, _ = pair
    before, nobody = tokyo.inventory().allocated, str(uuid.uuid4())
    with tokyo.database() as rows:
        rows.execute("UPDATE allocations SET amount = 7 WHERE resource_class = 'vcpus'")
        rows.execute("DELETE FROM allocations WHERE resource_class = 'memory_bytes'")
        rows.execute(
            "INSERT INTO allocations VALUES (?, 'reservation', 'vcpus', 'host1', 1)", (nobody,)
        )
    expected = [("ALLOCATION_ORPHAN", nobody), ("ALLOCATION_WRONG", VM)]
    assert kinds(audit(tokyo)) == expected
    with tokyo.database() as rows:
        found = rows.execute("SELECT amount FROM allocations WHERE kind = 'vm'").fetchall()
    assert (7,) in found, "nothing is changed by looking"
    assert all(each.repaired for each in audit(tokyo, repair=True))
    assert audit(tokyo) == []
    assert tokyo.inventory().allocated == before
    assert not tokyo.inventory().held.vcpus
    told = [each for each in tokyo.audit() if each.action == "allocations.repaired"]
    assert {each.subject for each in told} == {VM, nobody}


def test_what_is_counted_beside_the_allocations_is_found_and_counted_anew(pair):
    tokyo, _ = pair
    before = tokyo.inventory().allocated
    with tokyo.database() as rows:
        rows.execute("UPDATE taken SET amount = amount + 1 WHERE resource_class = 'vcpus'")
    (drift,) = audit(tokyo)
    assert kinds([drift]) == [("ALLOCATION_WRONG", "host1")]
    assert f"{before.vcpus + 1} of vcpus by vms" in drift.found
    assert f"{before.vcpus} of vcpus by vms" in drift.expected
    (drift,) = audit(tokyo, repair=True)
    assert drift.repaired
    assert audit(tokyo) == []
    assert tokyo.inventory().allocated == before


def test_the_allocation_of_a_live_reservation_is_written_anew(pair):
    tokyo, osaka = pair
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    tokyo.wait_state(migration_id, "COPYING")
    held = osaka.inventory().held
    with osaka.database() as rows:
        rows.execute("DELETE FROM allocations")
    (drift,) = audit(osaka, repair=True)
    assert drift.kind == manager_pb2.DRIFT_KIND_ALLOCATION_WRONG
    assert osaka.inventory().held == held
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")


def test_what_the_host_really_has_is_compared_and_only_what_is_safe_is_repaired(pair):
    tokyo, _ = pair
    tokyo.agent.add(OTHER, "db-1")
    with tokyo.agent.lock:
        tokyo.agent.guests[VM].resources.vcpus = 5
    assert sorted(kinds(audit(tokyo))) == [("MACHINE_CHANGED", VM), ("MACHINE_UNKNOWN", OTHER)]
    assert OTHER not in tokyo.vms()
    assert all(each.repaired for each in audit(tokyo, repair=True))
    assert tokyo.vms()[VM].resources.vcpus == 5
    assert OTHER in tokyo.vms()
    assert audit(tokyo) == []
    with tokyo.agent.lock:
        del tokyo.agent.guests[VM]
    (missing,) = audit(tokyo, repair=True)
    assert kinds([missing]) == [("MACHINE_MISSING", VM)]
    assert not missing.repaired
    assert not missing.repair
    assert VM in tokyo.vms(), "it is owned all the same"


def test_a_host_that_does_not_answer_is_told_of_and_nothing_of_its_machines(pair):
    tokyo, _ = pair
    tokyo.agent.stop()
    (silent,) = audit(tokyo, repair=True)
    assert (silent.kind, silent.host_id) == (manager_pb2.DRIFT_KIND_HOST_SILENT, "host1")
    assert VM in tokyo.vms()


def test_a_copy_of_what_another_cloud_owns_is_an_operators_business(pair):
    tokyo, _ = pair
    with tokyo.database() as rows:
        rows.execute("UPDATE vms SET cloud_id = 'osaka', epoch = 2")
    found = dict(kinds(audit(tokyo, repair=True)))
    assert found == {"ALLOCATION_ORPHAN": VM, "MACHINE_FOREIGN": VM}
    assert tokyo.agent.can_start(VM), "nothing is done to it"
    request = manager_pb2.AuditAllocationsRequest()
    with pytest.raises(errors.Denied):
        client.call(tokyo.seen_by(f"spiffe://{OSAKA}/operator/main").AuditAllocations, request)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


def test_the_command_tells_what_disagrees_and_what_a_repair_would_do(
    pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tokyo, _ = pair
    operator = f"spiffe://{TOKYO}/operator/main"
    tokyo.federation.party(operator)
    keys = tokyo.federation.folder_of(operator)
    own = (
        f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
        f'trust = "{keys / "trust"}"\n'
    )
    config = tmp_path / "client.toml"
    config.write_text(
        f"[client.identity]\n{own}[client.clouds.tokyo.identity]\n{own}"
        f'[client.clouds.tokyo.manager]\naddress = "{tokyo.endpoint.address}"\n'
        f'spiffe_id = "{tokyo.endpoint.spiffe_id}"\n'
    )

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main.main(["manager", "audit", *arguments, "--config", str(config)]) == 0
        return capsys.readouterr().out

    assert "Everything agrees." in run()
    with tokyo.database() as rows:
        rows.execute("DELETE FROM allocations")
    (row,) = json.loads(run("-o", "json"))
    assert (row["kind"], row["repaired"]) == ("allocation_wrong", False)
    (row,) = json.loads(run("--repair", "-o", "json"))
    assert row["repaired"]
    assert "Everything agrees." in run()
