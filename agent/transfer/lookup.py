"""Leaves put together from blocks that this host has somewhere. A find is a hint until the leaf's
digest has been checked.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.seeds.fingerprints import ZERO_BLOCK, Fingerprints, unpack
from agent.seeds.sources import SeedSources
from agent.transfer.geometry import BLOCK_BYTES, BLOCKS_PER_LEAF


@dataclass(frozen=True)
class Blocks:
    """The 16 blocks of a leaf, None where one was not found."""

    blocks: tuple[bytes | None, ...]

    def assembled(self, length: int) -> tuple[bytes, int]:
        """(content of a leaf of `length` bytes with zeros where a block lacks, mask of those)."""
        content, missing = bytearray(length), 0
        for index in range(-(-length // BLOCK_BYTES)):
            start, end = index * BLOCK_BYTES, min((index + 1) * BLOCK_BYTES, length)
            block = self.blocks[index]
            if block is None or len(block) != end - start:
                missing |= 1 << index
            else:
                content[start:end] = block
        return bytes(content), missing


class Lookup:
    """Looks for blocks in what one tenant may use; opened when the first is asked for, because that
    may wait for indexes. For one thread.
    """

    def __init__(self, opened: Callable[[], SeedSources], fingerprints: Fingerprints) -> None:
        self._opened = opened
        self._sources: SeedSources | None = None
        self._zero = fingerprints.zero

    def leaves(self, packed: list[bytes]) -> list[Blocks]:
        """The blocks of leaves, from 16 fingerprints each."""
        wanted = [each for leaf in packed for each in unpack(leaf)]
        asked = [each for each in wanted if each != self._zero]
        if self._sources is None:
            self._sources = self._opened()
        found = iter(self._sources.blocks(asked))
        blocks = [ZERO_BLOCK if each == self._zero else next(found) for each in wanted]
        return [
            Blocks(tuple(blocks[at : at + BLOCKS_PER_LEAF]))
            for at in range(0, len(blocks), BLOCKS_PER_LEAF)
        ]

    def close(self) -> None:
        """Closes the images."""
        if self._sources is not None:
            self._sources.close()
