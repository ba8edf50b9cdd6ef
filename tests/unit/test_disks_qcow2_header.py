"""qcow2 headers, read without trusting them."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.disks import qcow2_header


def header(
    *,
    magic: bytes = qcow2_header.MAGIC,
    version: int = 3,
    backing: int = 0,
    size: int = 1 << 30,
    encryption: int = 0,
    features: int = 0,
) -> bytes:
    return struct.pack(">4sIQIIQI", magic, version, backing, 0, 16, size, encryption) + struct.pack(
        ">IQQIIQQ", 1, 0x30000, 0x10000, 1, 0, 0, features
    )


@pytest.mark.parametrize("version", [2, 3])
def test_the_size_is_what_the_guest_sees(version: int) -> None:
    assert qcow2_header.parse(header(version=version)).size == 1 << 30


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no qcow2"),
        (header(magic=b"VMDK"), "no qcow2"),
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (header()[:79], "cut short"),
        (header(backing=0x200), "backing file"),
        (header(version=2, backing=0x200), "backing file"),
        (header(features=4), "another file"),
        (header(encryption=1), "encrypted"),
        (header(features=2), "corrupt"),
        (header(size=1000), "size"),
        (header(size=1 << 60), "size"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        qcow2_header.parse(content)


def test_version_2_has_no_features() -> None:
    assert qcow2_header.parse(header(version=2)[:72]).size == 1 << 30
    assert qcow2_header.parse(header(version=2, features=4)).size == 1 << 30


@given(st.binary(max_size=120).map(lambda tail: qcow2_header.MAGIC + tail) | st.binary())
def test_any_bytes_are_a_header_or_a_reason(content: bytes) -> None:
    with contextlib.suppress(ValueError):  # any other exception fails
        assert qcow2_header.parse(content).size % 512 == 0


@given(st.integers(0, 1 << 50))
def test_a_container_has_the_next_full_sector(size: int) -> None:
    made = qcow2_header.container_size(size)
    assert made % 512 == 0
    assert 0 <= made - size < 512
