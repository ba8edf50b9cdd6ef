"""Quotas: the arithmetic of limits, and admission under them on a real database."""

import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from manager.ownership import EVERYTHING, Tenant, View
from manager.quotas import limits, rows, tables
from manager.quotas.limits import Limits
from tests.conftest import Federation
from tests.support.reservations import GIB, OSAKA, TOKYO, Rig, reason_of, request
from watari import errors
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
ACME = Tenant("tokyo.example", "acme")


@pytest.fixture(scope="module")
def own(federation: Federation) -> Identity:
    """osaka's manager."""
    return federation.party(OSAKA)


@pytest.fixture
def rig(tmp_path: Path, own: Identity) -> Iterator[Rig]:
    made = Rig(tmp_path, own)
    yield made
    made.store.close()


def put(rig: Rig, tenant: Tenant, generation: int = 0, soft: int = 0, **hard: int) -> int:
    """Set a quota; its generation."""
    quota = manager_pb2.Quota(
        tenant_domain=tenant.domain,
        tenant=tenant.name,
        hard=of(**hard),
        soft=common_pb2.Resources(vcpus=soft),
        generation=generation,
    )
    return rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR).generation


def of(vcpus: int = 0, memory_bytes: int = 0, **other: int) -> common_pb2.Resources:
    """Amounts."""
    return common_pb2.Resources(vcpus=vcpus, memory_bytes=memory_bytes, other=other)


def shown(rig: Rig, tenant: Tenant = ACME) -> manager_pb2.Quota:
    """How a tenant stands."""
    (only,) = rig.quotas.page(EVERYTHING, tenant, after=None, limit=10)
    return only


def test_the_narrowest_limit_of_each_class_holds():
    found = limits.effective(
        [Limits({"vcpus": 4}), Limits({"vcpus": 9, "machines": 0}, {"vcpus": 2})]
    )
    assert found == Limits({"vcpus": 4, "machines": 0}, {"vcpus": 2})


def test_a_refusal_says_which_limit_how_far_off_and_what_would_fit():
    with pytest.raises(errors.Exhausted) as caught:
        limits.require_within(
            ACME,
            Limits({"vcpus": 10, "memory_bytes": 8 * GIB, "disk_bytes": GIB}),
            {"vcpus": 7, "memory_bytes": 8 * GIB},
            {"vcpus": 4, "memory_bytes": GIB, "disk_bytes": GIB},
        )
    error = caught.value
    assert error.reason == "QUOTA_EXCEEDED"
    assert "vcpus: 4 asked, 7 of 10 used" in error.message
    assert "memory_bytes: 1.0 GiB asked, 8.0 GiB of 8.0 GiB used" in error.message
    assert "disk_bytes" not in error.message
    assert "3 of vcpus" in error.hint
    assert (error.metadata["resource"], error.metadata["asked"]) == ("memory_bytes", str(GIB))
    assert not error.retryable


def test_a_limit_below_what_is_used_stops_nothing_that_asks_none_of_it():
    used = {"gpu": 3, "vcpus": 1}
    assert limits.beyond({"gpu": 1, "vcpus": 2}, used, {"vcpus": 1, "gpu": 0}) == []
    assert [each.name for each in limits.beyond({"gpu": 1}, used, {"gpu": 1})] == ["gpu"]


def test_a_tenant_gets_exactly_what_its_quota_allows(rig: Rig):
    put(rig, ACME, vcpus=3)
    rig.reservations.reserve(request(vcpus=3), TOKYO)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "QUOTA_EXCEEDED"
    assert rig.held() == 3
    rig.reservations.reserve(request(tenant="globex"), TOKYO)


def test_room_that_is_given_back_or_expires_can_be_used_again(rig: Rig):
    put(rig, ACME, vcpus=2)
    first = request(vcpus=2)
    rig.reservations.reserve(first, TOKYO)
    rig.reservations.release(first.reservation_id, TOKYO)
    rig.reservations.reserve(request(vcpus=2, ttl_seconds=10), TOKYO)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "QUOTA_EXCEEDED"
    rig.clock.advance(10)
    rig.reservations.reserve(request(vcpus=2), TOKYO)
    assert shown(rig).used.vcpus == 2


def test_repeating_a_reservation_needs_no_quota_and_answers_the_same(rig: Rig):
    put(rig, ACME, vcpus=2, soft=1)
    asked = request(vcpus=2)
    first = rig.reservations.reserve(asked, TOKYO)
    assert [each.reason for each in first.warnings] == ["QUOTA_EXCEEDED"]
    assert rig.reservations.reserve(asked, TOKYO) == first
    put(rig, ACME, generation=1, vcpus=1)
    assert rig.reservations.reserve(asked, TOKYO).reservation == first.reservation


def test_a_machine_counts_like_the_reservation_that_it_came_from(rig: Rig):
    put(rig, ACME, machines=1)
    rig.own(str(uuid.uuid4()), "osaka", 1, vcpus=3)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "QUOTA_EXCEEDED"
    namesake = Tenant("osaka.example", "acme")
    rig.reservations.reserve(request(tenant_domain=namesake.domain), TOKYO)
    for tenant, vcpus in ((ACME, 3), (namesake, 1)):
        used = shown(rig, tenant).used
        assert (used.vcpus, dict(used.other)) == (vcpus, {"machines": 1})


def test_a_machine_that_another_cloud_owns_counts_there(rig: Rig):
    rig.own(str(uuid.uuid4()), "tokyo", 2)
    assert not shown(rig).used.ByteSize()


def test_defaults_hold_for_tenants_of_the_provider_and_then_for_everybody(rig: Rig):
    put(rig, Tenant("*", "*"), vcpus=1, machines=2)
    put(rig, Tenant("tokyo.example", "*"), vcpus=3)
    rig.reservations.reserve(request(vcpus=2), TOKYO)
    assert reason_of(rig.reservations.reserve, request(vcpus=2), TOKYO) == "QUOTA_EXCEEDED"
    put(rig, ACME, vcpus=5)
    rig.reservations.reserve(request(vcpus=2), TOKYO)
    # Its own quota says nothing of machines: the widest does.
    assert reason_of(rig.reservations.reserve, request(vcpus=1), TOKYO) == "QUOTA_EXCEEDED"
    other = request(vcpus=2, tenant="x", tenant_domain="kyoto.example")
    assert reason_of(rig.reservations.reserve, other, TOKYO) == "QUOTA_EXCEEDED"
    rig.quotas.delete(Tenant("*", "*"), 0, OPERATOR)
    rig.reservations.reserve(request(vcpus=1), TOKYO)


def test_an_entry_of_zero_forbids_a_class(rig: Rig):
    put(rig, Tenant("*", "*"), machines=0)
    put(rig, ACME, machines=1)
    assert reason_of(rig.reservations.reserve, request(tenant="globex"), TOKYO) == "QUOTA_EXCEEDED"
    rig.reservations.reserve(request(), TOKYO)


def test_only_who_knows_the_newest_quota_changes_it(rig: Rig):
    assert put(rig, ACME, vcpus=1) == 1
    assert put(rig, ACME, generation=1, vcpus=2) == 2
    for old in (0, 1, 3):
        with pytest.raises(errors.Conflict):
            put(rig, ACME, generation=old, vcpus=3)
    assert reason_of(rig.quotas.delete, ACME, 1, OPERATOR) == "GENERATION_CONFLICT"
    rig.quotas.delete(ACME, 2, OPERATOR)
    rig.quotas.delete(ACME, 2, OPERATOR)
    assert shown(rig).generation == 0
    assert put(rig, ACME, vcpus=4) == 4, "a generation never comes again"


def test_setting_a_quota_twice_with_one_id_sets_it_once(rig: Rig):
    quota = manager_pb2.Quota(tenant_domain=ACME.domain, tenant=ACME.name, hard=of(vcpus=2))
    key = str(uuid.uuid4())
    first = rig.quotas.put(quota, key, OPERATOR)
    assert rig.quotas.put(quota, key, OPERATOR) == first
    quota.hard.vcpus = 3
    assert reason_of(rig.quotas.put, quota, key, OPERATOR) == "ID_REUSED"


def test_admissions_do_not_make_whoever_changes_the_quota_lose(rig: Rig):
    put(rig, ACME, vcpus=4)
    rig.reservations.reserve(request(), TOKYO)
    put(rig, Tenant("*", "*"), vcpus=4)
    rig.reservations.reserve(request(tenant="globex"), TOKYO)
    assert put(rig, ACME, generation=1, vcpus=5) == 2
    assert put(rig, Tenant("tokyo.example", "globex"), vcpus=5) == 1


def test_a_tenant_sees_itself_only_and_operators_everybody_who_uses_anything(rig: Rig):
    put(rig, Tenant("*", "*"), vcpus=4)
    put(rig, Tenant("tokyo.example", "idle"), machines=1)
    rig.reservations.reserve(request(), TOKYO)
    (mine,) = rig.quotas.page(View(ACME), None, after=None, limit=10)
    assert (mine.tenant, mine.used.vcpus, mine.effective_hard.vcpus) == ("acme", 1, 4)
    assert not mine.hard.ByteSize()
    idle = Tenant("tokyo.example", "idle")
    assert rig.quotas.page(View(ACME), idle, after=None, limit=10) == []
    found = rig.quotas.page(EVERYTHING, None, after=None, limit=10)
    assert [each.tenant for each in found] == ["*", "acme", "idle"]
    rest = rig.quotas.page(EVERYTHING, None, after=("tokyo.example", "acme"), limit=10)
    assert [each.tenant for each in rest] == ["idle"]


def budget(rig: Rig, tenant: Tenant, hard: int, soft: int, currency: str = "JPY") -> None:
    """Set what a tenant may spend a month."""
    quota = manager_pb2.Quota(
        tenant_domain=tenant.domain,
        tenant=tenant.name,
        budget_month=common_pb2.Money(currency_code=currency, units=hard),
        budget_month_soft=common_pb2.Money(currency_code=currency, units=soft),
    )
    rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)


def test_a_spent_budget_stops_admissions_until_the_month_ends_and_nothing_that_is_there(rig: Rig):
    budget(rig, ACME, hard=100, soft=80)
    kept = request()
    assert not rig.reservations.reserve(kept, TOKYO).warnings
    month = rig.clock.now().month
    rig.spending.amounts[month, "acme"] = Decimal(80)
    (warning,) = rig.reservations.reserve(request(), TOKYO).warnings
    assert (warning.reason, warning.metadata["limit"]) == ("BUDGET_EXCEEDED", "80 JPY")
    rig.spending.amounts[month, "acme"] = Decimal(100)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "BUDGET_EXCEEDED"
    rig.reservations.reserve(request(tenant="globex"), TOKYO)
    assert rig.reservations.confirm(kept.reservation_id, TOKYO)
    assert shown(rig).spent_month.units == 100
    rig.clock.advance(31 * 86_400)
    rig.reservations.reserve(request(), TOKYO)


def test_a_budget_of_all_holds_for_each_until_it_has_its_own(rig: Rig):
    budget(rig, Tenant("*", "*"), hard=0, soft=0)
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "BUDGET_EXCEEDED"
    assert shown(rig).effective_budget_month.currency_code == "JPY"
    budget(rig, ACME, hard=1, soft=1)
    rig.reservations.reserve(request(), TOKYO)


def test_no_budget_is_set_where_nobody_knows_what_is_spent(rig: Rig):
    assert reason_of(budget, rig, ACME, 5, 5, "EUR") == "INVALID_FIELD"
    assert reason_of(budget, rig, ACME, 5, 6) == "INVALID_FIELD"
    budget(rig, ACME, 5, 5)
    rig.spending.currency = None
    assert reason_of(budget, rig, Tenant("*", "*"), 5, 5) == "NOT_SERVED"
    # One that was set before refuses rather than hold no more.
    assert reason_of(rig.reservations.reserve, request(), TOKYO) == "BUDGET_EXCEEDED"
    assert not shown(rig).HasField("spent_month")


def test_many_threads_never_get_more_than_the_quota(rig: Rig):
    put(rig, ACME, vcpus=5)
    ready = threading.Barrier(16)
    outcomes: list[str] = []

    def take() -> None:
        ready.wait()
        try:
            rig.reservations.reserve(request(), TOKYO)
            outcomes.append("held")
        except errors.WatariError as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["QUOTA_EXCEEDED"] * 11 + ["held"] * 5


def test_every_admission_under_a_limit_changes_a_row_that_the_next_one_must_see(rig: Rig):
    with rig.store.write() as connection:
        rows.admit(connection, ACME)
        rows.admit(connection, ACME)
    with rig.store.read() as connection:
        row = rows.get(connection, ACME)
        counted = connection.scalar(sa.select(tables.quotas.c.admissions))
    assert row == rows.QuotaRow(ACME, None, "", 0)
    assert counted == 1, "the first made the row"
