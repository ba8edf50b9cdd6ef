"""manager.grants: a grant for an estimate is never taken for a migration's, nor the other way."""

import uuid

import pytest

from manager import grants
from manager.settings.reservations import ReservationSettings
from tests.conftest import OSAKA, TOKYO, Federation
from tests.support.reservations import request
from watari import errors
from watari.v1 import common_pb2, manager_pb2

LIMITS = ReservationSettings()


@pytest.fixture
def sides(federation: Federation):
    """Both managers, and the clock of their certificates."""
    source = federation.party(f"spiffe://{TOKYO}/manager/main")
    return source, federation.party(f"spiffe://{OSAKA}/manager/main"), federation.clock


def issued(sides, asked: manager_pb2.ReserveRequest, *, estimate_only: bool):
    """What the destination signs."""
    source, destination, clock = sides
    return grants.issue(
        destination,
        clock,
        LIMITS,
        asked,
        source_manager=str(source.spiffe_id),
        destination_agent=f"spiffe://{OSAKA}/agent/h1",
        estimate_only=estimate_only,
    )


def accepted(sides, asked, document, *, estimate_only: bool) -> common_pb2.SignedGrant:
    """What the source makes of it."""
    source, destination, clock = sides
    return grants.accept(
        source,
        clock,
        asked,
        document,
        destination_manager=destination.spiffe_id,
        estimate_only=estimate_only,
    )


def asked_for(*, estimate_only: bool) -> manager_pb2.ReserveRequest:
    """What the source asks for."""
    return request(**({"reservation_id": "", "ttl_seconds": 0} if estimate_only else {}))


@pytest.mark.parametrize("estimate_only", [False, True])
def test_what_was_asked_for_is_countersigned(sides, estimate_only: bool) -> None:
    asked = asked_for(estimate_only=estimate_only)
    document = issued(sides, asked, estimate_only=estimate_only)
    signed = accepted(sides, asked, document, estimate_only=estimate_only)
    grant = grants.read(signed.granted)
    assert grant.estimate_only is estimate_only
    assert grant.reservation_id == asked.reservation_id
    assert uuid.UUID(grant.grant_id)


@pytest.mark.parametrize("estimate_only", [False, True])
def test_the_other_kind_is_refused(sides, estimate_only: bool) -> None:
    # With a reservation's id in both, so that only the flag tells them apart.
    asked = asked_for(estimate_only=False)
    document = issued(sides, asked, estimate_only=not estimate_only)
    with pytest.raises(errors.InvalidArgument, match="estimate_only") as caught:
        accepted(sides, asked, document, estimate_only=estimate_only)
    assert caught.value.reason == "GRANT_INVALID"


def test_an_estimates_grant_is_over_much_sooner(sides) -> None:
    *_, clock = sides
    ends = {}
    for estimate_only in (False, True):
        asked = asked_for(estimate_only=estimate_only)
        document = issued(sides, asked, estimate_only=estimate_only)
        ends[estimate_only] = grants.read(document).expires_at.seconds - clock.now().timestamp()
    assert ends[True] == pytest.approx(LIMITS.estimate_ttl_seconds, abs=2)
    assert ends[False] == pytest.approx(LIMITS.grant_ttl_seconds, abs=2)
