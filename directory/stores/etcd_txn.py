"""Transactions for etcd, put together from conditions and writes. Pure."""

from collections.abc import Sequence
from typing import Any

from aetcd.rpc import rpc_pb2 as pb

GROUP_OPERATIONS = 100
"""Writes in one nested transaction. etcd counts the operations on the way from the outermost one to
the innermost, and takes 128 of them unless told otherwise (--max-txn-ops): with this, 2,400 writes
are one change.
"""


def unchanged(key: bytes, revision: int) -> pb.Compare:
    """The key was last written at that revision; 0: there is no such key."""
    return pb.Compare(
        key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision
    )


def exists(key: bytes) -> pb.Compare:
    """There is such a key."""
    return pb.Compare(key=key, target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0)


def put(key: bytes, value: bytes = b"") -> pb.RequestOp:
    """Writes a key."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def delete(key: bytes) -> pb.RequestOp:
    """Deletes a key."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def get(key: bytes) -> pb.RequestOp:
    """Reads a key."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def when(
    conditions: Sequence[pb.Compare],
    writes: Sequence[pb.RequestOp],
    otherwise: Sequence[pb.RequestOp] = (),
) -> pb.TxnRequest:
    """All of `writes` at one revision if all conditions hold, else the reads of `otherwise`."""
    if len(writes) > GROUP_OPERATIONS:
        writes = [
            pb.RequestOp(request_txn=pb.TxnRequest(success=writes[at : at + GROUP_OPERATIONS]))
            for at in range(0, len(writes), GROUP_OPERATIONS)
        ]
    return pb.TxnRequest(compare=conditions, success=writes, failure=otherwise)


def pair_of(response: Any) -> Any:
    """The one pair that a `get` of a transaction's answer found, or None."""
    pairs = response.response_range.kvs
    return pairs[0] if pairs else None
