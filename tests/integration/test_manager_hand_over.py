"""What a destination refuses: hand-overs that the source may not make."""

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import OSAKA, Federation
from tests.support.clouds import Cloud, eventually, two_clouds
from tests.support.scripted_agent import Arrival, ScriptedAgent
from watari import errors, identity
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2, manager_pb2

SOURCE = "spiffe://tokyo.example/manager/main"
HUB = "spiffe://hub.example/manager/main"


class Source:
    """A source's manager, spoken for by the test."""

    def __init__(self, federation: Federation, osaka: Cloud) -> None:
        self.federation = federation
        self.osaka = osaka
        self.stub = osaka.reservations(SOURCE)
        self.request = manager_pb2.ReserveRequest(
            reservation_id=str(uuid.uuid4()),
            migration_id=str(uuid.uuid4()),
            from_cloud="tokyo",
            vm_id=str(uuid.uuid4()),
            vm_name="web-1",
            tenant="acme",
            source_epoch=1,
            resources=common_pb2.Resources(vcpus=1, disk_bytes=10),
            disks=[common_pb2.DiskSpec(disk_id="vda", size_bytes=10)],
            source_agent="spiffe://tokyo.example/agent/host1",
            ttl_seconds=60,
        )
        self.receipt_signer = "spiffe://osaka.example/agent/host1"
        self.signer = SOURCE
        self.receipt = common_pb2.Receipt(
            migration_id=self.request.migration_id,
            vm_id=self.request.vm_id,
            destination_epoch=2,
            root=hashlib.sha256(b"root").digest(),
        )
        self.document = common_pb2.HandOver(
            migration_id=self.request.migration_id,
            reservation_id=self.request.reservation_id,
            ownership=common_pb2.Ownership(vm_id=self.request.vm_id, cloud_id="osaka", epoch=2),
        )
        self.document.committed_at.FromDatetime(federation.clock.now())

    def reserve(self) -> None:
        """Reserve, and let everything arrive."""
        client.call(self.stub.Reserve, self.request)
        guest = agent_pb2.Guest(vm_id=self.request.vm_id, name="web-1")
        guest.resources.CopyFrom(self.request.resources)
        self.osaka.agent.arrivals[self.request.migration_id] = Arrival(guest, complete=True)

    def confirm(self) -> None:
        """Confirm the reservation."""
        request = manager_pb2.ConfirmReservationRequest(reservation_id=self.request.reservation_id)
        client.call(self.stub.ConfirmReservation, request)

    def release(self) -> None:
        """Release the reservation."""
        request = manager_pb2.ReleaseReservationRequest(reservation_id=self.request.reservation_id)
        client.call(self.stub.ReleaseReservation, request)

    def signed(self) -> common_pb2.SignedDocument:
        """The hand-over as it goes out."""
        receipt_signer = self.federation.party(self.receipt_signer)
        self.document.receipt.CopyFrom(
            identity.sign(receipt_signer, self.receipt.SerializeToString(), "receipt")
        )
        signer = self.federation.party(self.signer)
        return identity.sign(signer, self.document.SerializeToString(), "hand-over")

    def hand_over(self, document: common_pb2.SignedDocument | None = None) -> common_pb2.Ownership:
        """Hand the machine over."""
        request = manager_pb2.HandOverVmRequest(hand_over=document or self.signed())
        return client.call(self.stub.HandOverVm, request).accepted

    def given_back(
        self, document: common_pb2.SignedDocument | None = None
    ) -> common_pb2.Relinquishment:
        """Hand the machine over; the relinquishment that is the answer, its signature checked."""
        request = manager_pb2.HandOverVmRequest(hand_over=document or self.signed())
        answer = client.call(self.stub.HandOverVm, request)
        assert answer.WhichOneof("outcome") == "relinquished"
        payload, signer = identity.verify(
            self.federation.party(SOURCE).trust,
            answer.relinquished,
            "relinquish",
            now=self.federation.clock.now(),
        )
        assert str(signer) == self.osaka.manager_id
        return common_pb2.Relinquishment.FromString(payload)

    def refused(self) -> str:
        """The reason why a hand-over is refused; nothing is activated by it."""
        with pytest.raises(errors.WatariError) as caught:
            self.hand_over()
        assert not self.osaka.agent.activated
        assert self.request.vm_id not in self.osaka.vms()
        return caught.value.reason


@pytest.fixture
def source(federation: Federation, tmp_path: Path) -> Iterator[Source]:
    with two_clouds(federation, tmp_path) as (_, osaka):
        osaka.start()
        yield Source(federation, osaka)


def test_a_confirmed_reservation_takes_the_hand_over_and_repeats_its_answer(
    source: Source,
) -> None:
    source.reserve()
    source.confirm()
    document = source.signed()
    first = source.hand_over(document)
    assert first == source.document.ownership
    assert source.hand_over(document) == first
    source.confirm()  # A late repetition changes nothing.
    assert source.osaka.vms()[source.request.vm_id].epoch == 2
    assert len(source.osaka.usage()) == 1


def test_a_pending_reservation_takes_none(source: Source) -> None:
    source.reserve()
    assert source.refused() == "RESERVATION_STATE"


def test_a_released_reservation_gives_the_machine_back_once_and_for_all(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.release()
    document = source.signed()
    first = source.given_back(document)
    assert first.ownership == common_pb2.Ownership(
        vm_id=source.request.vm_id, cloud_id="tokyo", epoch=3
    )
    assert first.migration_id == source.request.migration_id
    assert first.cause.reason == "RESERVATION_STATE"
    assert source.given_back(document) == first
    (row,) = source.osaka.list_reservations()
    assert source.osaka.reservation_state(row) == "RELINQUISHED"
    assert not source.osaka.agent.activated
    assert source.request.vm_id not in source.osaka.vms()
    actions = [each.action for each in source.osaka.audit()]
    assert actions.count("reservation.relinquished") == 1


def test_a_released_reservation_believes_no_wrong_hand_over(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.release()
    source.document.ownership.epoch = 9
    assert source.refused() == "EPOCH_MISMATCH"


def test_a_late_hand_over_of_a_machine_that_is_here_by_now_is_not_given_back(
    source: Source,
) -> None:
    source.reserve()
    source.confirm()
    source.release()
    late = source.signed()
    other = Source(source.federation, source.osaka)
    other.request.vm_id = other.receipt.vm_id = source.request.vm_id
    other.document.ownership.vm_id = source.request.vm_id
    other.reserve()
    other.confirm()
    other.hand_over()
    with pytest.raises(errors.FailedPrecondition) as caught:
        source.hand_over(late)
    assert caught.value.reason == "EPOCH_MISMATCH"
    assert source.osaka.vms()[source.request.vm_id].epoch == 2


def test_after_the_hand_over_the_reservation_cannot_be_released(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.osaka.agent.stop()
    with pytest.raises(errors.Unavailable):
        source.hand_over()
    with pytest.raises(errors.FailedPrecondition) as caught:
        source.release()
    assert caught.value.reason == "MIGRATION_COMMITTED"
    source.osaka.agent.start()
    eventually(lambda: source.request.vm_id in source.osaka.vms(), "the janitor finishes it")


def test_an_unknown_reservation_takes_none(source: Source) -> None:
    assert source.refused() == "RESERVATION_NOT_FOUND"


def test_only_who_reserved_may_hand_over(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.stub = source.osaka.reservations(HUB)
    assert source.refused() == "RESERVATION_NOT_FOUND"


def test_a_document_that_another_manager_signed_is_refused(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.signer = HUB
    assert source.refused() == "SIGNATURE_INVALID"


def test_a_receipt_of_another_agent_is_refused(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.receipt_signer = "spiffe://tokyo.example/agent/host1"
    assert source.refused() == "SIGNATURE_INVALID"


@pytest.mark.parametrize("epoch", [1, 3])
def test_another_epoch_than_the_next_is_refused(source: Source, epoch: int) -> None:
    source.reserve()
    source.confirm()
    source.document.ownership.epoch = epoch
    assert source.refused() == "EPOCH_MISMATCH"


def test_a_receipt_for_another_epoch_is_refused(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.receipt.destination_epoch = 3
    assert source.refused() == "EPOCH_MISMATCH"


@pytest.mark.parametrize("part", ["machine", "migration", "cloud", "receipt"])
def test_a_document_about_something_else_is_refused(source: Source, part: str) -> None:
    source.reserve()
    source.confirm()
    other = str(uuid.uuid4())
    match part:
        case "machine":
            source.document.ownership.vm_id = other
        case "migration":
            source.document.migration_id = other
        case "cloud":
            source.document.ownership.cloud_id = "kyoto"
        case "receipt":
            source.receipt.vm_id = other
    assert source.refused() == "INVALID_FIELD"


def test_a_second_and_different_hand_over_is_refused(source: Source) -> None:
    source.reserve()
    source.confirm()
    source.osaka.agent.stop()
    with pytest.raises(errors.Unavailable):
        source.hand_over()
    source.document.committed_at.seconds -= 1
    with pytest.raises(errors.FailedPrecondition) as caught:
        source.hand_over()
    assert caught.value.reason == "RESERVATION_STATE"


def test_an_arrival_without_a_reservation_is_discarded(source: Source) -> None:
    stray = str(uuid.uuid4())
    agent: ScriptedAgent = source.osaka.agent
    agent.arrivals[stray] = Arrival(agent_pb2.Guest(vm_id=str(uuid.uuid4())))
    source.reserve()
    eventually(lambda: stray not in agent.arrivals, "it is discarded")
    assert source.request.migration_id in agent.arrivals


def test_users_of_other_providers_may_not_reserve(source: Source) -> None:
    for caller in (f"spiffe://{OSAKA}/operator/main", "spiffe://tokyo.example/agent/host1"):
        stub = source.osaka.reservations(caller)
        with pytest.raises(errors.Denied) as caught:
            client.call(stub.Reserve, source.request)
        assert caught.value.reason == "NOT_ALLOWED"
