"""The etcd client's watch, against answers as etcd cuts them; and its transactions."""

from collections.abc import Iterable, Iterator

import grpc
import pytest
from aetcd.rpc import rpc_pb2 as pb

from directory.etcd import Compacted, Watch, end_of
from directory.stores import etcd_txn
from watari import errors


class Broken(grpc.RpcError):
    """As gRPC raises it."""

    def details(self) -> str:
        return "connection lost"


class Scripted:
    """Answers with what it is given, then breaks."""

    def __init__(self, answers: Iterable[pb.WatchResponse]) -> None:
        self._answers = answers
        self.failures: list[int] = []

    def stream(self, _number: int, _requests: object) -> Iterator[pb.WatchResponse]:
        yield from self._answers
        raise Broken

    def failed(self, number: int) -> None:
        self.failures.append(number)


def answer(*revisions: int, fragment: bool = False, **fields: object) -> pb.WatchResponse:
    found = pb.WatchResponse(fragment=fragment, **fields)  # type: ignore[arg-type]
    for revision in revisions:
        found.events.add().kv.mod_revision = revision
    return found


def taken(etcd: Scripted) -> tuple[list[list[int]], Exception]:
    """The revisions of each answer that was passed on, and how it ended."""
    found: list[list[int]] = []
    try:
        watch = Watch(etcd, 1, pb.WatchRequest())  # type: ignore[arg-type]
        found.extend([event.kv.mod_revision for event in each.events] for each in watch)
    except Exception as error:  # noqa: BLE001 - returned
        return found, error
    raise AssertionError("it ended without an error")


def test_what_etcd_cut_is_put_together() -> None:
    etcd = Scripted(
        [
            answer(created=True),
            answer(5, 6, fragment=True),
            answer(6, fragment=True),
            answer(6, 7),
            answer(8),
        ]
    )
    found, error = taken(etcd)
    assert found == [[], [5, 6, 6, 6, 7], [8]]
    assert isinstance(error, errors.Unavailable)
    assert etcd.failures == [1], "the next call goes elsewhere"


def test_half_of_a_revision_is_never_passed_on() -> None:
    found, _ = taken(Scripted([answer(5), answer(6, fragment=True)]))
    assert found == [[5]]


def test_history_that_is_gone_is_told_from_a_watch_that_etcd_ended() -> None:
    _, error = taken(Scripted([answer(canceled=True, compact_revision=40)]))
    assert isinstance(error, Compacted)
    assert error.revision == 40
    _, error = taken(Scripted([answer(canceled=True, cancel_reason="no permission")]))
    assert isinstance(error, errors.Unavailable)
    assert "no permission" in error.message


def deepest(request: pb.TxnRequest) -> int:
    """Operations on the way from the outermost transaction to the innermost, as etcd counts."""
    inner = [each.request_txn for each in request.success if each.HasField("request_txn")]
    return max(len(request.compare), len(request.success)) + max(map(deepest, inner), default=0)


@pytest.mark.parametrize("count", [1, 100, 101, 1004, 2400])
def test_a_large_transaction_is_nested_within_what_etcd_takes(count: int) -> None:
    writes = [etcd_txn.put(f"key{number}".encode()) for number in range(count)]
    request = etcd_txn.when([etcd_txn.exists(b"a")] * 3, writes)
    assert deepest(request) <= 128
    flat = [
        each
        for outer in request.success
        for each in (outer.request_txn.success if outer.HasField("request_txn") else [outer])
    ]
    assert flat == writes


def test_a_prefix_ends_before_the_next_one() -> None:
    assert end_of(b"/watari/") == b"/watari0"
