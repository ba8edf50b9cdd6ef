"""Quotes of a real cloud: who gets one, and the version that goes into what is metered."""

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from manager.settings.accounts import PriceSettings
from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import Cloud
from watari import errors
from watari.cli import main
from watari.cli.conditions import read_quote
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2, manager_pb2_grpc

ACME = f"spiffe://{TOKYO}/user/acme"
OPERATOR = f"spiffe://{OSAKA}/operator/main"
SHEET = PriceSettings(currency="JPY", version=3, vcpu_hour="2.5")


@pytest.fixture
def osaka(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """Sells at its third price sheet."""
    _, osaka = clouds
    osaka.stop()
    osaka.change(prices=SHEET)
    osaka.start()
    return osaka


def ask(cloud: Cloud, caller: str, vcpus: int = 2, **values: str) -> manager_pb2.Quote:
    """Somebody's quote."""
    request = manager_pb2.IssueQuoteRequest(
        quote_id=str(uuid.uuid4()), resources=common_pb2.Resources(vcpus=vcpus), **values
    )
    stub = manager_pb2_grpc.AccountingServiceStub(cloud.channel(caller))
    signed = client.call(stub.IssueQuote, request).quote
    return manager_pb2.Quote.FromString(signed.payload)


def test_a_tenant_is_quoted_for_itself_only_and_managers_and_operators_for_any(osaka: Cloud):
    quote = ask(osaka, ACME)
    assert (quote.tenant_domain, quote.tenant, quote.hourly.units) == (TOKYO, "acme", 5)
    for caller in (f"spiffe://{TOKYO}/manager/main", OPERATOR):
        assert ask(osaka, caller, tenant="globex", tenant_domain=TOKYO).tenant == "globex"
    with pytest.raises(errors.Denied):
        ask(osaka, ACME, tenant="globex")
    with pytest.raises(errors.InvalidArgument):
        ask(osaka, OPERATOR)


def test_a_manager_is_not_told_what_another_providers_tenant_has_left(osaka: Cloud):
    stranger = f"spiffe://{TOKYO}/manager/main"
    for vcpus in (2, 1000):
        with pytest.raises(errors.Denied, match="speaks for no tenant"):
            ask(osaka, stranger, vcpus, tenant="acme", tenant_domain=OSAKA)


def test_what_would_be_refused_is_not_quoted(osaka: Cloud):
    with pytest.raises(errors.Exhausted) as caught:
        ask(osaka, ACME, vcpus=1000)
    assert caught.value.reason == "INSUFFICIENT_CAPACITY"
    stub = manager_pb2_grpc.AccountingServiceStub(osaka.channel(OPERATOR))
    quota = manager_pb2.Quota(
        tenant_domain=TOKYO, tenant="acme", hard=common_pb2.Resources(vcpus=1)
    )
    put = manager_pb2.PutQuotaRequest(request_id=str(uuid.uuid4()), quota=quota)
    client.call(stub.PutQuota, put)
    with pytest.raises(errors.Exhausted) as caught:
        ask(osaka, ACME)
    assert caught.value.reason == "QUOTA_EXCEEDED"


def test_what_is_metered_has_the_version_that_was_pinned_and_keeps_it(
    clouds: tuple[Cloud, Cloud], osaka: Cloud
):
    tokyo, _ = clouds
    tokyo.wait_state(tokyo.migrate("web-1", "osaka").migration_id, "SUCCEEDED")
    osaka.stop()
    osaka.change(prices=replace(SHEET, version=4))
    osaka.start()
    (arrived,) = osaka.usage()
    assert arrived.price_version == 3


def migrate(cloud: Cloud, **conditions: object) -> manager_pb2.Migration:
    """web-1 goes to osaka on conditions; how that ended."""
    request = manager_pb2.MigrateVmRequest(
        migration_id=str(uuid.uuid4()),
        vm="web-1",
        to_cloud="osaka",
        **conditions,  # type: ignore[arg-type]
    )
    asked = client.call(cloud.operator.MigrateVm, request).migration
    return cloud.wait_ended(asked.migration_id)


def quoted(osaka: Cloud, vm: manager_pb2.Vm) -> common_pb2.SignedDocument:
    """osaka's quote for a machine."""
    request = manager_pb2.IssueQuoteRequest(
        quote_id=str(uuid.uuid4()),
        resources=vm.resources,
        tenant=vm.tenant,
        tenant_domain=vm.tenant_domain,
    )
    stub = manager_pb2_grpc.AccountingServiceStub(osaka.channel(OPERATOR))
    return client.call(stub.IssueQuote, request).quote


def test_a_machine_arrives_at_the_price_that_was_quoted_whatever_the_sheet_says_by_then(
    clouds: tuple[Cloud, Cloud], osaka: Cloud
):
    tokyo, _ = clouds
    (vm,) = tokyo.vms().values()
    quote = quoted(osaka, vm)
    osaka.stop()
    osaka.change(prices=replace(SHEET, version=4))
    osaka.start()
    assert migrate(tokyo, quote=quote).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    (arrived,) = osaka.usage()
    assert arrived.price_version == 3


def test_a_quote_for_something_else_fails_the_migration_in_the_destinations_words(
    clouds: tuple[Cloud, Cloud], osaka: Cloud
):
    tokyo, _ = clouds
    (vm,) = tokyo.vms().values()
    other = manager_pb2.Vm()
    other.CopyFrom(vm)
    other.resources.vcpus += 1
    failed = migrate(tokyo, quote=quoted(osaka, other))
    assert failed.state == manager_pb2.MIGRATION_STATE_FAILED
    assert failed.problem.reason == "QUOTE_INVALID"
    assert "ask for a new quote" in failed.problem.hint
    altered = quoted(osaka, vm)
    altered.payload += b"\x00"
    failed = migrate(tokyo, quote=altered)
    assert failed.problem.reason == "SIGNATURE_INVALID"
    assert vm.vm_id in tokyo.vms()
    assert not osaka.vms()


def test_a_host_must_be_as_the_migration_requires(clouds: tuple[Cloud, Cloud], osaka: Cloud):
    tokyo, _ = clouds
    osaka.stop()
    host = replace(osaka.settings.agents["host1"], traits=("rack:a",))
    osaka.change(agents={"host1": host})
    osaka.start()
    for condition in ({"required_traits": ["rack:b"]}, {"forbidden_traits": ["rack:a"]}):
        failed = migrate(tokyo, **condition)
        assert failed.state == manager_pb2.MIGRATION_STATE_FAILED
        assert failed.problem.reason == "HOST_INCOMPATIBLE"
        assert "rack:" in failed.problem.message + failed.problem.hint
    done = migrate(tokyo, required_traits=["rack:a"], forbidden_traits=["rack:b"])
    assert done.state == manager_pb2.MIGRATION_STATE_SUCCEEDED


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The servers are in this process: what they log must not stand among what commands print."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()))
    yield
    structlog.reset_defaults()


def test_the_command_shows_a_quote_for_resources(
    osaka: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    osaka.federation.party(OPERATOR)
    keys = osaka.federation.folder_of(OPERATOR)
    own = (
        f'certificate = "{keys / "cert.pem"}"\nkey = "{keys / "key.pem"}"\n'
        f'trust = "{keys / "trust"}"\n'
    )
    config = tmp_path / "client.toml"
    config.write_text(
        f"[client.identity]\n{own}[client.clouds.osaka.identity]\n{own}"
        f'[client.clouds.osaka.manager]\naddress = "{osaka.endpoint.address}"\n'
        f'spiffe_id = "{osaka.endpoint.spiffe_id}"\n'
    )
    asked = ["quote", "--to", "osaka", "--vcpus", "4", "--memory", "1GiB", "--tenant", "acme"]
    capsys.readouterr()
    assert main.main([*asked, "--config", str(config), "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["hourly"] == {"amount": "10.000000000", "currency": "JPY"}
    assert (row["tenant_domain"], row["price_version"]) == (OSAKA, 3)
    assert json.loads(row["document"])["purpose"] == "quote"
    file = tmp_path / "quote.json"
    assert main.main([*asked, "--config", str(config), "--out", str(file)]) == 0
    assert read_quote(file).purpose == "quote"
    assert "10.00 JPY" in capsys.readouterr().out
