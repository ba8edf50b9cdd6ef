"""Reservation mandates as documents: what they say, and each way in which one can be wrong."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from manager import inventory, mandates
from manager.inventory import STORAGE
from tests.conftest import Federation
from watari import errors, identity, mandate
from watari.clock import FakeClock
from watari.identity import SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BROKER = SpiffeId.parse("spiffe://hub.example/broker/main")
ACME = "spiffe://tokyo.example/user/acme"
OPERATOR = "spiffe://tokyo.example/operator/main"
TOKYO_MANAGER = EndpointSettings("127.0.0.1:1", "spiffe://tokyo.example/manager/main")
OSAKA_MANAGER = EndpointSettings("127.0.0.1:1", "spiffe://osaka.example/manager/main")
NEEDED = common_pb2.Resources(vcpus=2, memory_bytes=2**30, disk_bytes=2**32)
SUBJECT = mandate.Subject(
    str(uuid.uuid4()), str(uuid.uuid4()), "tokyo", "tokyo.example", "acme", NEEDED
)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Providers whose certificates are valid at NOW."""
    return Federation(tmp_path_factory.mktemp("federation"), FakeClock(NOW))


def signed(
    parties: Federation, signer: str = ACME, life_seconds: int = 600
) -> common_pb2.SignedDocument:
    """A mandate for two clouds."""
    return mandate.sign(
        parties.party(signer),
        NOW,
        SUBJECT,
        delegate=str(BROKER),
        to_clouds=["osaka", "nagoya"],
        life_seconds=life_seconds,
    )


def changed(parties: Federation, **changes: object) -> common_pb2.SignedDocument:
    """One whose fields say something else, signed as well."""
    made = common_pb2.ReservationMandate.FromString(signed(parties).payload)
    for name, value in changes.items():
        made.ClearField(name)
        if isinstance(value, list):
            getattr(made, name).extend(value)
        elif value is not None:
            setattr(made, name, value)
    return identity.sign(
        parties.party(ACME), made.SerializeToString(deterministic=True), mandate.PURPOSE
    )


def read(
    parties: Federation, document: common_pb2.SignedDocument, now: datetime = NOW
) -> tuple[common_pb2.ReservationMandate, SpiffeId]:
    """As a candidate's manager reads it."""
    return mandate.read(document, parties.party(ACME).trust, now, delegate=BROKER)


def refusal(
    parties: Federation, document: common_pb2.SignedDocument, now: datetime = NOW
) -> errors.Denied:
    """Why it is refused."""
    with pytest.raises(errors.Denied) as caught:
        read(parties, document, now)
    assert caught.value.reason == "MANDATE_INVALID"
    assert caught.value.hint
    return caught.value


def test_what_a_person_signed_is_read_with_its_signer(parties: Federation) -> None:
    made, who = read(parties, signed(parties))
    assert str(who) == ACME
    assert made.reservation_id == mandate.reservation_id(SUBJECT.migration_id)
    assert (made.vm_id, made.tenant, made.resources) == (SUBJECT.vm_id, "acme", NEEDED)
    assert mandate.expires_at(made) == NOW + timedelta(minutes=10)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"delegate": "spiffe://osaka.example/broker/main"}, "it is for spiffe://osaka.example"),
        ({"reservation_id": "1"}, "reservation_id"),
        ({"migration_id": ""}, "migration_id"),
        ({"vm_id": "web-1"}, "vm_id"),
        ({"from_cloud": ""}, "from_cloud"),
        ({"tenant": ""}, "tenant"),
        ({"tenant_domain": "not a domain"}, "domain"),
        ({"to_clouds": []}, "to_clouds: is empty"),
        ({"to_clouds": [f"c{n}" for n in range(mandate.CLOUDS_MAX + 1)]}, "to_clouds"),
        ({"expires_at": None}, "expires_at"),
    ],
)
def test_one_that_is_for_somebody_else_or_malformed_is_refused(
    parties: Federation, changes: dict[str, object], why: str
) -> None:
    assert why in refusal(parties, changed(parties, **changes)).message


def test_one_that_is_over_or_good_for_too_long_is_refused(parties: Federation) -> None:
    assert "it expired" in str(refusal(parties, signed(parties), NOW + timedelta(minutes=10)))
    long = signed(parties, life_seconds=mandate.LIFE_SECONDS_MAX + 1)
    assert "it is good until" in str(refusal(parties, long))


def test_a_delegation_is_no_mandate_and_a_server_signs_none(parties: Federation) -> None:
    payload = signed(parties).payload
    other = identity.sign(parties.party(ACME), payload, "delegation")
    assert refusal(parties, other)
    by_manager = signed(parties, "spiffe://tokyo.example/manager/main")
    assert "a tenant's user or an operator" in refusal(parties, by_manager).hint


def test_a_changed_payload_is_refused(parties: Federation) -> None:
    document = signed(parties)
    document.payload = document.payload.replace(b"osaka", b"kyoto")
    assert refusal(parties, document)


def test_a_tenant_speaks_for_itself_only(parties: Federation) -> None:
    made, _ = read(parties, signed(parties))
    mandates.require_speaks_for(made, SpiffeId.parse(ACME), None)
    for other in ("spiffe://tokyo.example/user/evil", "spiffe://osaka.example/user/acme"):
        with pytest.raises(errors.Denied) as caught:
            mandates.require_speaks_for(made, SpiffeId.parse(other), TOKYO_MANAGER)
        assert caught.value.reason == "MANDATE_INVALID"


def test_what_is_written_is_all_of_the_disks_unless_it_is_told(parties: Federation) -> None:
    made, _ = read(parties, signed(parties))
    for told, written in (({}, 2**32), ({"written_bytes": 0}, 0), ({"written_bytes": 5}, 5)):
        request = manager_pb2.HoldForMigrationRequest(resources=NEEDED, **told)
        asked = mandates.reserve_request(made, request)
        assert inventory.of_machine(asked.resources, asked.disks).get(STORAGE, 0) == written


def test_an_operator_speaks_for_machines_in_its_own_providers_clouds(parties: Federation) -> None:
    made, signer = read(parties, signed(parties, OPERATOR))
    mandates.require_speaks_for(made, signer, TOKYO_MANAGER)
    for known in (OSAKA_MANAGER, None):
        with pytest.raises(errors.Denied, match="does not run cloud tokyo"):
            mandates.require_speaks_for(made, signer, known)


def test_it_is_good_at_the_clouds_that_it_names_and_for_no_more_than_it_says(
    parties: Federation,
) -> None:
    made, _ = read(parties, signed(parties))
    mandates.require_here(made, "osaka")
    with pytest.raises(errors.Denied, match="osaka, nagoya hold room, not kyoto"):
        mandates.require_here(made, "kyoto")
    with pytest.raises(errors.Denied, match="in cloud tokyo already"):
        mandates.require_here(read(parties, changed(parties, to_clouds=["tokyo"]))[0], "tokyo")
    mandates.require_no_more(made, NEEDED)
    for more in ({"vcpus": 3}, {"disk_bytes": 2**33}, {"other": {"gpu": 1}}):
        asked = common_pb2.Resources(**{"vcpus": 2} | more)  # type: ignore[arg-type]
        with pytest.raises(errors.Denied, match="be held, not"):
            mandates.require_no_more(made, asked)
