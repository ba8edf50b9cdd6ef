"""Delegations as documents: what they say, and each way in which one can be wrong."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Federation
from watari import delegation, errors, identity
from watari.clock import FakeClock
from watari.identity import SpiffeId
from watari.v1 import common_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BROKER = SpiffeId.parse("spiffe://hub.example/broker/main")
ACME = "spiffe://tokyo.example/user/acme"
MIGRATION_ID, VM_ID = str(uuid.uuid4()), str(uuid.uuid4())
FIELDS = {
    "migration_id": MIGRATION_ID,
    "delegate": str(BROKER),
    "vm_id": VM_ID,
    "from_cloud": "tokyo",
}


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Providers whose certificates are valid at NOW."""
    return Federation(tmp_path_factory.mktemp("federation"), FakeClock(NOW))


def signed(parties: Federation, signer: str = ACME, **changes: object) -> common_pb2.SignedDocument:
    """A delegation, with any of its fields changed."""
    return delegation.sign(parties.party(signer), NOW, **FIELDS | changes)  # type: ignore[arg-type]


def read(
    parties: Federation, document: common_pb2.SignedDocument, now: datetime = NOW
) -> tuple[common_pb2.Delegation, SpiffeId]:
    """As the broker reads it."""
    return delegation.read(document, parties.party(ACME).trust, now, delegate=BROKER)


def refusal(parties: Federation, document: common_pb2.SignedDocument) -> errors.Denied:
    """Why it is refused."""
    with pytest.raises(errors.Denied) as caught:
        read(parties, document)
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("signer", [ACME, "spiffe://osaka.example/operator/main"])
def test_what_a_person_signed_is_read_with_its_signer(parties: Federation, signer: str) -> None:
    document = signed(parties, signer, to_clouds=["osaka", "sendai"])
    made, who = read(parties, document)
    assert str(who) == signer
    assert (made.migration_id, made.vm_id, made.from_cloud) == (MIGRATION_ID, VM_ID, "tokyo")
    assert list(made.to_clouds) == ["osaka", "sendai"]
    assert made.expires_at.ToDatetime(tzinfo=UTC) == NOW + timedelta(minutes=10)


@pytest.mark.parametrize("role", ["manager", "broker", "agent", "directory"])
def test_only_people_delegate(parties: Federation, role: str) -> None:
    document = signed(parties, f"spiffe://tokyo.example/{role}/x")
    assert "signed it" in refusal(parties, document).message


def test_one_for_another_broker_is_refused(parties: Federation) -> None:
    document = signed(parties, delegate="spiffe://osaka.example/broker/main")
    assert "it is for spiffe://osaka.example/broker/main" in refusal(parties, document).message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"migration_id": "1"}, "migration_id"),
        ({"vm_id": "web-1"}, "vm_id"),
        ({"from_cloud": ""}, "from_cloud"),
        ({"to_clouds": ["Not a cloud"]}, "to_clouds"),
        ({"to_clouds": [f"c{n}" for n in range(delegation.CLOUDS_MAX + 1)]}, "to_clouds"),
    ],
)
def test_malformed_fields_are_named(
    parties: Federation, changes: dict[str, object], field: str
) -> None:
    assert field in refusal(parties, signed(parties, **changes)).message


def test_one_without_an_end_is_refused(parties: Federation) -> None:
    endless = common_pb2.Delegation(**FIELDS)
    document = identity.sign(parties.party(ACME), endless.SerializeToString(), delegation.PURPOSE)
    assert "expires_at" in refusal(parties, document).message


def test_a_document_for_another_purpose_is_none(parties: Federation) -> None:
    payload = signed(parties).payload
    document = identity.sign(parties.party(ACME), payload, "receipt")
    assert "not a 'delegation'" in refusal(parties, document).message


def test_an_altered_payload_or_signature_is_refused(parties: Federation) -> None:
    altered = signed(parties)
    altered.payload = signed(parties, vm_id=str(uuid.uuid4())).payload
    assert "signature" in refusal(parties, altered).message
    assert "is a ''" in refusal(parties, common_pb2.SignedDocument()).message
    noise = identity.sign(parties.party(ACME), b"\xff\xff", delegation.PURPOSE)
    assert "no Delegation" in refusal(parties, noise).message


def test_a_signer_of_a_provider_that_is_not_accepted_is_refused(parties: Federation) -> None:
    document = signed(parties, "spiffe://stranger.example/user/acme")
    assert "stranger.example" in refusal(parties, document).message


def test_a_signer_whose_certificate_has_run_out_is_refused(parties: Federation) -> None:
    document = signed(parties)
    with pytest.raises(errors.Denied, match="valid from"):
        read(parties, document, NOW + timedelta(days=1))


def test_what_it_is_for_is_compared(parties: Federation) -> None:
    made, _ = read(parties, signed(parties))
    delegation.require_migration(made, MIGRATION_ID)
    delegation.require_from(made, "tokyo")
    with pytest.raises(errors.Denied, match="for migration"):
        delegation.require_migration(made, str(uuid.uuid4()))
    with pytest.raises(errors.Denied, match="of cloud tokyo, not of osaka"):
        delegation.require_from(made, "osaka")
