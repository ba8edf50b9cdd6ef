"""What providers tell of themselves: who may say what, and what it cannot do to others."""

import contextlib
import threading
import time

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from manager.federation import visiting
from tests.support.providers import (
    KYOTO,
    OSAKA,
    TOKYO,
    Provider,
    entries,
    join,
    reason_of,
    reserve,
)
from watari import bundles, errors, identity
from watari.clock import SystemClock
from watari.identity import create_ca, denials, invitation, leaves
from watari.identity.invitation import Invitation
from watari.rpc import client
from watari.v1 import (
    federation_pb2,
    federation_pb2_grpc,
)


def test_an_accepted_provider_speaks_for_itself_only(three):
    tokyo, osaka, kyoto = three
    join(tokyo, osaka)
    join(tokyo, kyoto)
    channel = kyoto.channel(kyoto.party("manager"), tokyo.target)
    stub = federation_pb2_grpc.FederationServiceStub(channel)
    stolen = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=99))
    assert reason_of(lambda: client.call(stub.PutBundle, stolen)) == "INVALID_FIELD"
    forged = federation_pb2.PutBundleRequest(bundle=signed_bundle(kyoto, sequence=99))
    last = forged.bundle.signature[-1] ^ 1
    forged.bundle.signature = forged.bundle.signature[:-1] + bytes([last])
    assert reason_of(lambda: client.call(stub.PutBundle, forged)) == "SIGNATURE_INVALID"


def put(caller: Provider, at: Provider, bundle) -> int:
    """Brings a bundle as its provider's manager."""
    stub = federation_pb2_grpc.FederationServiceStub(
        caller.channel(caller.party("manager"), at.target)
    )
    request = federation_pb2.PutBundleRequest(bundle=signed(caller, bundle))
    return client.call(stub.PutBundle, request).sequence


def test_no_second_authority_comes_in_behind_the_one_that_people_compare(two):
    """Whoever intercepted the line adds an authority of his own to the right provider's bundle."""
    tokyo, osaka = two
    evil = Provider(OSAKA, osaka.folder / "evil")
    line = Invitation.parse(tokyo.invite())
    hidden = said_by(osaka, sequence=5)
    hidden.authorities.append(leaves.der(evil.authority.cert_pem))
    visiting.exchange(line, signed(osaka, hidden), tokyo.clock, 3.0)
    shown = tokyo.provider(OSAKA)
    right = osaka.authority.fingerprint
    assert shown.ca_sha256 not in (right, evil.authority.fingerprint)
    assert shown.code != invitation.code(tokyo.authority.fingerprint, right)
    # The right one comes too late with this line, and says so.
    assert reason_of(lambda: osaka.accept(str(line))) == "INVITATION_INVALID"


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle, other: bundle.authorities.append(named_like(other)),
        lambda bundle, _other: bundle.authorities.append(bundle.authorities[0] + b"\n"),
        lambda bundle, _other: bundle.authorities.append(
            create_ca(OSAKA, SystemClock()).cert_pem  # PEM, not DER
        ),
        lambda bundle, _other: bundle.denied.add(
            spiffe_id=f"spiffe://{OSAKA}/agent/a", reason="x" * 257
        ),
        lambda bundle, _other: bundle.denied.add(
            spiffe_id=f"spiffe://{OSAKA}/agent/a"
        ).issued_until.__setattr__("seconds", 2**60),
    ],
)
def test_a_bundle_that_would_stand_in_somebodys_way_is_refused(two, change):
    """Not by an accepted provider either: it could lock others out, or keep the manager down."""
    tokyo, osaka = two
    join(tokyo, osaka)
    bundle = said_by(osaka, sequence=9)
    change(bundle, tokyo.authority)
    assert reason_of(lambda: put(osaka, tokyo, bundle)) == "INVALID_FIELD"
    tokyo.stop()
    tokyo.start()
    assert reserve(osaka, tokyo) == "INVALID_ID"


def named_like(authority) -> bytes:
    """A CA of another key with an authority's name, DER."""
    title = x509.load_pem_x509_certificate(authority.cert_pem).subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    return leaves.der(create_ca(authority.domain, SystemClock(), title=title[0].value).cert_pem)


def test_as_many_denials_as_may_be_are_taken_and_outlive_a_restart(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    bundle = said_by(osaka, sequence=9)
    for number in range(denials.DENIALS_MAX):
        name = f"spiffe://{OSAKA}/agent/{'a' * 50}-{number}"
        bundle.denied.add(spiffe_id=name, reason="\u00e4" * 128).issued_until.GetCurrentTime()
    assert put(osaka, tokyo, bundle) == 9
    tokyo.stop()
    tokyo.start()
    assert reserve(osaka, tokyo) == "INVALID_ID"


def test_a_provider_takes_no_cloud_that_nobody_has_confirmed(three):
    tokyo, osaka, kyoto = three
    for guest in (osaka, kyoto):
        join(tokyo, guest)
    bundle = said_by(kyoto, sequence=9)
    bundle.cloud_ids.extend(["osaka", "tokyo", "nara"])
    assert put(kyoto, tokyo, bundle) == 9
    assert list(tokyo.provider(KYOTO).bundle.cloud_ids) == ["kyoto"]


def test_a_provider_that_is_removed_while_it_brings_bundles_stays_out(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stop = threading.Event()

    def bring() -> None:
        for sequence in range(10, 10_000):
            if stop.is_set():
                return
            with contextlib.suppress(errors.WatariError):
                put(osaka, tokyo, said_by(osaka, sequence=sequence, name=str(sequence)))

    bringing = [threading.Thread(target=bring) for _ in range(3)]
    for thread in bringing:
        thread.start()
    time.sleep(0.3)
    tokyo.remove(OSAKA)
    stop.set()
    for thread in bringing:
        thread.join(60)
    assert tokyo.trust.domains() == [TOKYO]
    assert tokyo.provider(OSAKA).state == federation_pb2.PROVIDER_STATE_REMOVED


def test_the_same_bundle_under_another_number_leaves_nothing_behind(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    put(osaka, tokyo, said_by(osaka, sequence=9, name="other"))
    before = len(entries(tokyo))
    for sequence in range(10, 20):
        assert put(osaka, tokyo, said_by(osaka, sequence=sequence, name="other")) == sequence
    assert len(entries(tokyo)) == before


def test_an_older_bundle_takes_no_newer_ones_place(two):
    tokyo, osaka = two
    join(tokyo, osaka)
    stub = federation_pb2_grpc.FederationServiceStub(
        osaka.channel(osaka.party("manager"), tokyo.target)
    )
    newest = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=9, name="new"))
    assert client.call(stub.PutBundle, newest).sequence == 9
    older = federation_pb2.PutBundleRequest(bundle=signed_bundle(osaka, sequence=8, name="old"))
    assert client.call(stub.PutBundle, older).sequence == 9
    assert tokyo.provider(OSAKA).bundle.display_name == "new"


def said_by(provider: Provider, sequence: int, name: str = "x") -> federation_pb2.Bundle:
    """What a provider would say of itself."""
    bundle = bundles.bundle_of(provider.domain, provider.authority.cert_pem, {})
    bundle.sequence, bundle.display_name = sequence, name
    bundle.manager.address = provider.settings.address
    bundle.manager.spiffe_id = str(provider.manager)
    bundle.cloud_ids.append(provider.settings.cloud_id)
    return bundle


def signed(provider: Provider, bundle: federation_pb2.Bundle):
    """A bundle, signed by a provider's manager."""
    payload = bundle.SerializeToString(deterministic=True)
    return identity.sign(provider.party("manager"), payload, "bundle")


def signed_bundle(provider: Provider, sequence: int, name: str = "x"):
    return signed(provider, said_by(provider, sequence, name))
