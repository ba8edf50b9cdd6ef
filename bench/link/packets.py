"""What a TUN device with offloads hands over: a virtio header and an IPv4 packet. Pure.

With TSO a packet may be a super-packet of up to 64 KiB, which stands for a row of TCP segments that
share one header. Here such a row is measured as the segments that a wire would see, and cut into
shorter rows when some of them do not arrive.

    0      1         2        4         6           8            10
    | flags| gso_type| hdr_len| gso_size| csum_start| csum_offset| IPv4 packet ...

The virtio header is in the machine's byte order (linux/virtio_net.h).
"""

import struct
from typing import NamedTuple

VIRTIO_BYTES = 10
FRAME_BYTES_MAX = VIRTIO_BYTES + 65_535
"""Largest IPv4 packet with its virtio header."""

_VIRTIO = struct.Struct("=BBHHHH")
_GSO_NONE, _GSO_TCP4 = 0, 1
_GSO_ECN = 0x80
_NEEDS_CSUM = 1
_TCP = 6
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


class Row(NamedTuple):
    """A frame as the row of segments that it stands for."""

    segments: int
    header_bytes: int
    """IP and TCP header that each segment repeats; 0 when there is one segment."""
    segment_bytes: int
    """Payload of each segment but the last; 0 when there is one segment."""
    wire_bytes: int
    """All segments with a header each."""


def measure(frame: bytes) -> Row:
    """The row that a frame stands for."""
    packet_bytes = len(frame) - VIRTIO_BYTES
    if frame[1] & ~_GSO_ECN != _GSO_TCP4:
        return Row(1, 0, 0, packet_bytes)
    segment_bytes: int = _VIRTIO.unpack_from(frame)[3]
    network = (frame[VIRTIO_BYTES] & 0x0F) * 4
    header: int = network + (frame[VIRTIO_BYTES + network + 12] >> 4) * 4
    segments = -(-(packet_bytes - header) // segment_bytes)
    if segments <= 1:
        return Row(1, 0, 0, packet_bytes)
    return Row(segments, header, segment_bytes, packet_bytes + (segments - 1) * header)


def cut(frame: bytes, row: Row, first: int, last: int) -> bytes:
    """The segments `first` to before `last` of a row, as a frame of their own."""
    if first == 0 and last >= row.segments:
        return frame
    start = VIRTIO_BYTES + row.header_bytes
    payload = frame[start + first * row.segment_bytes : start + last * row.segment_bytes]
    head = bytearray(frame[:start])
    _fix_virtio(head, many=last - first > 1)
    network = (head[VIRTIO_BYTES] & 0x0F) * 4
    _fix_network(head, network, row.header_bytes + len(payload), first)
    _fix_transport(
        head, network, len(payload), first * row.segment_bytes, ends=last >= row.segments
    )
    return bytes(head) + payload


def wire_bytes(row: Row, first: int, last: int) -> int:
    """Bytes of some segments of a row, with a header each."""
    if row.segments == 1:
        return row.wire_bytes
    whole = row.header_bytes + row.segment_bytes
    missing = row.segments * whole - row.wire_bytes if last >= row.segments else 0
    return (last - first) * whole - missing


def checksum(data: bytes | bytearray, initial: int = 0) -> int:
    """Folded sum of 16-bit words as of RFC 1071, not complemented."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total: int = initial + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _fix_virtio(head: bytearray, *, many: bool) -> None:
    """A row of one segment is no row; its checksum is still to be filled in."""
    flags, kind, length, size, start, offset = _VIRTIO.unpack_from(head)
    if not many:
        kind, size = _GSO_NONE, 0
    _VIRTIO.pack_into(head, 0, flags | _NEEDS_CSUM, kind, length, size, start, offset)


def _fix_network(head: bytearray, network: int, packet_bytes: int, first: int) -> None:
    at = VIRTIO_BYTES
    (identification,) = struct.unpack_from("!H", head, at + 4)
    struct.pack_into("!H", head, at + 2, packet_bytes)
    struct.pack_into("!H", head, at + 4, (identification + first) & 0xFFFF)
    struct.pack_into("!H", head, at + 10, 0)
    struct.pack_into("!H", head, at + 10, ~checksum(head[at : at + network]) & 0xFFFF)


def _fix_transport(
    head: bytearray, network: int, payload_bytes: int, skipped_bytes: int, *, ends: bool
) -> None:
    at = VIRTIO_BYTES + network
    (sequence,) = struct.unpack_from("!I", head, at + 4)
    struct.pack_into("!I", head, at + 4, (sequence + skipped_bytes) & 0xFFFFFFFF)
    if not ends:  # what closes or pushes stands on the last segment of a row
        head[at + 13] &= ~(_FIN | _PSH) & 0xFF
    if skipped_bytes:
        head[at + 13] &= ~_CWR & 0xFF
    # A partial checksum is the sum of the pseudo-header; the kernel adds the rest.
    length = len(head) - at + payload_bytes
    addresses = head[VIRTIO_BYTES + 12 : VIRTIO_BYTES + 20]
    struct.pack_into("!H", head, at + 16, checksum(addresses, _TCP + length))
