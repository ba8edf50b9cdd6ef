"""Writes docs/wire-vectors.json: bytes that any implementation of docs/wire-format.md must produce.

A test compares the committed file with what this prints, and with a second implementation.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from agent.transfer import frames
from agent.transfer.keys import SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree, receipt_root

SECRET = bytes(range(32))
TRANSCRIPT = b"a serialized SessionTranscript"
DIGEST_KEY = bytes(range(32, 64))
CONTENT = b"watari" * 20_000
"""A full leaf and a short one."""

DEFINITION_SHA256 = bytes(range(64, 96))
ZERO_DISK_BYTES = 5 * 1024 * 1024


def vectors() -> dict[str, Any]:
    """Inputs and expected outputs; bytes in hexadecimal."""
    digests = DigestKeys(DIGEST_KEY)
    return {
        "inputs": {
            "secret": SECRET.hex(),
            "transcript": TRANSCRIPT.hex(),
            "digest_key": DIGEST_KEY.hex(),
            "content": "'watari' in ASCII, 20000 times",
            "definition_sha256": DEFINITION_SHA256.hex(),
        },
        "digests": _digests(digests),
        "sessions": [_session(bits, digests) for bits in (128, 256)],
    }


def _digests(keys: DigestKeys) -> dict[str, Any]:
    disk, zeros = DiskTree(keys, len(CONTENT)), DiskTree(keys, ZERO_DISK_BYTES)
    disk.put_leaves(0, keys.leaves(CONTENT))
    zeros.put_zeros(0, ZERO_DISK_BYTES)
    parts = [("vda", len(CONTENT), disk.root()), ("vdb", ZERO_DISK_BYTES, zeros.root())]
    return {
        "leaves": [leaf.hex() for leaf in keys.leaves(CONTENT)],
        "root_of_content": disk.root().hex(),
        "root_of_zeros": {"size_bytes": ZERO_DISK_BYTES, "root": zeros.root().hex()},
        "receipt_root_of_vda_content_and_vdb_zeros": receipt_root(
            keys, parts, DEFINITION_SHA256
        ).hex(),
    }


def _session(bits: int, digests: DigestKeys) -> dict[str, Any]:
    keys = SessionKeys(SECRET, TRANSCRIPT, bits)
    data = frames.Data(
        disk=1,
        offset=3 * 65536,
        length=6,
        digests=digests.leaf(b"watari"),
        body=b"watari",
        compressed=False,
    )
    sender, _ = keys.sender_stream(2)
    receiver, _ = keys.receiver_stream(2)
    return {
        "cipher_key_bits": bits,
        "stream": 2,
        "sender": [
            {"frame": "DATA disk 1 offset 196608 content 'watari', not compressed"}
            | {"message": sender.seal(data).hex()},
            {"frame": "ZERO disk 0 offset 65536 length 1048576"}
            | {"message": sender.seal(frames.Zeros(0, 65536, 1048576)).hex()},
            {"frame": "END"} | {"message": sender.seal(frames.End()).hex()},
        ],
        "receiver": [
            {"frame": "ACK frames 2 sealed_bytes 200"}
            | {"message": receiver.seal(frames.Ack(2, 200)).hex()},
            {"frame": "ACK frames 3 sealed_bytes 248, FINAL"}
            | {"message": receiver.seal(frames.Ack(3, 248, final=True)).hex()},
        ],
        "manifest": {"plain": b"manifest".hex(), "sealed": keys.seal_manifest(b"manifest").hex()},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vectors(), indent=2) + "\n")
