"""Used or given back: one transaction decides, whoever else is at the same machine meanwhile."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manager import capacity, inventory, outbox, reservation_rows, vms
from manager.arriving import Arriving
from manager.owed import OwedCalls
from manager.relinquishing import Relinquishing
from manager.reservation import Reservation, State
from manager.store import micros
from tests.conftest import Federation
from tests.support.reservations import GIB, OSAKA, TOKYO, Rig, request
from watari import errors
from watari.v1 import agent_pb2, common_pb2, manager_pb2

UNFIT = errors.FailedPrecondition("VM_LIFECYCLE_FAILED", "no such CPU here")
AWAY = errors.Unavailable("PEER_UNAVAILABLE", "away")


class Host:
    """The one host, as far as arriving machines are concerned."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None
        self.failing: errors.WatariError | None = None
        self.activations = 0
        self.started: list[str] = []

    def activate(
        self, host_id: str, migration_id: str, epoch: int, *, prepare: bool
    ) -> agent_pb2.Guest:
        """What happens meanwhile happens, then it answers."""
        self.activations += 1
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.failing is not None:
            raise self.failing
        return agent_pb2.Guest(state=agent_pb2.GUEST_STATE_PAUSED)

    def start(self, host_id: str, vm_id: str, migration_id: str, epoch: int) -> agent_pb2.Guest:
        """It runs."""
        assert epoch == 5, "one more than at the source"
        self.started.append(vm_id)
        return agent_pb2.Guest(state=agent_pb2.GUEST_STATE_RUNNING)


class Arrival(Rig):
    """A reservation of osaka that was handed over, and is to run."""

    def __init__(self, folder: Path, federation: Federation) -> None:
        own = federation.party(OSAKA)
        super().__init__(folder, own)
        self.host = Host()
        owed = OwedCalls("osaka", self.store, self.host, None)  # type: ignore[arg-type]
        self.arriving = Arriving(
            self.store,
            self.clock,
            own,
            "osaka",
            self.host,  # type: ignore[arg-type]
            owed,
            self.settings.reservations,
        )
        self.giver = Relinquishing(self.clock, own, "osaka")
        self.request = request(source_epoch=4)
        self.reservations.reserve(self.request, TOKYO)
        self.reservations.confirm(self.request.reservation_id, TOKYO)
        handed = common_pb2.HandOver(
            run=True,
            reservation_id=self.request.reservation_id,
            migration_id=self.request.migration_id,
        )
        document = common_pb2.SignedDocument(payload=handed.SerializeToString())
        with self.store.write() as connection:
            now = micros(self.clock.now())
            assert reservation_rows.record_hand_over(connection, self.row(), document, now)

    def row(self) -> Reservation:
        """The reservation as it is on disk."""
        with self.store.read() as connection:
            found = reservation_rows.get(connection, self.request.reservation_id)
        assert found is not None
        return found

    def finish(self) -> manager_pb2.HandOverVmResponse:
        """Go on with it."""
        return self.arriving.finish(self.request.reservation_id)

    def give_back(self) -> None:
        """Somebody else gives it back."""
        with self.store.write() as connection:
            assert self.giver.give_back(connection, self.row(), AWAY) is not None

    def take(self) -> None:
        """Somebody else, such as an earlier process, takes it over."""
        with self.store.write() as connection:
            assert reservation_rows.move(connection, self.row(), State.USED)

    def owner(self) -> tuple[str, int] | None:
        """Who owns the machine, as far as osaka knows."""
        with self.store.read() as connection:
            vm = vms.get(connection, self.request.vm_id)
        return None if vm is None else (vm.cloud_id, vm.epoch)

    def owes(self) -> list[str]:
        """The calls that are owed."""
        with self.store.read() as connection:
            calls = outbox.due(connection, micros(self.clock.now()) + 10**12, 100)
        return [call.kind for call in calls]


@pytest.fixture
def arrival(federation: Federation, tmp_path: Path) -> Iterator[Arrival]:
    made = Arrival(tmp_path, federation)
    yield made
    made.store.close()


def test_a_machine_is_owned_before_it_is_started_and_owes_nothing_then(arrival: Arrival) -> None:
    expected = common_pb2.Ownership(vm_id=arrival.request.vm_id, cloud_id="osaka", epoch=5)
    assert arrival.finish().accepted == expected
    assert arrival.owner() == ("osaka", 5)
    assert arrival.host.started == [arrival.request.vm_id]
    assert arrival.owes() == []
    assert arrival.finish().accepted == expected
    assert arrival.host.activations == len(arrival.host.started) == 1


def test_what_a_machine_wrote_is_not_free_again_before_its_host_is_looked_at(
    arrival: Arrival,
) -> None:
    def free() -> int:
        with arrival.store.read() as connection:
            (host,) = capacity.views(connection, arrival.settings.agents)
        return host.free[inventory.STORAGE]

    before = free()
    assert before < 1000 * GIB, "nothing is to be written"
    arrival.finish()
    assert free() == before


def test_a_machine_that_was_given_back_meanwhile_is_not_owned_though_it_became_ready(
    arrival: Arrival,
) -> None:
    arrival.host.meanwhile = arrival.give_back
    first = arrival.finish()
    assert first.HasField("relinquished")
    assert arrival.owner() == ("tokyo", 6)
    assert arrival.host.started == []
    assert arrival.owes() == ["discard"]
    assert arrival.held() == 0
    assert arrival.finish() == first, "the answer is the same for ever"
    assert arrival.host.activations == 1, "and nothing is activated any more"


def test_a_machine_that_was_taken_over_meanwhile_is_never_given_back(arrival: Arrival) -> None:
    arrival.host.meanwhile, arrival.host.failing = arrival.take, UNFIT
    assert arrival.finish().HasField("accepted")
    assert arrival.row().state is State.USED
    assert arrival.row().relinquishment is None


def test_a_host_that_is_away_is_waited_for_up_to_the_limit(arrival: Arrival) -> None:
    arrival.host.failing = AWAY
    arrival.clock.advance(arrival.settings.reservations.prepare_seconds_max - 1)
    with pytest.raises(errors.Unavailable):
        arrival.finish()
    assert arrival.row().state is State.CONFIRMED
    arrival.clock.advance(1)
    assert arrival.finish().HasField("relinquished")


def test_two_calls_do_not_make_the_same_machine_ready_at_once(arrival: Arrival) -> None:
    refused = []

    def again() -> None:
        with pytest.raises(errors.Unavailable) as caught:
            arrival.finish()
        refused.append(caught.value.reason)

    arrival.host.meanwhile = again
    assert arrival.finish().HasField("accepted")
    assert refused == ["SERVER_UNAVAILABLE"]
    assert arrival.host.activations == 1


def test_a_machine_that_has_moved_on_is_not_started_late(arrival: Arrival) -> None:
    arrival.take()
    arrival.own(arrival.request.vm_id, "kyoto", 6)
    call = outbox.OwedCall(
        outbox.Kind.START, arrival.request.migration_id, "h1", arrival.request.vm_id
    )
    with arrival.store.write() as connection:
        outbox.owe(connection, call, 0)
    assert arrival.finish().HasField("accepted")
    assert arrival.host.started == []
    assert arrival.owes() == []
