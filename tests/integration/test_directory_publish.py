"""Publishing to the directory over mutual TLS: who may, under which lease, and how much."""

import pytest

from tests.support.directory_samples import capacity, cloud, offer
from tests.support.directory_server import TOKYO, Client, Running, Start, eventually, with_labels
from watari import errors, rpc
from watari.v1 import directory_pb2

OSAKA = "spiffe://osaka.example/manager/main"
USER = "spiffe://osaka.example/user/alice"
BROKER = "spiffe://hub.example/broker/main"


def test_a_published_record_is_read_by_any_party(running: Running, tokyo: Client) -> None:
    revision = tokyo.publish(tokyo.lease("tokyo"), cloud(), capacity())
    for spiffe_id in (TOKYO, OSAKA, USER, BROKER):
        stub = running.client(spiffe_id).stub
        answer = rpc.call(stub.GetRecord, directory_pb2.GetRecordRequest(key=cloud().key))
        assert answer.record.cloud == cloud().cloud
        assert answer.revision == answer.record.revision == revision


def test_a_record_that_is_not_there_is_not_found(tokyo: Client) -> None:
    with pytest.raises(errors.NotFound) as caught:
        rpc.call(tokyo.stub.GetRecord, directory_pb2.GetRecordRequest(key=cloud().key))
    assert caught.value.reason == "RECORD_NOT_FOUND"
    assert caught.value.metadata["record"] == "CLOUD tokyo/main"


def test_only_managers_write(running: Running) -> None:
    for spiffe_id in (USER, BROKER):
        with pytest.raises(errors.Denied, match="NOT_ALLOWED"):
            running.client(spiffe_id).lease("tokyo")


def test_a_manager_cannot_write_another_providers_cloud(running: Running, tokyo: Client) -> None:
    lease, osaka = tokyo.lease("tokyo"), running.client(OSAKA)
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.lease("tokyo")
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.publish(lease, capacity())
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        osaka.publish(osaka.lease("osaka"), capacity("tokyo"))
    with pytest.raises(errors.Denied, match="NOT_RECORD_OWNER"):
        rpc.call(osaka.stub.RevokeLease, directory_pb2.RevokeLeaseRequest(lease_id=lease))


def test_a_cloud_record_must_name_its_publisher_as_provider(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    with pytest.raises(errors.InvalidArgument) as caught:
        tokyo.publish(lease, cloud("tokyo", "osaka.example"))
    assert caught.value.metadata["field"] == "puts[0].record.cloud.provider_domain"


def test_stale_records_are_marked_and_can_be_left_out(running: Running, tokyo: Client) -> None:
    tokyo.publish(tokyo.lease("tokyo", ttl_seconds=10), cloud())
    running.clock.advance(11)
    eventually(lambda: len(tokyo.query("stale = true").records) == 1, "never went stale")
    request = directory_pb2.QueryRecordsRequest(fresh_only=True)
    assert len(rpc.call(tokyo.stub.QueryRecords, request).records) == 0
    tokyo.publish(tokyo.lease("tokyo"), cloud())
    assert len(rpc.call(tokyo.stub.QueryRecords, request).records) == 1


def test_a_lease_that_is_renewed_keeps_its_records_fresh(running: Running, tokyo: Client) -> None:
    lease = tokyo.lease("tokyo", ttl_seconds=10)
    revision = tokyo.publish(lease, cloud())
    for _ in range(3):
        running.clock.advance(8)
        request = directory_pb2.RenewLeaseRequest(lease_id=lease)
        renewed = rpc.call(tokyo.stub.RenewLease, request).lease
        assert (renewed.cloud_id, renewed.ttl_seconds) == ("tokyo", 10)
    assert tokyo.query().revision == revision
    rpc.call(tokyo.stub.RevokeLease, directory_pb2.RevokeLeaseRequest(lease_id=lease))
    assert len(tokyo.query().records) == 0


@pytest.mark.parametrize("ttl_seconds", [0, 4, 3601])
def test_a_ttl_out_of_bounds_is_refused(tokyo: Client, ttl_seconds: int) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        tokyo.lease("tokyo", ttl_seconds)
    assert caught.value.metadata["field"] == "ttl_seconds"


def test_a_publish_with_too_many_records_is_refused(tokyo: Client) -> None:
    lease = tokyo.lease("tokyo")
    tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(1000)))
    with pytest.raises(errors.Exhausted, match="PUBLISH_TOO_LARGE"):
        tokyo.publish(lease, *(capacity(name=f"c{at}") for at in range(1001)))


def test_a_publish_with_too_many_bytes_is_refused(tokyo: Client) -> None:
    large = {f"label-{at}": "x" * 128 for at in range(64)}
    found = [with_labels(offer(name=f"o{at}"), large) for at in range(130)]
    with pytest.raises(errors.Exhausted, match="PUBLISH_TOO_LARGE"):
        tokyo.publish(tokyo.lease("tokyo"), *found)


def test_a_message_beyond_the_transports_limit_is_refused_and_the_server_lives(
    tokyo: Client,
) -> None:
    lease = tokyo.lease("tokyo")
    vast = offer()
    vast.offer.region = "x" * (rpc.MESSAGE_BYTES_MAX + 1)
    with pytest.raises(errors.Exhausted):
        tokyo.publish(lease, vast)
    assert tokyo.publish(lease, offer()) > 0


def test_a_lease_that_publishes_too_often_is_told_so_and_may_go_on_later(start: Start) -> None:
    running = start(publishes_per_second_max=0.5)
    tokyo = running.client(TOKYO)
    lease, other = tokyo.lease("tokyo", ttl_seconds=3600), tokyo.lease("tokyo")
    for vcpus in range(5):
        tokyo.publish(lease, capacity(vcpus=vcpus))
    with pytest.raises(errors.Exhausted, match=r"more than 0\.5 publishes a second") as caught:
        tokyo.publish(lease, capacity())
    assert (caught.value.reason, caught.value.retryable) == ("QUOTA_EXCEEDED", True)
    tokyo.publish(other, capacity(name="other"))
    running.clock.advance(2)
    tokyo.publish(lease, capacity())
    with pytest.raises(errors.Exhausted):
        tokyo.publish(lease, capacity())


def test_nobody_spends_another_providers_publishes(start: Start) -> None:
    running = start(publishes_per_second_max=0.1)
    tokyo, osaka = running.client(TOKYO), running.client(OSAKA)
    lease = tokyo.lease("tokyo", ttl_seconds=3600)
    for _ in range(3):
        with pytest.raises((errors.Denied, errors.Exhausted)):
            osaka.publish(lease, capacity())
    tokyo.publish(lease, capacity())
