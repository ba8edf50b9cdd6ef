"""A certificate is renewed in time, and the trust folder follows the manager."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from watari import bundles, errors, identity, keeper
from watari.clock import FakeClock
from watari.identity import Denial, Identity, SpiffeId, TrustStore
from watari.v1 import federation_pb2

TOKYO, OSAKA = "tokyo.example", "osaka.example"
PARTY = SpiffeId(TOKYO, "agent", "host-1")
LIFE = 3 * 24 * 3600.0


class Issuer:
    """A manager whose answers a test chooses."""

    def __init__(self, authority: identity.Authority) -> None:
        self.authority = authority
        self.silent = False
        self.renewals = self.questions = 0
        self.bundles = [bundles.bundle_of(TOKYO, authority.cert_pem, {})]

    def renew(self, request: bytes) -> bytes:
        self.renewals += 1
        self._answer()
        return self.authority.issue_for(PARTY, request, LIFE)

    def trust(self, version: bytes) -> federation_pb2.GetTrustResponse:
        self.questions += 1
        self._answer()
        now = str([each.SerializeToString() for each in self.bundles]).encode()[-32:]
        if version == now:
            return federation_pb2.GetTrustResponse(version=version)
        return federation_pb2.GetTrustResponse(version=now, bundles=self.bundles)

    def _answer(self) -> None:
        if self.silent:
            raise errors.Unavailable("PEER_UNAVAILABLE", "away")


class World:
    """A party, its manager, and time."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(datetime(2030, 1, 1, tzinfo=UTC))
        authority = identity.create_ca(TOKYO, self.clock)
        identity.save_certificate(folder / "trust" / f"{TOKYO}.pem", authority.cert_pem)
        self.trust = TrustStore(folder / "trust")
        self.own = Identity(PARTY, *authority.issue(PARTY, LIFE), self.trust)
        self.issuer = Issuer(authority)
        self.keeper = keeper.Keeper(self.own, self.issuer, self.clock)

    @property
    def serial(self) -> int:
        return self.own.current().certificate.serial_number


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nothing_is_renewed_before_a_third_of_the_life_and_everything_after(world):
    before = world.serial
    world.clock.advance(LIFE / 3 - 60)
    world.keeper.check()
    assert world.serial == before
    world.clock.advance(120)
    world.keeper.check()
    assert world.serial != before
    world.keeper.check()
    assert world.issuer.renewals == 1


def test_a_manager_that_is_away_is_asked_again_after_a_pause_until_it_is_back(world):
    before = world.serial
    world.issuer.silent = True
    world.clock.advance(LIFE / 2)
    for _ in range(10):
        world.keeper.check()
        world.clock.advance(keeper.CHECK_SECONDS)
    assert world.issuer.renewals == 1
    assert world.serial == before
    world.issuer.silent = False
    world.clock.advance(keeper.RETRY_SECONDS)
    world.keeper.check()
    assert world.serial != before


def test_a_certificate_of_somebody_else_is_not_taken(world):
    before = world.own.cert_pem
    other = SpiffeId(TOKYO, "agent", "host-2")
    world.issuer.renew = lambda request: world.issuer.authority.issue_for(other, request)
    with pytest.raises(errors.FailedPrecondition):
        world.keeper.renew()
    assert world.own.cert_pem == before


def test_an_answer_that_is_no_certificate_is_not_taken(world):
    before = world.own.cert_pem
    world.issuer.renew = lambda _: b"no certificate"
    world.clock.advance(LIFE / 2)
    world.keeper.check()
    assert world.own.cert_pem == before


def test_who_joins_is_trusted_who_leaves_is_not_and_the_own_provider_always_is(world):
    osaka = identity.create_ca(OSAKA, world.clock)
    world.issuer.bundles.append(bundles.bundle_of(OSAKA, osaka.cert_pem, {}))
    world.keeper.check()
    assert world.trust.domains() == [OSAKA, TOKYO]
    world.issuer.bundles[:] = []
    world.keeper.check()
    assert world.trust.domains() == [TOKYO]


def test_denials_come_with_their_providers(world):
    osaka = identity.create_ca(OSAKA, world.clock)
    lost = SpiffeId(OSAKA, "agent", "lost")
    denied = {lost: Denial(lost, world.clock.now(), "stolen")}
    world.issuer.bundles.append(bundles.bundle_of(OSAKA, osaka.cert_pem, denied))
    world.keeper.check()
    assert world.trust.refuses(lost, world.clock.now())
    with pytest.raises(errors.Unauthenticated, match="CERTIFICATE_DENIED"):
        world.trust.verify_peer(osaka.issue(lost)[0], world.clock.now())
    world.issuer.bundles[-1] = bundles.bundle_of(OSAKA, osaka.cert_pem, {})
    world.keeper.check()
    assert not world.trust.refuses(lost, world.clock.now())


def test_who_is_not_known_is_asked_for_at_once_and_not_at_every_call(world):
    world.trust.ask = world.keeper.ask
    osaka = identity.create_ca(OSAKA, world.clock)
    party = SpiffeId(OSAKA, "manager", "main")
    certificate, _ = osaka.issue(party)
    world.issuer.bundles.append(bundles.bundle_of(OSAKA, osaka.cert_pem, {}))
    assert world.trust.verify_peer(certificate, world.clock.now()) == party
    asked = world.issuer.questions
    for _ in range(20):
        with pytest.raises(errors.Unauthenticated, match="PROVIDER_UNKNOWN"):
            world.trust.roots_for("nobody.example")
    assert world.issuer.questions <= asked + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.ClearField("authorities"),
        lambda bundle: bundle.authorities.extend(list(bundle.authorities) * 5),
        lambda bundle: bundle.authorities.__setitem__(0, b"no certificate"),
        lambda bundle: bundle.authorities.__setitem__(0, bundle.authorities[0] + b"x" * 9000),
        lambda bundle: setattr(bundle, "domain", "../etc"),
        lambda bundle: bundle.denied.add(spiffe_id="nobody"),
    ],
)
def test_a_bundle_that_cannot_be_trusted_is_refused(world, change):
    bundle = bundles.bundle_of(OSAKA, identity.create_ca(OSAKA, world.clock).cert_pem, {})
    bundles.check(bundle)
    change(bundle)
    with pytest.raises(errors.InvalidArgument, match="INVALID_FIELD"):
        bundles.check(bundle)


def test_a_partys_certificate_is_no_authority_in_a_bundle(world):
    authority = identity.create_ca(OSAKA, world.clock)
    leaf, _ = authority.issue(SpiffeId(OSAKA, "agent", "a"))
    bundle = bundles.bundle_of(OSAKA, leaf, {})
    with pytest.raises(errors.InvalidArgument, match="authority"):
        bundles.check(bundle)
