"""Quotas of a real cloud: set by its operator, seen by tenants, and in the way of migrations."""

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from manager.settings.accounts import AccountSettings, PriceSettings
from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from tests.support.scripted_agent import GIB
from watari import errors
from watari.cli import main
from watari.cli.exits import Exit
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2, manager_pb2_grpc

OTHER_VM = "6f1f2d2e-0000-4000-8000-0000000000b0"
ACME = f"spiffe://{TOKYO}/user/acme"
OPERATOR = f"spiffe://{OSAKA}/operator/main"


def accounts(cloud: Cloud, caller: str) -> manager_pb2_grpc.AccountingServiceStub:
    """A cloud's accounts as somebody sees them."""
    return manager_pb2_grpc.AccountingServiceStub(cloud.channel(caller))


def put(cloud: Cloud, hard: common_pb2.Resources, **values: Any) -> manager_pb2.Quota:
    """Limit acme of tokyo, unless something else is said."""
    values = {"tenant_domain": TOKYO, "tenant": "acme"} | values
    request = manager_pb2.PutQuotaRequest(
        request_id=str(uuid.uuid4()), quota=manager_pb2.Quota(hard=hard, **values)
    )
    return client.call(accounts(cloud, OPERATOR).PutQuota, request).quota


def quotas(cloud: Cloud, caller: str, **asked: str) -> list[manager_pb2.Quota]:
    """What somebody is shown, a page for each."""
    request, found = manager_pb2.ListQuotasRequest(page_size=1, **asked), []
    while True:
        page = client.call(accounts(cloud, caller).ListQuotas, request)
        found += page.quotas
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def test_a_migration_beyond_the_quota_fails_and_says_so_and_the_machine_stays(clouds):
    tokyo, osaka = clouds
    put(osaka, common_pb2.Resources(other={"machines": 0}))
    failed = tokyo.wait_ended(tokyo.migrate("web-1", "osaka").migration_id)
    assert failed.problem.reason == "QUOTA_EXCEEDED"
    assert failed.problem.metadata["resource"] == "machines"
    assert VM in tokyo.vms()
    assert not osaka.list_reservations()


def test_a_machine_that_crosses_counts_at_one_cloud_after_the_other(clouds):
    tokyo, osaka = clouds
    put(osaka, common_pb2.Resources(other={"machines": 1}))
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    asked = {"tenant_domain": TOKYO, "tenant": "acme"}
    (here,) = quotas(osaka, OPERATOR, **asked)
    assert here.used.other["machines"] == 1
    assert here.used.memory_bytes == osaka.vms()[VM].resources.memory_bytes
    (there,) = quotas(tokyo, f"spiffe://{TOKYO}/operator/main", **asked)
    assert not there.used.ByteSize()


def test_an_estimate_tells_of_a_quota_before_anything_moves(clouds):
    tokyo, osaka = clouds
    tokyo.agent.estimated = agent_pb2.EstimateTransferResponse(compared=True)
    put(osaka, common_pb2.Resources(), soft=common_pb2.Resources(other={"machines": 0}))
    ask = manager_pb2.EstimateMigrationRequest(vm="web-1", to_cloud="osaka")
    answer = client.call(tokyo.operator.EstimateMigration, ask)
    assert not answer.findings
    assert [each.metadata["resource"] for each in answer.warnings] == ["machines"]
    put(osaka, common_pb2.Resources(memory_bytes=GIB // 1024), generation=1)
    answer = client.call(tokyo.operator.EstimateMigration, ask)
    assert [each.metadata["resource"] for each in answer.findings] == ["memory_bytes"]
    assert answer.compared, "the agents compare all the same"


def test_a_tenant_is_shown_its_own_quota_and_sets_none(clouds):
    _, osaka = clouds
    put(osaka, common_pb2.Resources(vcpus=4))
    put(osaka, common_pb2.Resources(vcpus=9), tenant_domain="", tenant="globex")
    (mine,) = quotas(osaka, ACME)
    assert (mine.tenant, mine.hard.vcpus) == ("acme", 4)
    assert quotas(osaka, ACME, tenant_domain=OSAKA, tenant="globex") == []
    assert [each.tenant for each in quotas(osaka, OPERATOR)] == ["globex", "acme"]
    for caller in (ACME, f"spiffe://{TOKYO}/operator/main"):
        request = manager_pb2.DeleteQuotaRequest(tenant_domain=TOKYO, tenant="acme")
        with pytest.raises(errors.Denied):
            client.call(accounts(osaka, caller).DeleteQuota, request)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"tenant": ""}, "quota.tenant"),
        ({"tenant_domain": "*"}, "quota.tenant_domain"),
        ({"used": common_pb2.Resources()}, "quota.used"),
        ({"soft": common_pb2.Resources(vcpus=5)}, "quota.soft.vcpus"),
        ({"soft": common_pb2.Resources(other={"vcpus": 1})}, "quota.soft.other"),
    ],
)
def test_a_quota_that_makes_no_sense_is_refused(clouds, values, field):
    _, osaka = clouds
    with pytest.raises(errors.InvalidArgument) as caught:
        put(osaka, common_pb2.Resources(vcpus=4), **values)
    assert caught.value.metadata["field"] == field


def test_the_audit_log_tells_who_limited_whom_and_to_what(clouds):
    _, osaka = clouds
    put(osaka, common_pb2.Resources(vcpus=4, other={"gpu": 0}))
    request = manager_pb2.DeleteQuotaRequest(tenant_domain=TOKYO, tenant="acme", generation=1)
    client.call(accounts(osaka, OPERATOR).DeleteQuota, request)
    told = [each for each in osaka.audit() if each.action.startswith("quota.")]
    assert [(each.action, each.subject, each.actor) for each in told] == [
        ("quota.set", f"{TOKYO}/acme", OPERATOR),
        ("quota.deleted", f"{TOKYO}/acme", OPERATOR),
    ]
    assert dict(told[0].details) == {"hard.vcpus": "4", "hard.gpu": "0"}


@pytest.fixture
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


class Watari:
    """`watari quota` at osaka, as its operator."""

    def __init__(self, osaka: Cloud, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        osaka.federation.party(OPERATOR)
        keys = osaka.federation.folder_of(OPERATOR)
        self.config, self.capsys = folder / "client.toml", capsys
        own = (
            f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
            f'trust = "{keys / "trust"}"\n'
        )
        self.config.write_text(
            f"[client.identity]\n{own}[client.clouds.osaka.identity]\n{own}"
            f'[client.clouds.osaka.manager]\naddress = "{osaka.endpoint.address}"\n'
            f'spiffe_id = "{osaka.endpoint.spiffe_id}"\n'
        )

    def __call__(self, *arguments: str, code: int = Exit.OK) -> str:
        self.capsys.readouterr()
        ended = main.main(["quota", *arguments, "--config", str(self.config)])
        out, err = self.capsys.readouterr()
        assert ended == code, (arguments, out, err)
        return out or err


@pytest.fixture
def watari(clouds, tmp_path: Path, capsys: pytest.CaptureFixture[str], _quiet: None) -> Watari:
    """The command."""
    return Watari(clouds[1], tmp_path, capsys)


def test_the_command_sets_changes_lists_and_deletes_quotas(watari: Watari):
    acme = ("acme", "--domain", TOKYO)
    watari("set", *acme, "vcpus=16/12", "memory=64GiB", "machines=3", "gpu=0")
    watari("set", *acme, "vcpus=8", "machines=none")
    watari("set", "*", "--domain", "*", "machines=100")
    row = json.loads(watari("list", "-o", "json"))[1]
    assert (row["tenant"], row["hard"]["vcpus"], row["soft"]["vcpus"]) == ("acme", 8, 0)
    assert row["hard"]["memory_bytes"] == 64 * GIB
    assert row["hard"]["other"] == {"gpu": 0}
    assert row["effective_hard"]["other"] == {"gpu": 0, "machines": 100}
    lines = [line.split() for line in watari("list").splitlines()]
    assert ["osaka", "acme", "of", TOKYO, "vcpus", "0", "-", "8"] in lines
    assert ["osaka", "acme", "of", TOKYO, "machines", "0", "-", "100", "default"] in lines
    watari("delete", *acme)
    assert [row["tenant"] for row in json.loads(watari("list", "-o", "json"))] == ["*"]


def test_a_budget_in_another_currency_than_the_clouds_is_refused(watari: Watari):
    said = json.loads(
        watari("set", "acme", "--budget", "5000/4000 XAU", "-o", "json", code=Exit.USAGE)
    )
    assert said["error"]["reason"] == "INVALID_FIELD"
    assert "JPY" in said["error"]["hint"]


def test_a_budget_that_is_spent_keeps_new_machines_away_and_leaves_those_that_run(
    clouds: tuple[Cloud, Cloud],
):
    """osaka charges 10 JPY an hour for a machine that has run there for some hours by now."""
    _, osaka = clouds
    osaka.stop()
    osaka.change(
        prices=PriceSettings(version=2, vcpu_hour="10"),
        accounts=AccountSettings(book_seconds=0.1),
        hosts=replace(osaka.settings.hosts, events_seconds=0.1),
    )
    osaka.start()
    running = {"resources": common_pb2.Resources(vcpus=1), "tenant": "acme"}
    off, on = agent_pb2.GUEST_STATE_SHUT_OFF, agent_pb2.GUEST_STATE_RUNNING
    osaka.agent.tell("APPEARED", OTHER_VM, state=off, **running)
    osaka.agent.tell("STARTED", OTHER_VM, state=on, **running)

    def quota() -> manager_pb2.Quota:
        request = manager_pb2.ListQuotasRequest()
        (found,) = [
            each
            for each in client.call(accounts(osaka, OPERATOR).ListQuotas, request).quotas
            if each.tenant == "acme" and each.tenant_domain == OSAKA
        ]
        return found

    limited = manager_pb2.Quota(tenant="acme", tenant_domain=OSAKA)
    limited.budget_month.currency_code, limited.budget_month.nanos = "JPY", 2_000_000
    request = manager_pb2.PutQuotaRequest(request_id=str(uuid.uuid4()), quota=limited)
    client.call(accounts(osaka, OPERATOR).PutQuota, request)
    eventually(lambda: quota().spent_month.nanos >= 2_000_000, "0.002 JPY are 0.72 seconds")
    asked = manager_pb2.IssueQuoteRequest(
        quote_id=str(uuid.uuid4()), tenant="acme", resources=common_pb2.Resources(vcpus=1)
    )
    with pytest.raises(errors.Exhausted) as caught:
        client.call(accounts(osaka, OPERATOR).IssueQuote, asked)
    assert caught.value.reason == "BUDGET_EXCEEDED"
    before = quota().spent_month.nanos
    eventually(lambda: quota().spent_month.nanos > before, "what runs goes on, and goes on costing")


@pytest.mark.parametrize("text", ["vcpus", "vcpus=", "vcpus=0", "gpu=1.5", "memory=-1", "=3"])
def test_the_command_says_how_a_limit_is_written(watari: Watari, text: str):
    said = json.loads(watari("set", "acme", text, "-o", "json", code=Exit.USAGE))
    assert said["error"]["hint"]
