"""Standing delegations that are revoked at a manager: from then on nothing begins under them."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from manager import revocations
from manager.standing import Seen, StandingMandate
from tests.conftest import OSAKA
from tests.support.clouds import VM, Cloud, eventually
from tests.support.standing import (
    ACME,
    BROKER,
    GLOBEX,
    OPERATOR,
    OTHER_VM,
    admitting,
    delegate,
    estimate,
    get_migration,
    get_vm,
    listed,
    migrate,
    nothing_happened,
)
from watari import errors, standing
from watari.rpc import client
from watari.v1 import common_pb2, manager_pb2


@pytest.fixture
def tokyo(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """tokyo, which admits two brokers, with two machines of acme and one of globex."""
    return admitting(clouds)


def id_of(shown: common_pb2.SignedDocument) -> str:
    return common_pb2.StandingDelegation.FromString(shown.payload).delegation_id


def revoke(
    cloud: Cloud, delegation_id: str, caller: str = ACME, reason: str = ""
) -> manager_pb2.KnownDelegation:
    request = manager_pb2.RevokeDelegationRequest(delegation_id=delegation_id, reason=reason)
    return client.call(cloud.seen_by(caller).RevokeDelegation, request).delegation


def known(cloud: Cloud, caller: str = ACME) -> list[manager_pb2.KnownDelegation]:
    """All that it knows, one a page."""
    stub, found = cloud.seen_by(caller).ListDelegations, []
    request = manager_pb2.ListDelegationsRequest(page_size=1)
    while True:
        page = client.call(stub, request)
        assert len(page.delegations) <= 1
        found += page.delegations
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def refused_as_revoked(call: object, why: str = "revoked") -> None:
    with pytest.raises(errors.Denied, match=why) as caught:
        call()  # type: ignore[operator]
    assert caught.value.reason == "DELEGATION_REVOKED"
    assert caught.value.hint


def begins_nothing(cloud: Cloud, shown: common_pb2.SignedDocument) -> None:
    for call in (listed, get_vm, estimate, migrate):
        refused_as_revoked(lambda call=call: call(cloud, shown))


@pytest.mark.parametrize("caller", [ACME, OPERATOR])
@pytest.mark.parametrize("signer", [ACME, OPERATOR])
def test_the_tenant_and_the_operator_end_it_at_once_and_over_restarts(tokyo, caller, signer):
    shown, other = delegate(tokyo, signer), delegate(tokyo, signer)
    assert listed(tokyo, shown) == ["web-1", "web-2"]
    revoked = revoke(tokyo, id_of(shown), caller, "it moves too much")
    assert (revoked.tenant, revoked.delegate, revoked.signer) == ("acme", BROKER, signer)
    assert (revoked.revoked_by, revoked.reason) == (caller, "it moves too much")
    begins_nothing(tokyo, shown)
    refused_as_revoked(lambda: migrate(tokyo, shown), f"{caller} revoked.*it moves too much")
    tokyo.stop()
    tokyo.start()
    begins_nothing(tokyo, shown)
    assert nothing_happened(tokyo)
    # Another one, of the same tenant to the same broker, is good.
    assert listed(tokyo, other) == ["web-1", "web-2"]
    tokyo.wait_state(migrate(tokyo, other).migration_id, "SUCCEEDED")


def test_one_that_was_never_shown_is_revoked_all_the_same_and_stays_unseen(tokyo):
    shown = delegate(tokyo)
    assert not revoke(tokyo, id_of(shown)).HasField("seen_at")
    begins_nothing(tokyo, shown)
    (only,) = known(tokyo)
    assert (only.delegation_id, only.HasField("seen_at")) == (id_of(shown), False)


def test_what_it_let_begin_goes_on_and_may_be_looked_at(tokyo):
    shown = delegate(tokyo)
    begun = migrate(tokyo, shown).migration_id
    revoke(tokyo, id_of(shown))
    tokyo.wait_state(begun, "SUCCEEDED")
    assert get_migration(tokyo, shown, begun).state == manager_pb2.MIGRATION_STATE_SUCCEEDED
    # The call that began it may be repeated: it began before.
    assert migrate(tokyo, shown, migration_id=begun).migration_id == begun
    refused_as_revoked(lambda: migrate(tokyo, shown, vm=OTHER_VM))


def test_nobody_revokes_for_others(tokyo, clouds):
    shown = delegate(tokyo)
    listed(tokyo, shown)
    for caller in (GLOBEX, f"spiffe://{OSAKA}/user/acme"):
        answer = revoke(tokyo, id_of(shown), caller)
        assert not answer.HasField("seen_at"), "nor learns anything of it"
    for caller in (BROKER, f"spiffe://{OSAKA}/operator/main"):
        with pytest.raises(errors.Denied):
            revoke(tokyo, id_of(shown), caller)
    assert listed(tokyo, shown) == ["web-1", "web-2"]
    assert not known(tokyo)[0].HasField("revoked_at")
    # One cloud's word is its own.
    revoke(tokyo, id_of(shown))
    assert listed(clouds[1], shown) == []


def test_repeating_it_changes_nothing_and_the_audit_log_has_it_once(tokyo):
    shown = delegate(tokyo)
    first = revoke(tokyo, id_of(shown), reason="one")
    assert revoke(tokyo, id_of(shown), reason="two") == first
    (entry,) = [each for each in tokyo.audit() if each.action == "delegation.revoked"]
    assert (entry.actor, entry.subject) == (ACME, id_of(shown))
    assert entry.details["reason"] == "one"


@pytest.mark.parametrize("fields", [{"delegation_id": "x"}, {"reason": "r" * 201}])
def test_what_is_no_request_is_refused(tokyo, fields):
    asked = {"delegation_id": str(uuid.uuid4())} | fields
    with pytest.raises(errors.InvalidArgument):
        revoke(tokyo, **asked)


def test_each_sees_the_delegations_of_its_machines_and_an_operator_all(tokyo):
    mine, unseen, dropped = delegate(tokyo), delegate(tokyo), delegate(tokyo)
    listed(tokyo, mine)
    listed(tokyo, dropped)
    revoke(tokyo, id_of(dropped))
    revoke(tokyo, id_of(unseen), OPERATOR)
    ids = {id_of(mine): False, id_of(dropped): True}
    assert {each.delegation_id: each.HasField("revoked_at") for each in known(tokyo)} == ids
    ids[id_of(unseen)] = True
    every = known(tokyo, OPERATOR)
    assert [each.delegation_id for each in every] == sorted(ids)
    assert {each.delegation_id: each.HasField("revoked_at") for each in every} == ids
    assert known(tokyo, GLOBEX) == []


def test_a_tenant_has_so_many_and_is_in_no_others_way(tokyo, monkeypatch):
    monkeypatch.setattr(revocations, "TENANT_MAX", 2)
    for _ in range(2):
        revoke(tokyo, str(uuid.uuid4()))
    with pytest.raises(errors.Exhausted) as caught:
        revoke(tokyo, str(uuid.uuid4()))
    assert caught.value.reason == "TOO_MANY_REVOCATIONS"
    monkeypatch.setattr(revocations, "PROVIDER_MAX", 3)
    revoke(tokyo, str(uuid.uuid4()), GLOBEX)
    with pytest.raises(errors.Exhausted):
        revoke(tokyo, str(uuid.uuid4()), GLOBEX)
    revoke(tokyo, str(uuid.uuid4()), f"spiffe://{OSAKA}/user/acme")
    shown = delegate(tokyo)
    revoke(tokyo, id_of(shown), OPERATOR)
    begins_nothing(tokyo, shown)


def kept_until(cloud: Cloud, delegation_id: str) -> datetime | None:
    """Read from the database: nobody is told."""
    query = "SELECT kept_until FROM revoked_delegations WHERE delegation_id = ?"
    with cloud.database() as database:
        row = database.execute(query, (delegation_id,)).fetchone()
    return None if row is None else datetime.fromtimestamp(row[0] / 1e6, UTC)


def test_it_is_kept_until_none_can_be_good_any_more_and_is_forgotten_then(tokyo):
    shown = delegate(tokyo)
    revoke(tokyo, id_of(shown))
    longest = timedelta(seconds=standing.LIFE_SECONDS_MAX)
    until = kept_until(tokyo, id_of(shown))
    now = tokyo.federation.clock.now()
    assert now + longest + timedelta(hours=23) < until <= now + longest + timedelta(days=1)
    # One that was made out for longer, to be good later, has it kept for longer by being shown.
    late = delegate(tokyo, life_seconds=2 * standing.LIFE_SECONDS_MAX)
    revoke(tokyo, id_of(late))
    with pytest.raises(errors.Denied, match="good until"):
        listed(tokyo, late)
    assert kept_until(tokyo, id_of(late)) > now + 2 * longest
    # A day after its end the next revocation forgets it, and no other.
    with tokyo.database() as database:
        query = "UPDATE revoked_delegations SET kept_until = ? WHERE delegation_id = ?"
        database.execute(query, (int(now.timestamp() * 1e6), id_of(shown)))
    revoke(tokyo, str(uuid.uuid4()))
    assert kept_until(tokyo, id_of(shown)) is None
    assert kept_until(tokyo, id_of(late)) is not None


def test_one_that_is_made_out_for_too_long_is_not_believed_beyond_its_certificate(tokyo):
    late = delegate(tokyo, life_seconds=standing.LIFE_SECONDS_MAX + 600)
    with pytest.raises(errors.Denied, match="good until"):
        listed(tokyo, late)
    assert known(tokyo) == []


def test_no_move_begins_after_a_revocation_was_acknowledged(tokyo):
    machines = [f"6f1f2d2e-0000-4000-8000-0000000001{number:02}" for number in range(16)]
    for number, vm_id in enumerate(machines):
        tokyo.agent.add(vm_id, f"many-{number}")
    eventually(lambda: set(machines) <= set(tokyo.vms()), "all are seen")
    shown = delegate(tokyo)
    acknowledged = threading.Event()

    def move(vm_id: str) -> tuple[bool, bool]:
        """Whether the revocation was acknowledged before this was asked, and whether it began."""
        late = acknowledged.is_set()
        try:
            migrate(tokyo, shown, vm=vm_id)
        except errors.Denied as error:
            if error.reason != "DELEGATION_REVOKED":
                raise
            return late, False
        return late, True

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(move, vm_id) for vm_id in machines]
        asked[0].result(30)
        revoke(tokyo, id_of(shown))
        acknowledged.set()
        outcomes = [each.result(30) for each in asked]
    assert (False, True) in outcomes
    assert (True, True) not in outcomes
    assert move(VM) == (True, False)


def test_the_transaction_that_begins_a_move_looks_itself(tokyo, monkeypatch):
    """The caller was let in before the revocation, and records its move after it."""
    shown = delegate(tokyo)
    assert get_vm(tokyo, shown).vm_id == VM
    read = Seen.read

    def before(*arguments: object) -> StandingMandate:
        found = read(*arguments)  # type: ignore[arg-type]
        revoke(tokyo, id_of(shown))
        return found

    monkeypatch.setattr(Seen, "read", before)
    refused_as_revoked(lambda: migrate(tokyo, shown))
    assert nothing_happened(tokyo)
    assert tokyo.vms()[VM].migration_id == "", "and the machine is free"


def test_a_manager_on_postgresql_keeps_it_as_well(tokyo, postgresql_server):
    tokyo.stop()
    tokyo.change(store=postgresql_server.settings())
    tokyo.start()
    shown = delegate(tokyo)
    assert listed(tokyo, shown) is not None
    revoke(tokyo, id_of(shown), OPERATOR, "gone")
    begins_nothing(tokyo, shown)
    tokyo.stop()
    tokyo.start()
    begins_nothing(tokyo, shown)
    (only,) = known(tokyo)
    assert (only.reason, only.delegate) == ("gone", BROKER)
