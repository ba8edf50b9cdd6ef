"""Parents as a sender's board has them, and the masks of all that is in them."""

from agent.transfer.board import Offered
from agent.transfer.geometry import LEAF_BYTES, PARENT_BYTES, leaf_bytes, leaf_count, whole_mask
from agent.transfer.plan import Hole, Parent

DIGEST = b"d" * 32


def parent(number: int = 0, length: int = PARENT_BYTES, disk: int = 0) -> Parent:
    """A parent that has to be read from end to end."""
    offset = number * PARENT_BYTES
    return Parent(disk, offset, length, ((offset, offset + length),))


def offered(unit: Parent | Hole, *zeros: int) -> Offered:
    """What a worker finds in a parent in which these leaves are zero."""
    leaves = range(leaf_count(unit.length))
    digests = tuple(None if index in zeros else DIGEST for index in leaves)
    return Offered(unit.disk, unit.offset, unit.length, digests)


def whole(of: Offered) -> list[int]:
    """The masks that mean everything there is in a parent."""
    return [
        0 if digest is None else whole_mask(leaf_bytes(of.length, index * LEAF_BYTES))
        for index, digest in enumerate(of.digests)
    ]
