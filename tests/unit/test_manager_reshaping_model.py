"""Reshapes on a real database against a model that knows no names: who takes how many units of what
the host has, and of what the pool has.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, event
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from manager import capacity, reservation_rows, shape_rows, vms
from manager.drifts import Drifts
from manager.inventory import POOL, HostView
from manager.reservation import State
from manager.reshaping import Reshaping
from manager.settings.hosts import ClassSettings
from manager.settings.store import StoreSettings
from manager.shapes import FIXED
from tests.conftest import Federation
from tests.support import databases
from tests.support.reservations import OSAKA, TOKYO, Rig, request
from watari import errors
from watari.identity import Identity, SpiffeId
from watari.v1 import common_pb2, manager_pb2

OPERATOR = SpiffeId.parse("spiffe://osaka.example/operator/main")
HOST = "h1"
GPU, ADDRESS = "gpu", "public_ipv4"
UNITS = {HOST: 8, POOL: 6}
"""Of each class at first."""

NAMES = ["gpu", "gpu:a", "gpu:b", "gpu:c", "public_ipv4", "public_ipv4:x", "public_ipv4:y"]
REFUSALS = {"CLASS_NOT_FOUND", "CLASS_EXISTS", "RESHAPE_OVERCOMMITS", "INVALID_FIELD"}

sometimes = st.sampled_from([False, False, False, True])
places, names = st.sampled_from([HOST, POOL]), st.sampled_from(NAMES)


@dataclass
class Consumer:
    """What the model knows of a machine: as a reservation, or as one that is here."""

    asked: manager_pb2.ReserveRequest
    kind: str
    taken: Counter[str]
    """Units of the host and of the pool, whatever they are called."""


class Model(RuleBasedStateMachine):
    """Whatever is renamed and split: nobody takes more or less than before, nor of another place;
    nothing is taken beyond what there is of a class; and what is written down of machines and
    reservations agrees with what they take.
    """

    own: Identity
    settings: "staticmethod[[Path], StoreSettings]"
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        folder = Path(self.folder.name)
        self.rig = Rig(
            folder,
            self.own,
            type(self).settings(folder),
            pool={ADDRESS: ClassSettings(total=UNITS[POOL])},
            inventory={GPU: ClassSettings(total=UNITS[HOST])},
        )
        self.reshaping = Reshaping(self.rig.settings, self.rig.store, self.rig.clock)
        nobody = SimpleNamespace(host_ids=[])
        self.drifts = Drifts("osaka", self.rig.store, self.rig.clock, nobody, None)  # type: ignore[arg-type]
        self.made: dict[str, Consumer] = {}

    def teardown(self) -> None:
        self.rig.store.close()
        self.folder.cleanup()

    @rule(target=keys, data=st.data())
    def reserve(self, data: st.DataObject) -> str:
        asked = self.request(data)
        return self.admit(asked, capacity.RESERVATION)

    @rule(target=keys, data=st.data())
    def book(self, data: st.DataObject) -> str:
        asked = self.request(data)
        starts = self.rig.clock.now() + timedelta(hours=1)
        asked.starts_at.FromDatetime(starts)
        asked.ends_at.FromDatetime(starts + timedelta(hours=1))
        return self.admit(asked, capacity.BOOKING)

    @rule(key=keys)
    def reserve_the_same_again(self, key: str) -> None:
        if key in self.made:
            self.rig.reservations.reserve(self.made[key].asked, TOKYO)

    @rule(key=keys)
    def arrive(self, key: str) -> None:
        """As the manager makes a machine of what was handed over."""
        consumer = self.made.get(key)
        if consumer is None or consumer.kind != capacity.RESERVATION:
            return
        self.rig.reservations.confirm(key, TOKYO)
        with self.rig.store.write() as connection:
            row = reservation_rows.get(connection, key)
            assert row is not None
            assert reservation_rows.move(connection, row, State.USED)
            capacity.give_back(connection, capacity.RESERVATION, key)
            vms.put(connection, machine(row.vm_id, row.needs), counted=True)
        consumer.kind = capacity.VM

    @rule(key=keys, tells=st.booleans())
    def the_host_is_looked_at(self, key: str, *, tells: bool) -> None:
        """It tells of CPUs; of what else there is nothing, or what it always said."""
        consumer = self.made.get(key)
        if consumer is None or consumer.kind != capacity.VM:
            return
        told = common_pb2.Resources()
        told.CopyFrom(consumer.asked.resources)
        if not tells:
            told.ClearField("other")
        with self.rig.store.write() as connection:
            row = vms.get(connection, consumer.asked.vm_id)
            assert row is not None
            seen = vms.seen(told, row.body, shape_rows.of(connection, HOST))
            vms.put(connection, replace(row, body=manager_pb2.Vm(resources=seen)), counted=True)

    @rule(key=keys)
    def end(self, key: str) -> None:
        consumer = self.made.pop(key, None)
        if consumer is None:
            return
        if consumer.kind != capacity.VM:
            self.rig.reservations.release(key, TOKYO)
            return
        with self.rig.store.write() as connection:
            vm_id = consumer.asked.vm_id
            assert vms.give_away(connection, vm_id, from_cloud="osaka", to_cloud="tokyo", epoch=2)
            vms.vacate(connection, vm_id, "osaka")

    @rule(data=st.data(), new=names, dry=sometimes)
    def rename(self, data: st.DataObject, new: str, *, dry: bool) -> None:
        old = data.draw(st.sampled_from([*self.known(HOST), *self.known(POOL), GPU]))
        if old != new:
            self.reshape(
                manager_pb2.ReshapeInventoryRequest(resource_class=old, rename_to=new, dry_run=dry)
            )

    @rule(
        data=st.data(),
        where=places,
        units=st.dictionaries(names, st.sampled_from([3, 2, 1, 5, 0]), min_size=1, max_size=2),
        dry=sometimes,
    )
    def split(self, data: st.DataObject, where: str, units: dict[str, int], *, dry: bool) -> None:
        name = data.draw(st.sampled_from(self.known(where)))
        units.pop(name, None)
        targets = st.sampled_from([name, *(each for each, amount in units.items() if amount)])
        takers = self.takers(where, name)
        moves = {}
        if takers:
            moves = data.draw(st.dictionaries(st.sampled_from(takers), targets, min_size=1))
        split = manager_pb2.ClassSplit(host_id=where, units=units, moves=moves)
        self.reshape(
            manager_pb2.ReshapeInventoryRequest(resource_class=name, split=split, dry_run=dry)
        )

    @invariant()
    def everybody_takes_what_it_took_and_where(self) -> None:
        with self.rig.store.read() as connection:
            found = {
                consumer: self.by_place(taken)
                for consumer, taken in capacity.by_consumer(connection).items()
            }
            assert capacity.miscounted(connection) == {}
        expected = {
            (each.kind, self.consumer_id(key)): each.taken for key, each in self.made.items()
        }
        assert found == expected

    @invariant()
    def nothing_is_taken_beyond_what_there_is_nor_is_there_more(self) -> None:
        for where, view in self.views().items():
            total = {name: each for name, each in view.total.items() if name not in FIXED}
            assert sum(total.values()) == UNITS[where]
            for name in {*total, *view.allocated, *view.held, *view.booked} - FIXED:
                each = (view.allocated, view.held, view.booked)
                assert sum(part.get(name, 0) for part in each) <= total.get(name, 0)

    @invariant()
    def what_is_written_down_agrees(self) -> None:
        assert self.drifts.look(OPERATOR, repair=False) == []

    def admit(self, asked: manager_pb2.ReserveRequest, kind: str) -> str:
        with contextlib.suppress(errors.Exhausted):
            self.rig.reservations.reserve(asked, TOKYO)
            with self.rig.store.read() as connection:
                taken = capacity.by_consumer(connection)[kind, asked.reservation_id]
            consumer = Consumer(asked, kind, self.by_place(taken))
            # Whatever they are called: as many units as were asked for.
            assert consumer.taken.total() == sum(asked.resources.other.values())
            self.made[asked.reservation_id] = consumer
        return asked.reservation_id

    def reshape(self, asked: manager_pb2.ReshapeInventoryRequest) -> None:
        """Done, or refused, or only tried: then nothing has changed."""
        before = self.snapshot()
        refused, answer = "", manager_pb2.ReshapeInventoryResponse()
        try:
            answer = self.reshaping.reshape(asked, OPERATOR)
        except errors.WatariError as error:
            refused = error.reason
        assert refused in {"", *REFUSALS}
        event(f"{asked.WhichOneof('change')}: {refused or answer.changed}, {answer.consumers > 0}")
        if asked.dry_run or not answer.changed:
            assert self.snapshot() == before
        else:
            # All of it again is nothing.
            assert not self.reshaping.reshape(asked, OPERATOR).changed

    def snapshot(self) -> tuple[object, ...]:
        with self.rig.store.read() as connection:
            return (
                capacity.by_consumer(connection),
                shape_rows.every(connection),
                shape_rows.generations(connection),
            )

    def views(self) -> dict[str, HostView]:
        with self.rig.store.read() as connection:
            (host,) = capacity.views(connection, self.rig.settings.agents)
            pool = capacity.pool(connection, self.rig.settings.pool)
        return {HOST: host, POOL: pool}

    def consumer_id(self, key: str) -> str:
        consumer = self.made[key]
        return consumer.asked.vm_id if consumer.kind == capacity.VM else key

    @staticmethod
    def by_place(taken: dict[str, tuple[str, int]]) -> Counter[str]:
        """Units of the host and of the pool, of further classes."""
        found: Counter[str] = Counter()
        for name, (where, amount) in taken.items():
            if name not in FIXED:
                found[where] += amount
        return found

    def takers(self, where: str, name: str) -> list[str]:
        """Ids of who takes something of a class there, or of what was split off it."""
        with self.rig.store.read() as connection:
            family = shape_rows.every(connection)[where].family(name)
            taken = capacity.by_consumer(connection)
        return sorted(
            key
            for (_, key), amounts in taken.items()
            if any(each in family and at == where for each, (at, _) in amounts.items())
        )

    def known(self, where: str) -> list[str]:
        """The classes of a place by their present names."""
        return sorted(self.views()[where].total.keys() - FIXED)

    def request(self, data: st.DataObject) -> manager_pb2.ReserveRequest:
        """For a machine with almost no CPU: further classes are what is short, by their present
        names or by those that they once had.
        """
        with self.rig.store.read() as connection:
            earlier = sorted(shape_rows.renamed(connection))
        named = st.sampled_from([*self.known(HOST), *self.known(POOL), *earlier])
        amounts = data.draw(st.dictionaries(named, st.integers(1, 3), min_size=1, max_size=2))
        asked = request(ttl_seconds=3600)
        asked.resources.CopyFrom(common_pb2.Resources(vcpus=1, other=amounts))
        asked.ClearField("disks")
        return asked


def machine(vm_id: str, resources: common_pb2.Resources) -> vms.VmRow:
    """One of this cloud."""
    return vms.VmRow(
        vm_id=vm_id,
        name="web-1",
        cloud_id="osaka",
        epoch=1,
        host_id=HOST,
        tenant_domain="tokyo.example",
        tenant="acme",
        migration_id=None,
        body=manager_pb2.Vm(resources=resources),
        seen_at=0,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def model(request: pytest.FixtureRequest, federation: Federation) -> type[Model]:
    """The model on a kind of database; each example has one of its own."""
    Model.own = federation.party(OSAKA)
    if request.param == "sqlite":
        Model.settings = staticmethod(lambda folder: databases.sqlite(folder / "db.sqlite"))
    else:
        server = request.getfixturevalue("postgresql_server")
        Model.settings = staticmethod(lambda _folder: server.settings(made=True))
    return Model


def test_reshapes_behave_like_their_model(model: type[Model], request) -> None:
    examples = 12 if "sqlite" in request.node.name else 4
    model.TestCase.settings = hypothesis_settings(
        max_examples=examples,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    model.TestCase("runTest").runTest()
