"""What delegations, standing delegations and mandates have in common: how one is proved."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Federation
from watari import errors, identity, permit
from watari.clock import FakeClock
from watari.identity import SpiffeId
from watari.v1 import common_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BROKER = SpiffeId.parse("spiffe://hub.example/broker/main")
ACME = "spiffe://tokyo.example/user/acme"
MANAGER = "spiffe://tokyo.example/manager/main"
PURPOSE = "permit"
MADE = common_pb2.Delegation(migration_id=str(uuid.uuid4()), delegate=str(BROKER))


def invalid(problem: str, hint: str) -> errors.Denied:
    """As a kind makes its errors."""
    return errors.Denied("DELEGATION_INVALID", f"the permit: {problem}", hint=hint)


def require_well_formed(said: common_pb2.Delegation) -> None:
    """Has an id."""
    if not said.migration_id:
        raise errors.InvalidArgument("INVALID_FIELD", "migration_id is empty", hint="set it")


def require_signer(said: common_pb2.Delegation, signer: SpiffeId) -> None:
    """Only a user, and only of what is well-formed."""
    assert said.migration_id, "its fields are looked at first"
    if str(signer) != ACME:
        raise invalid(f"{signer} signed it", "a user signs")


KIND = permit.Kind(
    message=common_pb2.Delegation,
    purpose=PURPOSE,
    renewal="sign anew",
    require_well_formed=require_well_formed,
    require_signer=require_signer,
    invalid=invalid,
)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Providers whose certificates are valid at NOW."""
    return Federation(tmp_path_factory.mktemp("federation"), FakeClock(NOW))


def signed(
    parties: Federation,
    made: common_pb2.Delegation = MADE,
    *,
    signer: str = ACME,
    purpose: str = PURPOSE,
) -> common_pb2.SignedDocument:
    """A permit, by whoever."""
    return identity.sign(parties.party(signer), made.SerializeToString(), purpose)


def prove(
    parties: Federation,
    document: common_pb2.SignedDocument,
    *,
    now: datetime = NOW,
    seen_at: datetime | None = None,
) -> tuple[common_pb2.Delegation, SpiffeId]:
    """As the broker does."""
    trust = parties.party(ACME).trust
    return permit.prove(KIND, document, trust, now, delegate=BROKER, seen_at=seen_at)


def refusal(parties: Federation, document: common_pb2.SignedDocument) -> tuple[str, str]:
    """Why it is refused, and what to do."""
    with pytest.raises(errors.Denied) as caught:
        prove(parties, document)
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.message.startswith("the permit: ")
    return caught.value.message.removeprefix("the permit: "), caught.value.hint


def test_what_is_permitted_is_told_with_its_signer(parties: Federation) -> None:
    assert prove(parties, signed(parties)) == (MADE, SpiffeId.parse(ACME))


def test_a_signature_that_proves_nothing_is_the_kinds_error(parties: Federation) -> None:
    altered = signed(parties)
    altered.payload += MADE.SerializeToString()
    problem, hint = refusal(parties, altered)
    assert "signature" in problem
    assert hint == KIND.renewal
    problem, hint = refusal(parties, signed(parties, purpose="receipt"))
    assert "is a 'receipt', not a 'permit'" in problem
    assert hint == KIND.renewal
    stranger = signed(parties, signer="spiffe://stranger.example/user/acme")
    assert "stranger.example" in refusal(parties, stranger)[0]


def test_a_payload_that_is_no_message_is_named(parties: Federation) -> None:
    noise = identity.sign(parties.party(ACME), b"\xff\xff", PURPOSE)
    assert refusal(parties, noise) == (
        "its payload is no Delegation",
        "send the contract's message",
    )


def test_a_malformed_field_is_the_kinds_error_with_the_fields_hint(parties: Federation) -> None:
    made = common_pb2.Delegation(delegate=str(BROKER))
    # Whoever signed it: the kind looks at the signer of what is well-formed only.
    for signer in (ACME, MANAGER):
        document = signed(parties, made, signer=signer)
        assert refusal(parties, document) == ("migration_id is empty", "set it")


def test_who_signed_it_comes_before_whom_it_is_for(parties: Federation) -> None:
    made = common_pb2.Delegation(migration_id=MADE.migration_id)
    document = signed(parties, made, signer=MANAGER)
    assert refusal(parties, document) == (f"{MANAGER} signed it", "a user signs")
    problem, hint = refusal(parties, signed(parties, made))
    assert problem == f"it is for nobody, not for {BROKER}"
    assert "the broker that is asked" in hint


def test_one_for_another_broker_is_refused(parties: Federation) -> None:
    other = "spiffe://osaka.example/broker/main"
    made = common_pb2.Delegation(migration_id=MADE.migration_id, delegate=other)
    assert refusal(parties, signed(parties, made))[0] == f"it is for {other}, not for {BROKER}"


def test_a_certificate_that_has_run_out_counts_as_of_when_it_was_seen(parties: Federation) -> None:
    document = signed(parties)
    later = NOW + timedelta(days=400)
    with pytest.raises(errors.Denied, match="valid from"):
        prove(parties, document, now=later)
    assert prove(parties, document, now=later, seen_at=NOW)[0] == MADE
    with pytest.raises(errors.Denied, match="valid from"):
        prove(parties, document, now=NOW, seen_at=later)
