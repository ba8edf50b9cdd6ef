"""Quotes of a real cloud: who gets one, and the version that goes into what is metered."""

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from manager.settings import PriceSettings
from tests.conftest import OSAKA, TOKYO
from tests.support.clouds import Cloud
from watari import errors
from watari.cli import main
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
    assert main.main([*asked, "--config", str(config)]) == 0
    assert "10.00 JPY" in capsys.readouterr().out
