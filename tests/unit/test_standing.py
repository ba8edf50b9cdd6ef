"""Standing delegations as documents: what they say, and each way in which one can be wrong."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import TOKYO, Federation
from watari import delegation, errors, identity, standing
from watari.clock import FakeClock
from watari.identity import Denial, SpiffeId, denials
from watari.standing import Scope, Standing
from watari.v1 import common_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BROKER = SpiffeId.parse("spiffe://hub.example/broker/main")
ACME = f"spiffe://{TOKYO}/user/acme"
SCOPE = Scope(TOKYO, "acme", ["tokyo"], ["osaka"], 2, 24 * 3600)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Providers whose certificates are valid at NOW, and an hour on."""
    return Federation(tmp_path_factory.mktemp("federation"), FakeClock(NOW))


def signed(
    parties: Federation, signer: str = ACME, scope: Scope = SCOPE, delegate: str = str(BROKER)
) -> common_pb2.SignedDocument:
    return standing.sign(parties.party(signer), NOW, scope, delegate=delegate)


def read(
    parties: Federation,
    document: common_pb2.SignedDocument,
    now: datetime = NOW,
    seen_at: datetime | None = None,
) -> Standing:
    """As the broker, or a manager that it is shown to, reads it."""
    trust = parties.party(ACME).trust
    return standing.read(document, trust, now, delegate=BROKER, seen_at=seen_at)


def refusal(parties: Federation, document: common_pb2.SignedDocument, **how: object) -> str:
    with pytest.raises(errors.Denied) as caught:
        read(parties, document, **how)  # type: ignore[arg-type]
    assert caught.value.reason == "DELEGATION_INVALID"
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("signer", [ACME, f"spiffe://{TOKYO}/operator/main"])
def test_what_was_signed_is_read_with_its_signer(parties: Federation, signer: str) -> None:
    vm_ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    found = read(parties, signed(parties, signer, replace(SCOPE, vm_ids=vm_ids)))
    said = found.message
    assert str(found.signer) == signer
    assert (said.tenant_domain, said.tenant, list(said.vm_ids)) == (TOKYO, "acme", vm_ids)
    assert (list(said.from_clouds), list(said.to_clouds)) == (["tokyo"], ["osaka"])
    assert found.expires_at == NOW + timedelta(days=30)
    assert uuid.UUID(said.delegation_id)


def test_the_largest_one_fits(parties: Federation) -> None:
    clouds = [f"{number:03}" + "c" * 60 for number in range(standing.CLOUDS_MAX)]
    vm_ids = [str(uuid.uuid4()) for _ in range(standing.MACHINES_MAX)]
    scope = Scope(TOKYO, "acme", clouds, clouds, 100, standing.WINDOW_SECONDS_MAX, vm_ids)
    document = signed(parties, scope=scope)
    assert document.ByteSize() < standing.DOCUMENT_BYTES_MAX
    assert len(read(parties, document).message.vm_ids) == standing.MACHINES_MAX


@pytest.mark.parametrize(
    "signer",
    [
        f"spiffe://{TOKYO}/user/globex",
        "spiffe://osaka.example/user/acme",
        "spiffe://osaka.example/operator/main",
        f"spiffe://{TOKYO}/manager/main",
        f"spiffe://{TOKYO}/broker/main",
        f"spiffe://{TOKYO}/agent/acme",
    ],
)
def test_nobody_else_signs_for_a_tenant(parties: Federation, signer: str) -> None:
    assert f"{signer} signed it" in refusal(parties, signed(parties, signer))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a\nb"}, "tenant"),
        ({"tenant_domain": ""}, "tenant_domain"),
        ({"vm_ids": ["web-1"]}, "vm_ids"),
        ({"vm_ids": [str(uuid.uuid4())] * (standing.MACHINES_MAX + 1)}, "vm_ids"),
        ({"from_clouds": []}, "from_clouds"),
        ({"to_clouds": []}, "to_clouds"),
        ({"to_clouds": ["Not a cloud"]}, "to_clouds"),
        ({"from_clouds": [f"c{n}" for n in range(standing.CLOUDS_MAX + 1)]}, "from_clouds"),
        ({"moves_max": 0}, "moves_max"),
        ({"moves_max": standing.MOVES_MAX + 1}, "moves_max"),
        ({"window_seconds": standing.WINDOW_SECONDS_MIN - 1}, "window_seconds"),
        ({"window_seconds": standing.WINDOW_SECONDS_MAX + 1}, "window_seconds"),
    ],
)
def test_malformed_fields_are_named(
    parties: Federation, changes: dict[str, object], field: str
) -> None:
    scope = replace(SCOPE, **changes)  # type: ignore[arg-type]
    assert field in refusal(parties, signed(parties, scope=scope))


def test_one_without_an_end_or_with_an_impossible_one_is_refused(parties: Federation) -> None:
    made = common_pb2.StandingDelegation.FromString(signed(parties).payload)
    for end in (None, 2**62):
        made.ClearField("expires_at")
        if end:
            made.expires_at.seconds = end
        payload = made.SerializeToString()
        document = identity.sign(parties.party(ACME), payload, standing.PURPOSE)
        assert "expires_at" in refusal(parties, document)


def test_documents_for_other_purposes_brokers_and_of_others_are_none(parties: Federation) -> None:
    party = parties.party(ACME)
    payload = signed(parties).payload
    other = identity.sign(party, payload, delegation.PURPOSE)
    assert not standing.is_one(other)
    assert "not a 'standing-delegation'" in refusal(parties, other)
    assert "no StandingDelegation" in refusal(
        parties, identity.sign(party, b"\xff\xff", standing.PURPOSE)
    )
    elsewhere = "spiffe://osaka.example/broker/main"
    assert f"it is for {elsewhere}" in refusal(parties, signed(parties, delegate=elsewhere))
    altered = signed(parties)
    altered.payload = signed(parties, scope=replace(SCOPE, moves_max=100)).payload
    assert "signature" in refusal(parties, altered)
    assert "stranger.example" in refusal(
        parties, signed(parties, "spiffe://stranger.example/user/a")
    )
    large = identity.sign(party, bytes(standing.DOCUMENT_BYTES_MAX), standing.PURPOSE)
    assert "larger than" in refusal(parties, large)


def test_it_lasts_from_now_to_its_end_and_not_for_ever(parties: Federation) -> None:
    said = read(parties, signed(parties)).message
    standing.require_alive(said, NOW)
    standing.require_alive(said, NOW + timedelta(days=30, seconds=-1))
    for now, why in (
        (NOW + timedelta(days=30), "expired"),
        (NOW - timedelta(days=6), "good until"),
    ):
        with pytest.raises(errors.Denied, match=why):
            standing.require_alive(said, now)


def test_a_certificate_that_has_run_out_counts_if_it_was_seen_in_time(parties: Federation) -> None:
    document, later = signed(parties), NOW + timedelta(days=20)
    assert "valid" in refusal(parties, document, now=later)
    assert read(parties, document, later, seen_at=NOW).message.tenant == "acme"
    assert "valid" in refusal(parties, document, now=later, seen_at=later)


def test_a_denied_tenant_has_none_though_it_was_seen_in_time(own_federation: Federation) -> None:
    party = SpiffeId.parse(ACME)
    now = own_federation.clock.now()
    own = own_federation.party(ACME)
    document = standing.sign(own, now, SCOPE, delegate=str(BROKER))

    def shown() -> Standing:
        return standing.read(
            document, own.trust, now + timedelta(days=1), delegate=BROKER, seen_at=now
        )

    assert shown().signer == party
    denials.save(own.trust.folder, TOKYO, [Denial(party, own_federation.clock.now(), "lost")])
    with pytest.raises(errors.Denied) as caught:
        shown()
    assert caught.value.reason == "DELEGATION_INVALID"


def test_each_document_is_another_to_remember(parties: Federation) -> None:
    one, other = signed(parties), signed(parties)
    assert standing.digest(one) == standing.digest(one)
    assert standing.digest(one) != standing.digest(other)
    other.CopyFrom(one)
    other.signature = one.signature[:-1] + bytes([one.signature[-1] ^ 1])
    assert standing.digest(one) != standing.digest(other)
