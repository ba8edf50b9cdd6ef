"""Two sides agree on a secret by the strongest means that both speak, and on nothing else."""

from collections.abc import Iterator

import pytest

from agent.transfer import agreement
from watari import errors
from watari.v1 import agent_pb2

CLASSICAL = agent_pb2.KEY_AGREEMENT_X25519
HYBRID = agent_pb2.KEY_AGREEMENT_X25519_MLKEM768
Share = agent_pb2.KeyShare

SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
"""Points whose multiples an eavesdropper can list, and other spellings of them."""


@pytest.fixture
def classical_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library without ML-KEM."""
    monkeypatch.setattr(agreement, "_has_ml_kem", lambda: False)
    agreement.spoken.cache_clear()
    yield
    agreement.spoken.cache_clear()


def refused(share: Share | list[Share]) -> str:
    offered = share if isinstance(share, list) else [share]
    with pytest.raises(errors.InvalidArgument) as caught:
        agreement.respond(agreement.choose(offered))
    assert caught.value.metadata["field"] == "key_shares"
    return caught.value.message


def test_the_hybrid_is_offered_first_and_taken() -> None:
    offer = agreement.Offer()
    shares = offer.shares()
    assert [(each.agreement, len(each.public_key)) for each in shares] == [
        (HYBRID, 1216),
        (CLASSICAL, 32),
    ]
    answer, secret = agreement.respond(agreement.choose(shares))
    assert (answer.agreement, len(answer.public_key)) == (HYBRID, 1120)
    assert offer.secret(answer) == secret
    assert len(secret) == 64


def test_without_the_hybrid_both_take_x25519() -> None:
    offer = agreement.Offer()
    answer, secret = agreement.respond(agreement.choose(offer.shares()[1:]))
    assert (answer.agreement, len(answer.public_key)) == (CLASSICAL, 32)
    assert offer.secret(answer) == secret
    assert len(secret) == 32


def test_a_library_without_ml_kem_offers_and_takes_x25519(classical_only: None) -> None:
    assert [each.agreement for each in agreement.Offer().shares()] == [CLASSICAL]
    offered = [Share(agreement=HYBRID, public_key=bytes(1216)), *agreement.Offer().shares()]
    assert agreement.choose(offered).agreement == CLASSICAL
    assert "X25519" in refused(offered[:1])


def test_the_receiver_goes_by_its_own_order_and_not_by_the_offers() -> None:
    shares = agreement.Offer().shares()
    assert agreement.choose(shares[::-1]).agreement == HYBRID


def test_agreements_that_nobody_knows_yet_are_passed_over() -> None:
    later = Share(public_key=b"of another length")
    later.agreement = 9  # type: ignore[assignment]
    shares = [later, *agreement.Offer().shares()]
    assert agreement.choose(shares).agreement == HYBRID
    refused([later])


def test_no_share_is_refused_and_neither_is_one_taken_twice() -> None:
    shares = agreement.Offer().shares()
    refused([])
    assert "twice" in refused([*shares, shares[1]])


@pytest.mark.parametrize("length", [0, 31, 33, 1215, 1217, 1216 + 32])
@pytest.mark.parametrize("kind", [CLASSICAL, HYBRID])
def test_a_share_of_another_length_is_refused_beside_a_good_one_too(kind: int, length: int) -> None:
    bad = Share(public_key=b"\x09" * length)
    bad.agreement = kind  # type: ignore[assignment]
    good = [each for each in agreement.Offer().shares() if each.agreement != kind]
    assert "bytes" in refused([*good, bad])


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_point_of_small_order_is_refused_by_both_sides(point: bytes) -> None:
    assert "small order" in refused(Share(agreement=CLASSICAL, public_key=point))
    hybrid, classical = agreement.Offer().shares()
    hybrid.public_key = hybrid.public_key[:1184] + point
    assert "small order" in refused([hybrid, classical])
    offer = agreement.Offer()
    with pytest.raises(errors.InvalidArgument):
        offer.secret(Share(agreement=CLASSICAL, public_key=point))
    with pytest.raises(errors.InvalidArgument):
        offer.secret(Share(agreement=HYBRID, public_key=b"c" * 1088 + point))


def test_an_encapsulation_key_that_is_none_is_refused() -> None:
    """Its coefficients are not below the modulus (FIPS 203, 7.2)."""
    hybrid = agreement.Offer().shares()[0]
    hybrid.public_key = b"\xff" * 1184 + hybrid.public_key[1184:]
    assert "encapsulation key" in refused(hybrid)


@pytest.mark.parametrize("at", [0, 1087, 1088, 1119])
def test_a_hybrid_answer_with_any_part_altered_gives_another_secret(at: int) -> None:
    offer = agreement.Offer()
    answer, secret = agreement.respond(agreement.choose(offer.shares()))
    altered = bytearray(answer.public_key)
    altered[at] ^= 1
    answer.public_key = bytes(altered)
    assert offer.secret(answer) != secret


@pytest.mark.parametrize(
    "answer",
    [
        Share(agreement=CLASSICAL, public_key=b"k" * 31),
        Share(agreement=HYBRID, public_key=b"k" * 1216),
        Share(agreement=HYBRID, public_key=b"k" * 32),
        Share(public_key=b"k" * 32),
    ],
)
def test_the_sender_takes_no_answer_that_is_none(answer: Share) -> None:
    with pytest.raises(errors.InvalidArgument):
        agreement.Offer().secret(answer)


def test_the_sender_takes_no_choice_that_it_did_not_offer(classical_only: None) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        agreement.Offer().secret(Share(agreement=HYBRID, public_key=b"k" * 1120))
    assert "not offered" in caught.value.message


def test_shares_are_fresh_for_every_session() -> None:
    first, second = agreement.Offer().shares(), agreement.Offer().shares()
    assert {each.public_key for each in first} & {each.public_key for each in second} == set()
    answers = [agreement.respond(first[0])[0].public_key for _ in range(2)]
    assert answers[0][:1088] != answers[1][:1088]
    assert answers[0][1088:] != answers[1][1088:]
