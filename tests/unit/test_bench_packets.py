"""Cutting TSO super-packets: what is left is what the sender's own segments would have been."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from bench.link import packets
from bench.link.packets import VIRTIO_BYTES

NETWORK, OPTIONS = 20, 12
HEADER = NETWORK + 20 + OPTIONS
FIN_PSH_ACK_CWR = 0x99


def frame(payload: bytes, segment_bytes: int, sequence: int = 1, flags: int = 0x10) -> bytes:
    """A super-packet as a kernel with TSO hands it over."""
    many = len(payload) > segment_bytes
    virtio = struct.pack("=BBHHHH", 1, int(many), HEADER, segment_bytes if many else 0, NETWORK, 16)
    addresses = bytes([10, 77, 0, 1, 10, 77, 0, 2])
    network = bytearray(
        struct.pack("!BBHHHBBH", 0x45, 0, HEADER + len(payload), 7, 0x4000, 64, 6, 0) + addresses
    )
    struct.pack_into("!H", network, 10, ~packets.checksum(network) & 0xFFFF)
    partial = packets.checksum(addresses, 6 + HEADER - NETWORK + len(payload))
    offset = (20 + OPTIONS) // 4 << 4
    transport = struct.pack("!HHIIBBHHH", 40000, 7444, sequence, 99, offset, flags, 501, partial, 0)
    return virtio + bytes(network) + transport + bytes(OPTIONS) + payload


rows = st.tuples(
    st.binary(min_size=1, max_size=4000), st.integers(1, 700), st.integers(0, 2**32 - 1)
)


@given(rows, st.data())
def test_a_part_of_a_row_is_what_the_sender_would_have_sent(
    row: tuple[bytes, int, int], data: st.DataObject
) -> None:
    payload, size, sequence = row
    whole = frame(payload, size, sequence)
    measured = packets.measure(whole)
    first = data.draw(st.integers(0, measured.segments - 1))
    last = data.draw(st.integers(first + 1, measured.segments))
    part = packets.cut(whole, measured, first, last)
    expected = bytearray(
        frame(payload[first * size : last * size], size, (sequence + first * size) % 2**32)
    )
    identification = 7 + first if (first, last) != (0, measured.segments) else 7
    struct.pack_into("!H", expected, VIRTIO_BYTES + 4, identification)
    struct.pack_into("!H", expected, VIRTIO_BYTES + 10, 0)
    header = expected[VIRTIO_BYTES : VIRTIO_BYTES + NETWORK]
    struct.pack_into("!H", expected, VIRTIO_BYTES + 10, ~packets.checksum(header) & 0xFFFF)
    assert part[2:4] == bytes(expected[2:4])
    assert part == bytes(expected)


@given(rows, st.data())
def test_the_parts_of_a_row_have_the_bytes_of_the_row(
    row: tuple[bytes, int, int], data: st.DataObject
) -> None:
    payload, size, sequence = row
    measured = packets.measure(frame(payload, size, sequence))
    at = data.draw(st.integers(0, measured.segments))
    halves = packets.wire_bytes(measured, 0, at) if at else 0
    if at < measured.segments:
        halves += packets.wire_bytes(measured, at, measured.segments)
    assert halves == measured.wire_bytes
    assert measured.wire_bytes == len(payload) + measured.segments * HEADER


def test_what_closes_a_row_stays_on_its_last_segment() -> None:
    whole = frame(bytes(1000), 300, flags=FIN_PSH_ACK_CWR)
    measured = packets.measure(whole)
    flags = [
        packets.cut(whole, measured, at, at + 1)[VIRTIO_BYTES + NETWORK + 13]
        for at in range(measured.segments)
    ]
    assert flags == [0x90, 0x10, 0x10, 0x19]


def test_a_packet_without_offload_is_one_segment() -> None:
    single = frame(b"hello", 100)
    assert packets.measure(single) == (1, 0, 0, len(single) - VIRTIO_BYTES)
