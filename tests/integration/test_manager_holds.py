"""Holds over the wire: who may hold, on whose word, and what a migration does with what is held."""

import uuid
from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from tests.conftest import HUB, OSAKA, TOKYO, Federation
from tests.support.clouds import VM, Cloud
from watari import delegation, errors, mandate, standing
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2

BROKER = f"spiffe://{HUB}/broker/main"
ACME = f"spiffe://{TOKYO}/user/acme"
GIB = 2**30
NEEDED = common_pb2.Resources(vcpus=2, memory_bytes=GIB, disk_bytes=4 * GIB)
SCOPE = standing.Scope(TOKYO, "acme", ["tokyo"], ["osaka"], 2, 24 * 3600)
OTHER_VM = "6f1f2d2e-0000-4000-8000-000000000002"
HELD = manager_pb2.RESERVATION_STATE_HELD


@pytest.fixture(autouse=True)
def _admit(clouds: tuple[Cloud, Cloud]) -> None:
    """Both clouds have admitted the broker."""
    for cloud in clouds:
        cloud.stop()
        cloud.change(brokers=(BROKER,))
        cloud.start()


def mandated(
    federation: Federation, migration_id: str, signer: str = ACME, vm_id: str = VM
) -> common_pb2.SignedDocument:
    """The tenant lets the broker hold room at osaka."""
    subject = mandate.Subject(migration_id, vm_id, "tokyo", TOKYO, "acme", NEEDED)
    return mandate.sign(
        federation.party(signer),
        federation.clock.now(),
        subject,
        delegate=BROKER,
        to_clouds=["osaka"],
    )


def hold(
    cloud: Cloud, document: common_pb2.SignedDocument, caller: str = BROKER, **changes: object
) -> manager_pb2.Reservation:
    """Have room held."""
    given = {"mandate": document, "resources": NEEDED, "written_bytes": GIB} | changes
    request = manager_pb2.HoldForMigrationRequest(**given)  # type: ignore[arg-type]
    return client.call(cloud.reservations(caller).HoldForMigration, request).reservation


def refused(cloud: Cloud, *arguments: object, **changes: object) -> str:
    """Why nothing is held."""
    with pytest.raises(errors.WatariError) as caught:
        hold(cloud, *arguments, **changes)  # type: ignore[arg-type]
    assert not cloud.list_reservations()
    return caught.value.reason


def migrate(tokyo: Cloud, migration_id: str, reservation_id: str = "") -> None:
    """As the broker asks tokyo's manager, with acme's delegation."""
    federation = tokyo.federation
    request = manager_pb2.MigrateVmRequest(
        migration_id=migration_id,
        vm=VM,
        to_cloud="osaka",
        reservation_id=reservation_id,
        delegation=delegation.sign(
            federation.party(ACME),
            federation.clock.now(),
            migration_id=migration_id,
            delegate=BROKER,
            vm_id=VM,
            from_cloud="tokyo",
        ),
    )
    client.call(tokyo.seen_by(BROKER).MigrateVm, request)


def test_a_migration_takes_over_what_the_broker_holds(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    migration_id = str(uuid.uuid4())
    held = hold(osaka, mandated(tokyo.federation, migration_id))
    assert (held.state, held.requested_by) == (HELD, BROKER)
    assert osaka.inventory().held.vcpus == 2
    migrate(tokyo, migration_id, held.reservation_id)
    assert tokyo.wait_ended(migration_id).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    (reservation,) = osaka.list_reservations()
    assert reservation.reservation_id == held.reservation_id
    assert reservation.state == manager_pb2.RESERVATION_STATE_USED
    assert reservation.requested_by == tokyo.manager_id
    assert osaka.inventory().held.vcpus == 0
    assert osaka.inventory().allocated.vcpus == 2
    actions = [entry.action for entry in osaka.audit() if entry.subject == held.reservation_id]
    assert actions[:2] == ["reservation.held", "reservation.adopted"]


def test_a_migration_goes_on_where_nothing_is_held_any_more(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    migration_id, reservation_id = str(uuid.uuid4()), str(uuid.uuid4())
    migrate(tokyo, migration_id, reservation_id)
    assert tokyo.wait_ended(migration_id).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    (reservation,) = osaka.list_reservations()
    assert reservation.reservation_id == reservation_id


def test_a_migration_that_fails_before_it_reserves_gives_the_hold_back(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds
    migration_id = str(uuid.uuid4())
    held = hold(osaka, mandated(tokyo.federation, migration_id))
    tokyo.agent.refuse("HoldGuest", errors.FailedPrecondition("VM_BUSY", "somebody else has it"))
    migrate(tokyo, migration_id, held.reservation_id)
    assert tokyo.wait_ended(migration_id).state == manager_pb2.MIGRATION_STATE_FAILED
    assert not osaka.list_reservations()
    assert osaka.inventory().held.vcpus == 0


def test_who_holds_gives_back(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    held = hold(osaka, mandated(tokyo.federation, str(uuid.uuid4())))
    request = manager_pb2.ReleaseReservationRequest(reservation_id=held.reservation_id)
    stranger = osaka.reservations(f"spiffe://{OSAKA}/broker/main")
    client.call(stranger.ReleaseReservation, request)
    assert len(osaka.list_reservations()) == 1
    client.call(osaka.reservations(BROKER).ReleaseReservation, request)
    assert not osaka.list_reservations()


def test_only_an_admitted_broker_with_the_tenants_word_holds_anything(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds
    federation, migration_id = tokyo.federation, str(uuid.uuid4())
    good = mandated(federation, migration_id)
    assert refused(osaka, good, f"spiffe://{OSAKA}/broker/main") == "NOT_ALLOWED"
    assert refused(osaka, good, ACME) == "NOT_ALLOWED"
    assert refused(osaka, good, tokyo.manager_id) == "NOT_ALLOWED"
    assert refused(osaka, common_pb2.SignedDocument()) == "MANDATE_INVALID"
    for signer in (f"spiffe://{TOKYO}/user/evil", f"spiffe://{OSAKA}/user/acme"):
        assert refused(osaka, mandated(federation, migration_id, signer)) == "MANDATE_INVALID"
    other = f"spiffe://{OSAKA}/operator/main"
    assert refused(osaka, mandated(federation, migration_id, other)) == "MANDATE_INVALID"
    more = common_pb2.Resources(vcpus=3, memory_bytes=GIB, disk_bytes=4 * GIB)
    assert refused(osaka, good, resources=more) == "MANDATE_INVALID"
    assert refused(osaka, good, written_bytes=5 * GIB) == "INVALID_FIELD"
    by_operator = mandated(federation, migration_id, f"spiffe://{TOKYO}/operator/main")
    assert hold(osaka, by_operator).state == HELD


def delegated(
    federation: Federation, scope: standing.Scope = SCOPE, signer: str = ACME, life: int = 3600
) -> common_pb2.SignedDocument:
    """The tenant lets the broker move its machines from tokyo to osaka."""
    now = federation.clock.now()
    return standing.sign(federation.party(signer), now, scope, delegate=BROKER, life_seconds=life)


def hold_under(
    cloud: Cloud, document: common_pb2.SignedDocument, migration_id: str = "", **changes: object
) -> manager_pb2.Reservation:
    """Have room held under a standing delegation."""
    given = {
        "delegation": document,
        "migration_id": migration_id or str(uuid.uuid4()),
        "vm_id": VM,
        "from_cloud": "tokyo",
        "resources": NEEDED,
        "written_bytes": GIB,
    } | changes
    request = manager_pb2.HoldForMigrationRequest(**given)  # type: ignore[arg-type]
    return client.call(cloud.reservations(BROKER).HoldForMigration, request).reservation


@pytest.mark.parametrize("signer", [ACME, f"spiffe://{TOKYO}/operator/main"])
def test_a_move_under_a_standing_delegation_takes_over_what_was_held_under_it(
    clouds: tuple[Cloud, Cloud], signer: str
) -> None:
    tokyo, osaka = clouds
    document, migration_id = delegated(tokyo.federation, signer=signer), str(uuid.uuid4())
    held = hold_under(osaka, document, migration_id)
    assert (held.state, held.requested_by) == (HELD, BROKER)
    assert held.reservation_id == mandate.reservation_id(migration_id)
    assert hold_under(osaka, document, migration_id) == held, "as often as it is asked for"
    most = tokyo.federation.clock.now() + timedelta(seconds=mandate.LIFE_SECONDS_DEFAULT)
    assert held.expires_at.ToDatetime(tzinfo=UTC) <= most
    request = manager_pb2.MigrateVmRequest(
        migration_id=migration_id,
        vm=VM,
        to_cloud="osaka",
        reservation_id=held.reservation_id,
        delegation=document,
    )
    client.call(tokyo.seen_by(BROKER).MigrateVm, request)
    assert tokyo.wait_ended(migration_id).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    (reservation,) = osaka.list_reservations()
    assert reservation.reservation_id == held.reservation_id
    assert reservation.state == manager_pb2.RESERVATION_STATE_USED
    actions = [entry.action for entry in osaka.audit() if entry.subject == held.reservation_id]
    assert actions[:2] == ["reservation.held", "reservation.adopted"]


def test_a_hold_ends_with_the_standing_delegation(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    end = tokyo.federation.clock.now() + timedelta(seconds=120)
    held = hold_under(osaka, delegated(tokyo.federation, life=60))
    assert held.expires_at.ToDatetime(tzinfo=UTC) < end


@pytest.mark.parametrize(
    ("scope", "asked", "reason"),
    [
        ({"to_clouds": ["sendai"]}, {}, "DELEGATION_INVALID"),
        ({"from_clouds": ["sendai"]}, {}, "DELEGATION_INVALID"),
        ({"vm_ids": [OTHER_VM]}, {}, "DELEGATION_INVALID"),
        ({}, {"from_cloud": "osaka"}, "DELEGATION_INVALID"),
        (
            {"from_clouds": ["osaka"], "to_clouds": ["osaka"]},
            {"from_cloud": "osaka"},
            "MANDATE_INVALID",
        ),
        ({}, {"migration_id": "m"}, "INVALID_ID"),
        ({}, {"vm_id": "web-1"}, "INVALID_ID"),
        ({}, {"mandate": common_pb2.SignedDocument(payload=b"x")}, "INVALID_FIELD"),
    ],
)
def test_nothing_is_held_for_what_a_standing_delegation_does_not_cover(
    clouds: tuple[Cloud, Cloud], scope: dict[str, object], asked: dict[str, object], reason: str
) -> None:
    tokyo, osaka = clouds
    document = delegated(tokyo.federation, replace(SCOPE, **scope))  # type: ignore[arg-type]
    with pytest.raises(errors.WatariError) as caught:
        hold_under(osaka, document, **asked)
    assert caught.value.reason == reason
    assert not osaka.list_reservations()


def test_nothing_is_held_under_one_that_is_over_revoked_or_another_providers(
    clouds: tuple[Cloud, Cloud],
) -> None:
    tokyo, osaka = clouds

    def why(document: common_pb2.SignedDocument) -> str:
        with pytest.raises(errors.Denied) as caught:
            hold_under(osaka, document)
        assert not osaka.list_reservations()
        return caught.value.reason

    assert why(delegated(tokyo.federation, life=-1)) == "DELEGATION_INVALID"
    other = delegated(tokyo.federation, signer=f"spiffe://{OSAKA}/operator/main")
    assert why(other) == "DELEGATION_INVALID"
    document = delegated(tokyo.federation)
    said = common_pb2.StandingDelegation.FromString(document.payload)
    request = manager_pb2.RevokeDelegationRequest(delegation_id=said.delegation_id)
    client.call(osaka.seen_by(ACME).RevokeDelegation, request)
    assert why(document) == "DELEGATION_REVOKED"
