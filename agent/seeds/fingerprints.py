"""Block fingerprints: 6 bytes that say which block of a scope this may be. Pure; no I/O here.

fingerprint(block) = first 6 bytes, little-endian, of BLAKE3(block, key), where key is derived from
the scope's digest key. Short on purpose: sixteen of them describe a leaf in 96 bytes. Two different
blocks may share one (about one lookup in 10^8 against an index of 2.5 million blocks), which the
digest of the leaf finds out.
"""

from collections.abc import Sequence

from blake3 import blake3

from watari import errors

BLOCK_BYTES = 4096
"""File systems place files on multiples of it."""

FINGERPRINT_BYTES = 6
"""On the wire and, as an integer, in an index."""

BLOCKS_PER_LEAF = 16
"""Blocks in a leaf of 64 KiB; the last leaf of a disk may have fewer."""

ZERO_BLOCK = bytes(BLOCK_BYTES)

_KEY_BYTES = 32
_BLOCK_CONTEXT = "watari.dev 2026 v2 block"
_CHECK_CONTEXT = "watari.dev 2026 v2 block index check"


class Fingerprints:
    """Computes the fingerprints of one scope. Safe to share between threads.

    Raises InvalidArgument INVALID_FIELD for a key that has not 32 bytes.
    """

    def __init__(self, digest_key: bytes) -> None:
        if len(digest_key) != _KEY_BYTES:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"a digest key has {_KEY_BYTES} bytes, this one {len(digest_key)}",
                field="digest_key",
            )
        self._key = blake3(digest_key, derive_key_context=_BLOCK_CONTEXT).digest()
        self.check_value = blake3(digest_key, derive_key_context=_CHECK_CONTEXT).digest()
        """32 bytes that tell one key from another and nothing about either."""
        self.zero = self.of(ZERO_BLOCK)[0]
        """The fingerprint of a whole block of zeros."""

    def of(self, content: bytes | memoryview) -> list[int]:
        """One for each block of content that starts on a block; a short last one as it is."""
        view, key = memoryview(content), self._key
        return [
            int.from_bytes(
                blake3(view[at : at + BLOCK_BYTES], key=key).digest(FINGERPRINT_BYTES), "little"
            )
            for at in range(0, len(view), BLOCK_BYTES)
        ]


def pack(fingerprints: Sequence[int]) -> bytes:
    """Fingerprints as they travel: 6 bytes each, little-endian."""
    return b"".join([each.to_bytes(FINGERPRINT_BYTES, "little") for each in fingerprints])


def unpack(packed: bytes) -> list[int]:
    """What `pack` packed. Raises DataLoss FRAME_INVALID when a fingerprint is cut off."""
    if len(packed) % FINGERPRINT_BYTES:
        raise errors.DataLoss(
            "FRAME_INVALID",
            f"{len(packed)} bytes are no whole number of fingerprints of {FINGERPRINT_BYTES} bytes",
        )
    return [
        int.from_bytes(packed[at : at + FINGERPRINT_BYTES], "little")
        for at in range(0, len(packed), FINGERPRINT_BYTES)
    ]
