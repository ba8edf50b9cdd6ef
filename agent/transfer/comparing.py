"""Answers offers: what of a disk is on this host already, and what the sender has to send.

```
PARENT digest  -> leftovers of an interrupted try, then an earlier copy   -> HAVE, or OPEN
LEAVES digests -> the same leaf by leaf, then blocks of other images      -> WANT with masks
```

Whatever is taken from here is verified against the sender's digest as it is copied: a seed may have
changed since anybody looked.
"""

from collections.abc import Iterator

from agent.disks import DiskReader
from agent.transfer import frames
from agent.transfer.frames import Answer, Verdict
from agent.transfer.geometry import (
    LEAF_BYTES,
    OFFERS_PENDING_MAX,
    PARENT_BYTES,
    leaf_bytes,
    whole_mask,
)
from agent.transfer.lookup import Lookup
from agent.transfer.merkle import DigestKeys
from agent.transfer.target import Record, Target, check_parent, zero_digest
from watari import errors, logs

_log = logs.get(__name__)


class Comparing:
    """Offers of one disk. For one thread."""

    def __init__(
        self,
        target: Target,
        keys: DigestKeys,
        earlier: DiskReader | None,
        lookup: Lookup | None,
    ) -> None:
        self.target = target
        self._keys = keys
        self._earlier = earlier
        self._lookup = lookup
        self._differing: dict[int, list[bytes]] = {}

    @property
    def same_offset(self) -> bool:
        """Whether parents can be compared."""
        return self.target.resumed or self._earlier is not None

    @property
    def any_offset(self) -> bool:
        """Whether blocks can be looked up."""
        return self._lookup is not None

    def parent(self, offer: frames.ParentOffer) -> tuple[Answer, list[Record]]:
        """HAVE when the parent is here just like that, else OPEN. Raises WatariError."""
        count = check_parent(self.target.size, offer.offset)
        left = self.target.recorded(offer.offset, count)
        found = self._left_parent(offer, left) if any(left) else None
        if found is None:
            found = self._earlier_parent(offer)
        verdict = Verdict.OPEN if found is None else Verdict.HAVE
        return Answer(offer.disk, offer.offset, verdict), found or []

    def leaves(self, offer: frames.LeavesOffer) -> tuple[Answer, list[Record]]:
        """WANT, with the blocks that are lacking. The others are in place. Raises WatariError."""
        size = self.target.size
        count = check_parent(size, offer.offset)
        if offer.zeros >> count or count - offer.zeros.bit_count() != len(offer.digests):
            raise frames.invalid(f"{len(offer.digests)} leaves are offered of {count}")
        left = self.target.recorded(offer.offset, count)
        earlier = self._differing.pop(offer.offset, [])
        masks = [0] * count
        records: list[Record] = []
        lacking: list[tuple[int, int]] = []
        for index, nth in _numbered(count, offer.zeros):
            at = offer.offset + index * LEAF_BYTES
            if nth is None:
                self.target.zeros(at, leaf_bytes(size, at))
                continue
            digest = offer.digests[nth]
            if left[index] == digest:
                self.target.adopt(at, (digest,))
            elif not (index < len(earlier) and earlier[index] == digest) or not self._copied(
                at, digest, records
            ):
                masks[index] = whole_mask(leaf_bytes(size, at))
                lacking.append((index, nth))
        if self._lookup is not None and offer.fingerprints:
            self._look_up(self._lookup, offer, lacking, masks, records)
        return Answer(offer.disk, offer.offset, Verdict.WANT, tuple(masks)), records

    def close(self) -> None:
        """Closes what was only read."""
        if self._earlier is not None:
            self._earlier.close()
        if self._lookup is not None:
            self._lookup.close()

    def _left_parent(
        self, offer: frames.ParentOffer, left: list[bytes | None]
    ) -> list[Record] | None:
        size = self.target.size
        digests = [
            digest or zero_digest(self._keys, size, offer.offset + index * LEAF_BYTES)
            for index, digest in enumerate(left)
        ]
        if self._keys.parent(b"".join(digests)) != offer.digest:
            return None
        self.target.adopt(offer.offset, digests)
        return []

    def _earlier_parent(self, offer: frames.ParentOffer) -> list[Record] | None:
        """Takes the parent from the earlier copy when it is the same; else remembers its leaves."""
        content = self._read_earlier(offer.offset, PARENT_BYTES)
        digests = self._keys.leaves(content)
        whole = len(content) == min(PARENT_BYTES, self.target.size - offer.offset)
        if whole and self._keys.parent(b"".join(digests)) == offer.digest:
            return self._take(offer.offset, content, digests)
        if len(self._differing) >= OFFERS_PENDING_MAX:
            del self._differing[next(iter(self._differing))]
        self._differing[offer.offset] = digests
        return None

    def _copied(self, offset: int, digest: bytes, records: list[Record]) -> bool:
        """Takes one leaf from the earlier copy, if it still is what it was."""
        content = self._read_earlier(offset, LEAF_BYTES)
        whole = len(content) == leaf_bytes(self.target.size, offset)
        if not whole or self._keys.leaf(content) != digest:
            return False
        taken = self._take(offset, content, [digest])
        records += taken or []
        return taken is not None

    def _take(self, offset: int, content: bytes, digests: list[bytes]) -> list[Record] | None:
        """Puts verified content in place, sharing its blocks where the file system can."""
        joined = b"".join(digests)
        if self._earlier is not None:
            there = self.target.shared(offset, len(content), self._earlier)
            if there is not None:
                if b"".join(self._keys.leaves(there)) == joined:
                    return self.target.adopt(offset, digests)
                self.target.clear(offset, len(content))
        return self.target.place(offset, content, joined)

    def _read_earlier(self, offset: int, length: int) -> bytes:
        """Content of the earlier copy within the disk, less where the copy is shorter. One that
        cannot be read is no copy.
        """
        if self._earlier is None:
            return b""
        length = min(length, self.target.size - offset, self._earlier.size - offset)
        try:
            return self._earlier.read(offset, length) if length > 0 else b""
        except errors.WatariError as error:
            _log.warning("an earlier copy is not used any more", problem=error.message)
            self._earlier.close()
            self._earlier = None
            return b""

    def _look_up(
        self,
        lookup: Lookup,
        offer: frames.LeavesOffer,
        lacking: list[tuple[int, int]],
        masks: list[int],
        records: list[Record],
    ) -> None:
        """Narrows the masks of leaves whose blocks are found in other images."""
        found = lookup.leaves([offer.fingerprints[nth] for _, nth in lacking])
        for (index, nth), blocks in zip(lacking, found, strict=True):
            at = offer.offset + index * LEAF_BYTES
            content, missing = blocks.assembled(leaf_bytes(self.target.size, at))
            if missing == masks[index]:
                continue
            if missing:
                if self.target.loose(at, content):
                    masks[index] = missing
            elif self._keys.leaf(content) == offer.digests[nth]:
                masks[index] = 0
                records += self.target.place(at, content, offer.digests[nth])


def _numbered(count: int, zeros: int) -> Iterator[tuple[int, int | None]]:
    """(leaf, its place among the leaves that are not zero, or None for a zero one)."""
    nth = 0
    for index in range(count):
        if zeros >> index & 1:
            yield index, None
        else:
            yield index, nth
            nth += 1
