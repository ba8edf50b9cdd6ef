"""Streams between real servers and clients over mutual TLS, and every way they end."""

import pytest

from tests.support.rpc_catalogue import ALICE
from watari import errors, logs, rpc
from watari.v1 import directory_pb2


def test_a_stream_delivers_in_the_callers_name_and_then_its_error(federation, stub, catalogue):
    request = directory_pb2.WatchRecordsRequest(after_revision=3, cloud_id="broken")
    revisions = []
    with (
        pytest.raises(errors.OutOfRange) as caught,
        logs.context(migration_id="m-1"),
        rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses,
    ):
        revisions.extend(response.revision for response in responses)
    assert revisions == [1, 2, 3]
    assert (caught.value.reason, caught.value.hint) == ("REVISION_COMPACTED", "list again")
    assert catalogue.peers == [(federation.party(ALICE).spiffe_id, "m-1")] * 3


def test_leaving_a_stream_ends_it_at_the_server(stub, catalogue):
    request = directory_pb2.WatchRecordsRequest(after_revision=1, cloud_id="endless")
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        assert next(responses).revision == 1
    assert catalogue.ended.wait(30)


def test_a_stream_ends_at_its_deadline(stub):
    request = directory_pb2.WatchRecordsRequest(cloud_id="endless")
    with (
        pytest.raises(errors.DeadlineExceeded),
        rpc.stream(stub.WatchRecords, request, timeout_seconds=0.2) as responses,
    ):
        for _ in responses:
            pass


def test_a_stream_that_was_left_is_cancelled_for_who_still_reads_it(stub):
    request = directory_pb2.WatchRecordsRequest(after_revision=1, cloud_id="endless")
    with rpc.stream(stub.WatchRecords, request, timeout_seconds=30) as responses:
        next(responses)
    with pytest.raises(errors.Cancelled) as caught:
        for _ in responses:
            pass
    assert not caught.value.retryable
