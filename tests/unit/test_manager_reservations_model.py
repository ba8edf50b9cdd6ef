"""Allocation on a real database against a simple model, and the table of a reservation's states."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from manager import capacity, inventory, reservation_rows, tables, vms
from manager.admitting import Asked, Confirm, Reserve
from manager.ownership import EVERYTHING, Tenant
from manager.reservation import LIVE, OPEN, TRANSITIONS, State
from tests.conftest import Federation
from tests.support.reservations import OSAKA, TOKYO, VCPUS, Rig, reason_of, request
from watari import errors
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
TENANTS = ("acme", "globex")
tenants = st.sampled_from(TENANTS)


@dataclass
class Held:
    """What the model knows of a reservation that was made."""

    asked: manager_pb2.ReserveRequest
    state: State
    ends: float

    @property
    def vcpus(self) -> int:
        """What it holds while it is live."""
        return self.asked.resources.vcpus


@dataclass
class Machine:
    """What the model knows of a machine of this cloud."""

    tenant: str
    vcpus: int


class Model(RuleBasedStateMachine):
    """Two tenants on one host: the database does what a few dictionaries would.

    Never more is admitted than there is, or than a tenant may; nothing is lost or counted twice on
    its way from a reservation to a machine and away; and whatever is summed, adds up.
    """

    own: Identity
    keys = Bundle("keys")
    machines = Bundle("machines")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), self.own)
        self.made: dict[str, Held] = {}
        self.here: dict[str, Machine] = {}
        self.limits: dict[str, int] = {}
        self.generations: dict[str, int] = {}

    def teardown(self) -> None:
        self.rig.store.close()
        self.folder.cleanup()

    @rule(target=keys, tenant=tenants, vcpus=st.integers(1, 5), ttl=st.integers(10, 100))
    def reserve(self, tenant: str, vcpus: int, ttl: int) -> str:
        asked = request(vcpus=vcpus, ttl_seconds=ttl, tenant=tenant)
        refused = self.refusal(tenant, vcpus)
        if refused is None:
            self.rig.reservations.reserve(asked, TOKYO)
            ends = self.rig.clock.monotonic() + ttl
            self.made[asked.reservation_id] = Held(asked, State.PENDING, ends)
        else:
            assert reason_of(self.rig.reservations.reserve, asked, TOKYO) == refused
        return asked.reservation_id

    @rule(data=st.data(), count=st.integers(2, 6))
    def several_call_at_once(self, data: st.DataObject, count: int) -> None:
        """In one write: each is decided as if it were the next one to call, and none of them is
        answered for what another one did.
        """
        calls: list[Asked] = []
        expected: list[str | State] = []
        for _ in range(count):
            tenant, vcpus = data.draw(tenants), data.draw(st.integers(1, 5))
            asked = request(vcpus=vcpus, ttl_seconds=50, tenant=tenant)
            key = asked.reservation_id
            refused = self.refusal(tenant, vcpus)
            calls += [Reserve(asked, TOKYO), Confirm(key, TOKYO)]
            if refused is None:
                ends = self.rig.clock.monotonic() + 50
                self.made[key] = Held(asked, State.CONFIRMED, ends)
                expected += [State.PENDING, State.CONFIRMED]
            else:
                expected += [refused, "RESERVATION_NOT_FOUND"]
        told = self.rig.together(calls)
        assert [
            each.reason if isinstance(each, errors.WatariError) else each.row.state for each in told
        ] == expected

    @rule(key=keys)
    def reserve_the_same_again(self, key: str) -> None:
        if key in self.made:
            again = self.rig.reservations.reserve(self.made[key].asked, TOKYO)
            assert again.reservation.state == manager_pb2.ReservationState.Value(
                f"RESERVATION_STATE_{self.made[key].state}"
            )

    @rule(key=keys)
    def reserve_something_else_under_the_same_id(self, key: str) -> None:
        if key in self.made:
            other = manager_pb2.ReserveRequest()
            other.CopyFrom(self.made[key].asked)
            other.resources.vcpus += 1
            assert reason_of(self.rig.reservations.reserve, other, TOKYO) == "ID_REUSED"

    @rule(key=keys)
    def confirm(self, key: str) -> None:
        state = self.state(key)
        if state in LIVE:
            self.rig.reservations.confirm(key, TOKYO)
            self.made[key].state = State.CONFIRMED
        elif state is State.USED:
            assert self.rig.reservations.confirm(key, TOKYO).state is State.USED
        else:
            expected = {
                None: "RESERVATION_NOT_FOUND",
                State.EXPIRED: "RESERVATION_EXPIRED",
                State.RELEASED: "RESERVATION_STATE",
            }[state]
            assert reason_of(self.rig.reservations.confirm, key, TOKYO) == expected

    @rule(key=keys)
    def release(self, key: str) -> None:
        if self.state(key) is State.USED:
            assert reason_of(self.rig.reservations.release, key, TOKYO) == "MIGRATION_COMMITTED"
            return
        released = self.rig.reservations.release(key, TOKYO)
        if self.state(key) in LIVE:
            self.made[key].state = State.RELEASED
        assert (released and released.state) == self.state(key)

    @rule(key=keys, ttl=st.integers(10, 100))
    def extend(self, key: str, ttl: int) -> None:
        if self.state(key) is State.PENDING:
            self.rig.reservations.extend(key, ttl, TOKYO)
            held = self.made[key]
            held.ends = max(held.ends, self.rig.clock.monotonic() + ttl)
        else:
            reason_of(self.rig.reservations.extend, key, ttl, TOKYO)

    @rule(target=machines, key=keys)
    def use(self, key: str) -> str:
        """What the manager does in one transaction once a machine was handed over."""
        held = self.made.get(key)
        if held is None or held.state is not State.CONFIRMED:
            return ""
        with self.rig.store.write() as connection:
            row = reservation_rows.get(connection, key)
            assert row is not None
            assert reservation_rows.move(connection, row, State.USED)
            capacity.give_back(connection, capacity.RESERVATION, key)
            machine = self.machine(held.asked.vm_id, held.asked.tenant, held.vcpus)
            vms.put(connection, machine, counted=True)
        held.state = State.USED
        self.here[held.asked.vm_id] = Machine(held.asked.tenant, held.vcpus)
        return held.asked.vm_id

    @rule(target=machines, tenant=tenants, vcpus=st.integers(1, 5))
    def adopt(self, tenant: str, vcpus: int) -> str:
        """A machine that an operator put on the host is a fact, fitting or not."""
        vm_id = str(uuid.uuid4())
        with self.rig.store.write() as connection:
            vms.put(connection, self.machine(vm_id, tenant, vcpus), counted=True)
        self.here[vm_id] = Machine(tenant, vcpus)
        return vm_id

    @rule(vm_id=machines, vcpus=st.integers(1, 5))
    def resize(self, vm_id: str, vcpus: int) -> None:
        if vm_id in self.here:
            machine = self.here[vm_id]
            with self.rig.store.write() as connection:
                changed = self.machine(vm_id, machine.tenant, vcpus)
                vms.put(connection, changed, counted=True)
            machine.vcpus = vcpus

    @rule(vm_id=machines)
    def hand_over(self, vm_id: str) -> None:
        if vm_id in self.here:
            with self.rig.store.write() as connection:
                assert vms.give_away(
                    connection, vm_id, from_cloud="osaka", to_cloud="tokyo", epoch=2
                )
                vms.vacate(connection, vm_id, "osaka")
            del self.here[vm_id]

    @rule(tenant=tenants, vcpus=st.integers(1, 10))
    def limit(self, tenant: str, vcpus: int) -> None:
        """Also below what is used, which stays."""
        quota = manager_pb2.Quota(
            tenant_domain="tokyo.example",
            tenant=tenant,
            hard=common_pb2.Resources(vcpus=vcpus),
            generation=self.generations.get(tenant, 0),
        )
        put = self.rig.quotas.put(quota, str(uuid.uuid4()), OPERATOR)
        self.generations[tenant] = put.generation
        self.limits[tenant] = vcpus

    @rule(tenant=tenants)
    def unlimit(self, tenant: str) -> None:
        self.rig.quotas.delete(Tenant("tokyo.example", tenant), 0, OPERATOR)
        self.generations.pop(tenant, None)
        self.limits.pop(tenant, None)

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.rig.clock.advance(seconds)
        for held in self.made.values():
            if held.state is State.PENDING and held.ends <= self.rig.clock.monotonic():
                held.state = State.EXPIRED
        self.rig.reservations.expire_due()

    @invariant()
    def the_room_adds_up(self) -> None:
        with self.rig.store.read() as connection:
            (host,) = capacity.views(connection, self.rig.settings.agents)
        assert host.held.get("vcpus", 0) == sum(map(self.held, TENANTS))
        assert host.allocated.get("vcpus", 0) == sum(map(self.running, TENANTS))
        assert host.free["vcpus"] == max(0, VCPUS - sum(map(self.used, TENANTS)))

    @invariant()
    def what_is_counted_is_what_the_allocations_add_up_to(self) -> None:
        with self.rig.store.read() as connection:
            assert capacity.miscounted(connection) == {}

    @invariant()
    def each_tenant_is_told_what_it_uses(self) -> None:
        shown = self.rig.quotas.page(EVERYTHING, None, after=None, limit=100)
        told = {quota.tenant: quota.used for quota in shown}
        for tenant in TENANTS:
            used = told.get(tenant, common_pb2.Resources())
            assert used.vcpus == self.used(tenant)
            live = [held for held in self.live() if held.asked.tenant == tenant]
            machines = [each for each in self.here.values() if each.tenant == tenant]
            assert used.other["machines"] == len(live) + len(machines)

    @invariant()
    def nothing_is_allocated_to_who_is_not_there(self) -> None:
        with self.rig.store.read() as connection:
            found = connection.execute(
                sa.select(tables.allocations.c.kind, tables.allocations.c.consumer_id).where(
                    tables.allocations.c.resource_class != inventory.STORAGE
                )
            ).all()
        expected = {(capacity.VM, vm_id) for vm_id in self.here}
        expected |= {(capacity.RESERVATION, held.asked.reservation_id) for held in self.live()}
        assert {tuple(row) for row in found} == expected

    @invariant()
    def every_state_is_as_expected(self) -> None:
        for key, held in self.made.items():
            assert self.rig.reservations.get(key, TOKYO).state is held.state

    @invariant()
    def whatever_ended_unused_is_owed_to_be_discarded(self) -> None:
        ended = [
            held for held in self.made.values() if held.state in (State.RELEASED, State.EXPIRED)
        ]
        assert self.rig.owed() == len(ended)

    def refusal(self, tenant: str, vcpus: int) -> str | None:
        """Why the model admits no machine of so many CPUs, if it does not."""
        if self.used(tenant) + vcpus > self.limits.get(tenant, 1000):
            return "QUOTA_EXCEEDED"
        if sum(map(self.used, TENANTS)) + vcpus > VCPUS:
            return "INSUFFICIENT_CAPACITY"
        return None

    def state(self, key: str) -> State | None:
        """None when it was refused."""
        return self.made[key].state if key in self.made else None

    def live(self) -> list[Held]:
        """Reservations that hold room."""
        return [held for held in self.made.values() if held.state in LIVE]

    def held(self, tenant: str) -> int:
        """CPUs that a tenant's reservations hold."""
        return sum(held.vcpus for held in self.live() if held.asked.tenant == tenant)

    def running(self, tenant: str) -> int:
        """CPUs of a tenant's machines."""
        return sum(each.vcpus for each in self.here.values() if each.tenant == tenant)

    def used(self, tenant: str) -> int:
        """All that a tenant takes."""
        return self.held(tenant) + self.running(tenant)

    @staticmethod
    def machine(vm_id: str, tenant: str, vcpus: int) -> vms.VmRow:
        """A machine of this cloud."""
        return vms.VmRow(
            vm_id=vm_id,
            name="web-1",
            cloud_id="osaka",
            epoch=1,
            host_id="h1",
            tenant_domain="tokyo.example",
            tenant=tenant,
            migration_id=None,
            body=manager_pb2.Vm(resources=common_pb2.Resources(vcpus=vcpus)),
            seen_at=0,
        )


def test_allocation_behaves_like_its_model(federation: Federation) -> None:
    Model.own = federation.party(OSAKA)
    limits = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
    Model.TestCase.settings = limits
    Model.TestCase("runTest").runTest()


def test_no_state_follows_a_final_one_and_used_comes_from_confirmed_only() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in set(State) - OPEN:
        late = {State.RELINQUISHED} if state in (State.RELEASED, State.EXPIRED) else set()
        assert TRANSITIONS[state] == late, "a hand-over that comes too late is given back"
    assert State.CONFIRMED not in TRANSITIONS[State.BOOKED], "it is claimed first"
    assert [state for state in State if State.USED in TRANSITIONS[state]] == [State.CONFIRMED]
