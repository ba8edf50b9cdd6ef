"""Estimates between two real managers over mTLS, with scripted agents."""

import contextlib
import threading
import uuid
from dataclasses import replace

import pytest

from manager.settings.accounts import PriceSettings
from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, eventually
from tests.support.scripted_agent import GIB, HANGS
from watari import errors
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2

FOUND = agent_pb2.EstimateTransferResponse(
    unique_bytes=300,
    wire_bytes=GIB // 2,
    duration_seconds=12.5,
    downtime_seconds=12.5,
    total_bytes=4 * GIB,
    zero_bytes=3 * GIB,
    deduplicated_bytes=700,
    rate_bytes_per_second=40_000_000,
    round_trip_seconds=0.12,
    compared=True,
)
CHEAP = PriceSettings(currency="JPY", version=2, migration_flat="10", egress_gib="6")
DEAR = PriceSettings(
    currency="EUR", version=7, migration_flat="0.5", vcpu_hour="0.01", memory_gib_hour="0.02"
)


@pytest.fixture
def pair(clouds):
    """tokyo and osaka; tokyo's agent knows what an estimate comes to."""
    clouds[0].agent.estimated = FOUND
    return clouds


def estimate(cloud, to_cloud="osaka", **values):
    """Asks for an estimate for web-1."""
    request = manager_pb2.EstimateMigrationRequest(vm="web-1", to_cloud=to_cloud, **values)
    return client.call(cloud.operator.EstimateMigration, request)


def reasons(answer):
    """The findings' reasons, in order."""
    return [finding.reason for finding in answer.findings]


def test_an_estimate_carries_all_that_the_agents_found_and_no_finding(pair):
    tokyo, _ = pair
    answer = estimate(tokyo)
    assert answer.compared
    assert not answer.findings
    for field in set(FOUND.DESCRIPTOR.fields_by_name) - {"findings"}:
        assert getattr(answer, field) == getattr(FOUND, field), field


def test_an_estimate_reserves_holds_and_records_nothing(pair):
    tokyo, osaka = pair
    estimate(tokyo)
    assert not osaka.list_reservations()
    assert osaka.inventory().held.vcpus == 0
    assert not tokyo.agent.guests[VM].held_by
    assert tokyo.vms()[VM].migration_id == ""
    with tokyo.database() as database:
        assert database.execute("SELECT count(*) FROM migrations").fetchone() == (0,)


def test_the_agent_gets_a_short_grant_for_an_estimate_only_and_the_options(pair):
    tokyo, osaka = pair
    before = tokyo.federation.clock.now().timestamp()
    estimate(tokyo, options=common_pb2.TransferOptions(limit_bytes_per_second=1 << 20))
    (order,) = tokyo.agent.estimates
    grant = common_pb2.Grant.FromString(order.grant.granted.payload)
    assert grant.estimate_only
    assert grant.reservation_id == ""
    assert grant.destination_agent == order.destination_control.spiffe_id == osaka.agent.spiffe_id
    assert list(grant.disks) == list(tokyo.agent.guests[VM].disks)
    lasts = grant.expires_at.seconds - before
    assert 0 < lasts <= osaka.settings.reservations.estimate_ttl_seconds + 1
    assert order.options.limit_bytes_per_second == 1 << 20


def test_each_cloud_says_what_it_charges_in_its_own_currency(pair):
    for cloud, prices in zip(pair, (CHEAP, DEAR), strict=True):
        cloud.stop()
        cloud.change(prices=prices)
        cloud.start()
    answer = estimate(pair[0])
    # Half a GiB of sealed bytes at 6, and 10 for the migration.
    assert (answer.price.currency_code, answer.price.units) == ("JPY", 13)
    assert answer.destination_price == common_pb2.Money(currency_code="EUR", nanos=500_000_000)
    # Two CPUs and a GiB.
    assert answer.machine_hour == common_pb2.Money(currency_code="EUR", nanos=40_000_000)
    assert answer.price_version == 7


def test_a_destination_without_room_is_a_finding_and_the_disks_are_compared(pair):
    tokyo, osaka = pair
    osaka.agent.total.vcpus = 1
    eventually(lambda: osaka.inventory().total.vcpus == 1, "osaka has noticed")
    answer = estimate(tokyo)
    assert reasons(answer) == ["INSUFFICIENT_CAPACITY"]
    assert "2 of vcpus asked, 1 free" in answer.findings[0].message
    assert answer.compared
    assert answer.unique_bytes == 300


def test_a_destination_whose_hosts_are_away_is_a_finding_without_a_comparison(pair):
    tokyo, osaka = pair
    osaka.agent.stop()
    eventually(lambda: not osaka.inventory().reachable, "osaka has noticed")
    answer = estimate(tokyo)
    assert reasons(answer) == ["PEER_UNAVAILABLE"]
    assert not answer.compared
    assert answer.total_bytes == 4 * GIB
    assert answer.HasField("machine_hour")
    assert not tokyo.agent.estimates


def test_a_machine_that_moves_already_is_compared_and_the_finding_says_so(pair):
    tokyo, _ = pair
    tokyo.agent.script.append(HANGS)
    tokyo.migrate("web-1", "osaka")
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    answer = estimate(tokyo)
    assert reasons(answer) == ["VM_BUSY"]
    assert answer.compared


@pytest.mark.parametrize("mode", ["COLD", "SUSPEND", "WARM"])
def test_a_machine_that_runs_is_no_finding_and_the_agent_is_told_the_mode(pair, mode):
    tokyo, _ = pair
    tokyo.agent.guests[VM].state = agent_pb2.GUEST_STATE_RUNNING
    wanted = common_pb2.MigrationMode.Value(f"MIGRATION_MODE_{mode}")
    assert not reasons(estimate(tokyo, mode=wanted))
    assert tokyo.agent.estimates[-1].mode == wanted


def finding(severity, reason, message):
    """What an agent noticed."""
    problem = common_pb2.Problem(reason=reason, message=message)
    return agent_pb2.Finding(severity=severity, problem=problem)


def test_what_the_agents_noticed_is_parted_into_findings_and_warnings(pair):
    tokyo, _ = pair
    found = agent_pb2.EstimateTransferResponse()
    found.CopyFrom(FOUND)
    found.compared = False
    found.findings.extend(
        [
            finding(agent_pb2.SEVERITY_ERROR, "VM_NOT_MOVABLE", "a device of the host"),
            finding(agent_pb2.SEVERITY_ERROR, "IMAGE_UNREADABLE", "no such file"),
            finding(agent_pb2.SEVERITY_WARNING, "NETWORK_UNKNOWN", "another bridge"),
        ]
    )
    tokyo.agent.estimated = found
    tokyo.agent.guests[VM].problem.reason = "IMAGE_UNREADABLE"
    tokyo.agent.guests[VM].problem.message = "no such file"
    answer = estimate(tokyo)
    assert reasons(answer) == ["IMAGE_UNREADABLE", "VM_NOT_MOVABLE"], "the machine's own once"
    assert [each.reason for each in answer.warnings] == ["NETWORK_UNKNOWN"]
    assert not answer.compared
    assert not answer.HasField("price"), "without a comparison the bytes are not known"


def test_findings_and_warnings_are_bounded(pair):
    tokyo, _ = pair
    found = agent_pb2.EstimateTransferResponse(compared=True)
    for number in range(64):
        severity = agent_pb2.SEVERITY_ERROR if number % 2 else agent_pb2.SEVERITY_WARNING
        found.findings.append(finding(severity, "VM_NOT_MOVABLE", f"device {number}"))
    tokyo.agent.estimated = found
    answer = estimate(tokyo)
    assert (len(answer.findings), len(answer.warnings)) == (16, 16)


def test_what_the_agents_stumble_over_is_a_finding_after_the_machines_own_problem(pair):
    tokyo, _ = pair
    tokyo.agent.guests[VM].problem.reason = "IMAGE_UNREADABLE"
    tokyo.agent.estimated = errors.Unavailable("PEER_UNAVAILABLE", "osaka's host is silent")
    answer = estimate(tokyo)
    assert reasons(answer) == ["IMAGE_UNREADABLE", "PEER_UNAVAILABLE"]
    assert not answer.compared


def test_an_agent_that_cannot_estimate_is_an_error(pair):
    tokyo, _ = pair
    tokyo.agent.estimated = errors.Unimplemented("NOT_SERVED", "not by this release")
    with pytest.raises(errors.Unimplemented):
        estimate(tokyo)


@pytest.mark.parametrize(
    ("to_cloud", "reason"), [("tokyo", "VM_ALREADY_THERE"), ("kyoto", "CLOUD_NOT_FOUND")]
)
def test_a_destination_that_is_none_is_refused(pair, to_cloud, reason):
    with pytest.raises(errors.WatariError) as caught:
        estimate(pair[0], to_cloud)
    assert caught.value.reason == reason


def test_an_owner_of_an_old_copy_is_refused(pair):
    tokyo, osaka = pair
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    with tokyo.database() as database:
        database.execute("UPDATE vms SET cloud_id = 'tokyo', epoch = 1")
    tokyo.agent.guests[VM] = osaka.agent.guests[VM]
    with pytest.raises(errors.FailedPrecondition) as caught:
        estimate(tokyo)
    assert caught.value.reason == "VM_ALREADY_THERE"


def test_so_many_estimates_run_and_one_more_is_refused_until_one_is_called_off(pair):
    tokyo, _ = pair
    tokyo.stop()
    tokyo.change(migrations=replace(tokyo.migrations, estimates_max=1))
    tokyo.start()
    tokyo.agent.estimating.clear()
    request = manager_pb2.EstimateMigrationRequest(vm="web-1", to_cloud="osaka")
    first = tokyo.operator.EstimateMigration.future(request, timeout=30)
    eventually(lambda: len(tokyo.agent.estimates) == 1, "the first runs")
    with pytest.raises(errors.Unavailable) as caught:
        estimate(tokyo)
    assert caught.value.reason == "SERVER_UNAVAILABLE"
    first.cancel()

    def reaches_the_agent() -> bool:
        with contextlib.suppress(errors.Unavailable, errors.DeadlineExceeded):
            client.call(tokyo.operator.EstimateMigration, request, timeout_seconds=0.3)
        return len(tokyo.agent.estimates) == 2

    eventually(reaches_the_agent, "there is a place again")


def test_a_manager_that_stops_does_not_wait_for_an_estimate(pair):
    tokyo, _ = pair
    tokyo.agent.estimating.clear()
    caught: list[errors.WatariError] = []

    def ask() -> None:
        try:
            estimate(tokyo)
        except errors.WatariError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    eventually(lambda: len(tokyo.agent.estimates) == 1, "it runs")
    tokyo.stop()
    thread.join(10)
    assert [type(error) for error in caught] == [errors.Unavailable]


def asked(**changes):
    """What tokyo's manager would ask osaka's."""
    values = {
        "migration_id": str(uuid.uuid4()),
        "from_cloud": "tokyo",
        "vm_id": VM,
        "vm_name": "web-1",
        "tenant": "acme",
        "source_epoch": 1,
        "resources": common_pb2.Resources(vcpus=1, memory_bytes=GIB),
        "source_agent": f"spiffe://{TOKYO}/agent/host1",
    }
    return manager_pb2.GrantEstimateRequest(reserve=manager_pb2.ReserveRequest(**values | changes))


@pytest.mark.parametrize(
    ("caller", "changes", "reason"),
    [
        (f"spiffe://{TOKYO}/manager/main", {"source_agent": f"spiffe://{OSAKA}/agent/host1"}, 0),
        (f"spiffe://{TOKYO}/manager/other", {}, 0),
        (f"spiffe://{TOKYO}/operator/main", {}, 0),
        (f"spiffe://{TOKYO}/manager/main", {"reservation_id": str(uuid.uuid4())}, "INVALID_FIELD"),
        (f"spiffe://{TOKYO}/manager/main", {"ttl_seconds": 60}, "INVALID_FIELD"),
        (f"spiffe://{TOKYO}/manager/main", {"migration_id": "x"}, "INVALID_ID"),
    ],
)
def test_an_estimate_is_granted_to_the_clouds_own_manager_and_for_nothing_else(
    pair, caller, changes, reason
):
    stub = pair[1].reservations(caller)
    with pytest.raises(errors.WatariError) as caught:
        client.call(stub.GrantEstimate, asked(**changes))
    assert caught.value.reason == (reason or "NOT_ALLOWED")
