"""The audit log of real managers over mTLS: what is in it, and who reads it."""

import hashlib
import time
import uuid
from pathlib import Path

import pytest

from manager import refusals
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.audited import COLUMNS, USER, Clouds, listed, moved
from tests.support.clouds import FORWARD, VM, eventually, two_clouds
from tests.support.scripted_agent import HANGS
from watari import audit, errors, failpoint
from watari.identity import SpiffeId, denials
from watari.identity.denials import Denial
from watari.rpc import client
from watari.rpc.interceptors import UNKNOWN_PEER
from watari.v1 import audit_pb2, audit_pb2_grpc, manager_pb2
from watari.v1.audit_pb2 import AuditEntry

PAGE = Path(__file__).parents[2].joinpath("docs", "audit.md").read_text()

PERSON = f"spiffe://{TOKYO}/operator/main"
"""Who asks for what the tests ask for."""

TOKYO_MANAGER = f"spiffe://{TOKYO}/manager/main"
OSAKA_MANAGER = f"spiffe://{OSAKA}/manager/main"


def told(entries: list[AuditEntry]) -> list[tuple[str, str]]:
    """What was done, and who did it."""
    assert {each.outcome for each in entries} == {audit.DONE}
    return [(each.action, each.actor) for each in entries]


def test_a_migration_leaves_every_step_in_order_at_both_managers(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    migration_id = moved(clouds)
    at_source, at_destination = tokyo.audit(), osaka.audit()
    assert tokyo.audited_states(migration_id) == FORWARD
    state = ("migration.state", TOKYO_MANAGER)
    assert told(at_source) == [
        ("migration.requested", PERSON),
        state,
        ("grant.countersigned", TOKYO_MANAGER),
        *[state] * 5,
    ]
    assert told(at_destination) == [
        ("reservation.made", TOKYO_MANAGER),
        ("grant.issued", OSAKA_MANAGER),
        ("reservation.confirmed", TOKYO_MANAGER),
        ("hand_over.accepted", TOKYO_MANAGER),
        ("reservation.used", OSAKA_MANAGER),
    ]
    assert {each.details["migration_id"] for each in at_destination} == {migration_id}
    assert {each.details["vm_id"] for each in (*at_source, *at_destination)} == {VM}
    for action in {each.action for each in (*at_source, *at_destination)}:
        assert action in PAGE or f"`.{action.split('.')[1]}`" in PAGE


def test_both_logs_name_the_same_grant_epoch_and_receipt(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    moved(clouds)
    at_source = {each.action: each for each in tokyo.audit()}
    at_destination = {each.action: each for each in osaka.audit()}
    (handed,) = [e for e in tokyo.audit() if e.details.get("state") == "HANDED_OVER"]
    accepted = at_destination["hand_over.accepted"]
    assert handed.details["epoch"] == accepted.details["epoch"] == "2"
    assert handed.details["receipt_root"] == accepted.details["receipt_root"] != ""
    issued, countersigned = at_destination["grant.issued"], at_source["grant.countersigned"]
    assert issued.subject == countersigned.subject
    same = ("reservation_id", "bytes_max", "expires_at", "source_agent", "destination_agent")
    assert [issued.details[name] for name in same] == [countersigned.details[name] for name in same]


def test_a_cancelled_migration_says_who_asked_and_what_was_given_back(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    limit = manager_pb2.SetMigrationLimitRequest(
        migration_id=migration_id, limit_bytes_per_second=10_000_000
    )
    client.call(tokyo.operator.SetMigrationLimit, limit)
    tokyo.cancel(migration_id)
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    asked = [each for each in tokyo.audit() if each.actor == PERSON]
    assert [each.action for each in asked] == [
        "migration.requested",
        "migration.limit_changed",
        "migration.cancel_requested",
    ]
    assert asked[1].details["bytes_per_second"] == "10000000"
    assert [each.action for each in osaka.audit()][-1] == "reservation.released"


def test_a_migration_that_fails_says_why(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    big = "6f1f2d2e-0000-4000-8000-000000000002"
    tokyo.agent.add(big, "big", vcpus=9)
    eventually(lambda: big in tokyo.vms(), "the machine is adopted")
    migration_id = tokyo.migrate("big", "osaka").migration_id
    tokyo.wait_state(migration_id, "FAILED")
    last = tokyo.audit()[-1]
    assert (last.details["state"], last.details["reason"]) == ("FAILED", "INSUFFICIENT_CAPACITY")
    assert not osaka.audit()


def test_an_estimate_is_told_by_who_grants_it_and_by_who_backs_it(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    request = manager_pb2.EstimateMigrationRequest(vm="web-1", to_cloud="osaka")
    client.call(tokyo.operator.EstimateMigration, request)
    (issued,), (countersigned,) = osaka.audit(), tokyo.audit()
    assert (issued.action, countersigned.action) == ("grant.issued", "grant.countersigned")
    assert issued.details["estimate_only"] == countersigned.details["estimate_only"] == "True"


def test_a_reservation_that_runs_out_is_told_once(clouds: Clouds) -> None:
    tokyo, osaka = clouds
    tokyo.agent.script.append(HANGS)
    moved_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: len(osaka.list_reservations()) == 1, "it is reserved")
    tokyo.stop()
    with osaka.database() as database:
        database.execute("UPDATE reservations SET expires_at = 1")
    eventually(lambda: osaka.audit()[-1].action == "reservation.expired", "it runs out")
    assert osaka.audit()[-1].actor == OSAKA_MANAGER
    assert osaka.audit()[-1].details["migration_id"] == moved_id
    assert [each.action for each in osaka.audit()].count("reservation.expired") == 1


POINTS = [
    "manager.saga.before_state",
    "manager.saga.after_state",
    "manager.saga.after_reserve",
    "manager.saga.in_commit",
    "manager.saga.after_commit",
    "manager.saga.after_hand_over",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_manager_that_is_dropped_at_a_point_has_every_state_once(
    clouds: Clouds, point: str
) -> None:
    tokyo, _ = clouds
    migration_id = str(uuid.uuid4())
    with failpoint.armed(point, "error(SERVER_UNAVAILABLE)"):
        tokyo.migrate("web-1", "osaka", migration_id)
        time.sleep(0.3)
        # It may go on meanwhile: an error after a step is no reason to stay there.
        before = tokyo.audited_states(migration_id)
        state = manager_pb2.MigrationState.Name(tokyo.migration(migration_id).state)
        after = tokyo.audited_states(migration_id)
        assert state.removeprefix("MIGRATION_STATE_") in after[len(before) - 1 :]
        tokyo.stop()
    tokyo.start()
    tokyo.wait_state(migration_id, "SUCCEEDED")
    assert tokyo.audited_states(migration_id) == FORWARD


def test_the_log_is_paged_by_sequence_and_tells_its_head(clouds: Clouds) -> None:
    tokyo, _ = clouds
    moved(clouds)
    entries = tokyo.audit()
    page = listed(tokyo, after_sequence=2, page_size=3)
    assert list(page.entries) == entries[2:5]
    assert (page.last_sequence, page.last_hash) == audit.head_of(entries[-1])
    beyond = listed(tokyo, after_sequence=1000)
    assert (len(beyond.entries), beyond.last_sequence) == (0, len(entries))
    for wrong in ({"after_sequence": 2**63}, {"page_size": 1001}):
        with pytest.raises(errors.InvalidArgument):
            listed(tokyo, **wrong)


def test_an_empty_log_has_the_head_that_every_log_begins_with(clouds: Clouds) -> None:
    page = listed(clouds[0])
    assert (page.last_sequence, page.last_hash) == audit.START


@pytest.mark.parametrize("caller", [USER, TOKYO_MANAGER, f"spiffe://{OSAKA}/operator/admin"])
def test_only_own_operators_read_the_log_and_who_tried_is_in_it(
    clouds: Clouds, caller: str
) -> None:
    tokyo, _ = clouds
    with pytest.raises(errors.Denied):
        listed(tokyo, caller)
    eventually(lambda: len(tokyo.audit()) == 1, "it is written down")
    (refused,) = tokyo.audit()
    assert (refused.action, refused.actor) == (refusals.ACTION, caller)
    assert refused.outcome == audit.REFUSED
    assert refused.subject == "/watari.v1.AuditService/ListAuditEntries"
    assert refused.details["reason"] == "NOT_ALLOWED"


def test_a_refusal_by_the_domain_is_told_like_one_by_the_table(clouds: Clouds) -> None:
    _, osaka = clouds
    hub = osaka.reservations("spiffe://hub.example/manager/main")
    request = manager_pb2.ReserveRequest(
        reservation_id=str(uuid.uuid4()),
        migration_id=str(uuid.uuid4()),
        from_cloud="tokyo",
        vm_id=VM,
        vm_name="web-1",
        tenant="acme",
        source_epoch=1,
        disks=[{"disk_id": "vda", "size_bytes": 10}],
        resources={"vcpus": 1, "disk_bytes": 10},
        source_agent="spiffe://hub.example/agent/host1",
        ttl_seconds=60,
    )
    with pytest.raises(errors.Denied):
        client.call(hub.Reserve, request)
    eventually(lambda: len(osaka.audit()) == 1, "it is written down")
    assert osaka.audit()[0].actor == "spiffe://hub.example/manager/main"


def test_a_certificate_that_was_denied_is_told_with_whose_it_is(
    own_federation: Federation, tmp_path: Path
) -> None:
    with two_clouds(own_federation, tmp_path) as (tokyo, _):
        tokyo.start()
        now = own_federation.clock.now()
        own_federation.party(USER)
        denials.save(own_federation.trust_folder, TOKYO, [Denial(SpiffeId.parse(USER), now)])
        request = manager_pb2.GetCloudStatusRequest()
        with pytest.raises(errors.Unauthenticated):
            client.call(tokyo.seen_by(USER).GetCloudStatus, request)
        eventually(lambda: len(tokyo.audit()) == 1, "it is written down")
        (refused,) = tokyo.audit()
    assert refused.actor == UNKNOWN_PEER
    assert dict(refused.details) == {"reason": "CERTIFICATE_DENIED", "party": USER}


def test_a_thousand_refused_calls_make_few_entries_that_count_them(clouds: Clouds) -> None:
    tokyo, _ = clouds
    stub = audit_pb2_grpc.AuditServiceStub(tokyo.channel(USER))
    for _ in range(1000):
        with pytest.raises(errors.Denied):
            client.call(stub.ListAuditEntries, audit_pb2.ListAuditEntriesRequest())
    tokyo.stop()
    tokyo.start()
    refused = [each for each in tokyo.audit() if each.action == refusals.ACTION]
    windows = 1 if len(refused) <= refusals.NOTED_PER_WINDOW_MAX + 1 else 2
    assert len(refused) <= windows * (refusals.NOTED_PER_WINDOW_MAX + 1)
    assert sum(int(each.details.get("count", "1")) for each in refused) == 1000


def documented_hash(entry: AuditEntry) -> bytes:
    """The hash as docs/audit.md describes it."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "big", signed=True)

    moment = entry.occurred_at
    parts = [
        number(entry.sequence, 8),
        number(moment.seconds, 8),
        number(moment.nanos, 4),
        entry.actor.encode(),
        entry.action.encode(),
        entry.subject.encode(),
        number(entry.outcome, 4),
        number(len(entry.details), 4),
    ]
    for name, value in sorted(entry.details.items(), key=lambda detail: detail[0].encode()):
        parts += [name.encode(), value.encode()]
    parts.append(entry.previous_hash)
    text = b"watari audit entry 1\n" + b"".join(number(len(part), 4) + part for part in parts)
    return hashlib.sha256(text).digest()


def test_another_implementation_of_the_documentation_agrees(clouds: Clouds) -> None:
    moved(clouds)
    for cloud in clouds:
        before = bytes(32)
        for at, entry in enumerate(cloud.audit(), start=1):
            assert (entry.sequence, entry.previous_hash) == (at, before)
            assert documented_hash(entry) == entry.hash
            before = entry.hash


def test_a_migration_takes_as_much_room_as_the_documentation_says(clouds: Clouds) -> None:
    moved(clouds)
    for cloud, entries in zip(clouds, (8, 5), strict=True):
        cloud.stop()
        with cloud.database() as database:
            columns = " + ".join(f"length(CAST({each} AS BLOB))" for each in COLUMNS.split(", "))
            query = f"SELECT count(*), sum({columns}) FROM audit_entries"  # noqa: S608
            ((count, size),) = database.execute(query)
        assert count == entries
        assert size < 5000
        assert f"{count} entries" in PAGE
