"""Block fingerprints: one for each block, the same wherever it lies, and their packed form."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from agent.seeds.fingerprints import (
    BLOCK_BYTES,
    BLOCKS_PER_LEAF,
    FINGERPRINT_BYTES,
    ZERO_BLOCK,
    Fingerprints,
    pack,
    unpack,
)
from agent.transfer import geometry
from watari import errors

KEY = bytes(range(32))
PRINTS = Fingerprints(KEY)


def test_sixteen_blocks_are_one_leaf_of_the_wire_format() -> None:
    assert BLOCKS_PER_LEAF * BLOCK_BYTES == geometry.LEAF_BYTES


def test_a_fingerprint_is_what_the_documentation_says() -> None:
    block = b"\x01" * BLOCK_BYTES
    key = blake3(KEY, derive_key_context="watari.dev 2026 v2 block").digest()
    assert PRINTS.of(block) == [int.from_bytes(blake3(block, key=key).digest()[:6], "little")]


@given(st.integers(0, 40 * BLOCK_BYTES))
def test_every_block_has_one_and_a_short_last_block_has_its_own(length: int) -> None:
    content = bytes(at // BLOCK_BYTES + 1 for at in range(length))
    found = PRINTS.of(content)
    blocks = [content[at : at + BLOCK_BYTES] for at in range(0, length, BLOCK_BYTES)]
    assert found == [PRINTS.of(block)[0] for block in blocks]
    assert PRINTS.of(memoryview(content)) == found


def test_a_short_block_is_not_the_whole_block_with_zeros_behind_it() -> None:
    assert PRINTS.of(b"end") != PRINTS.of(b"end" + bytes(BLOCK_BYTES - 3))


def test_zeros_have_the_fingerprint_that_is_told() -> None:
    assert PRINTS.of(ZERO_BLOCK * 2) == [PRINTS.zero, PRINTS.zero]


def test_another_key_gives_other_fingerprints_and_another_check_value() -> None:
    other = Fingerprints(b"o" * 32)
    assert other.zero != PRINTS.zero
    assert other.check_value != PRINTS.check_value
    assert Fingerprints(KEY).check_value == PRINTS.check_value


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        Fingerprints(bytes(length))
    assert refused.value.reason == "INVALID_FIELD"


@given(st.lists(st.integers(0, 2 ** (8 * FINGERPRINT_BYTES) - 1), max_size=64))
def test_what_is_packed_is_unpacked(fingerprints: list[int]) -> None:
    packed = pack(fingerprints)
    assert len(packed) == FINGERPRINT_BYTES * len(fingerprints)
    assert unpack(packed) == fingerprints


@given(st.binary(max_size=100).filter(lambda packed: len(packed) % FINGERPRINT_BYTES != 0))
def test_a_fingerprint_that_is_cut_off_is_refused(packed: bytes) -> None:
    with pytest.raises(errors.DataLoss) as refused:
        unpack(packed)
    assert refused.value.reason == "FRAME_INVALID"
