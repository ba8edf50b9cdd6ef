"""docs/wire-vectors.json is what the code makes, and what the specification alone makes.

The second implementation here is written from docs/wire-format.md and shares no code with agent/.
"""

import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tools import wire_vectors

FILE = Path(__file__).resolve().parents[2] / "docs" / "wire-vectors.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
LEAF = 65536


def test_the_committed_vectors_are_what_the_code_makes() -> None:
    assert wire_vectors.vectors() == VECTORS


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, for at most one block."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def session_key(bits: int, info: bytes) -> AESGCM:
    inputs = {name: bytes.fromhex(VECTORS["inputs"][name]) for name in ("secret", "transcript")}
    salt = hashlib.sha256(inputs["transcript"]).digest()
    return AESGCM(hkdf_sha256(inputs["secret"], salt, info, bits // 8))


def sealed(
    key: AESGCM,
    counter: int,
    head: tuple[int, int, int, int, int],
    plain: bytes,
) -> bytes:
    """A message; `head` is type, flags, disk, offset, length."""
    kind, flags, disk, offset, length = head
    header = struct.pack(
        "<HBBBBHQQII", 0x5754, 1, kind, flags, 0, disk, counter, offset, length, len(plain) + 16
    )
    return header + key.encrypt(bytes(4) + struct.pack("<Q", counter), plain, header)


def digest_key(context: str) -> bytes:
    material = bytes.fromhex(VECTORS["inputs"]["digest_key"])
    return blake3(material, derive_key_context=f"watari.dev 2026 v1 {context}").digest()


def root(content: bytes) -> bytes:
    leaves = [
        blake3(content[at : at + LEAF], key=digest_key("leaf")).digest()
        for at in range(0, len(content), LEAF)
    ]
    parents = [
        blake3(b"".join(leaves[at : at + 64]), key=digest_key("parent")).digest()
        for at in range(0, len(leaves), 64)
    ]
    return blake3(
        struct.pack("<Q", len(content)) + b"".join(parents), key=digest_key("disk root")
    ).digest()


def test_the_digests_follow_from_the_specification() -> None:
    content, zeros = b"watari" * 20_000, bytes(5 * 1024 * 1024)
    expected = VECTORS["digests"]
    assert root(content).hex() == expected["root_of_content"]
    assert root(zeros).hex() == expected["root_of_zeros"]["root"]
    receipt = bytes.fromhex(VECTORS["inputs"]["definition_sha256"])
    for name, disk in ((b"vda", content), (b"vdb", zeros)):
        receipt += struct.pack("<HQ", len(name), len(disk)) + name + root(disk)
    key = digest_key("receipt root")
    assert (
        blake3(receipt, key=key).hexdigest()
        == expected["receipt_root_of_vda_content_and_vdb_zeros"]
    )


@pytest.mark.parametrize("session", VECTORS["sessions"], ids=["128", "256"])
def test_the_frames_follow_from_the_specification(session: dict[str, Any]) -> None:
    bits, stream = session["cipher_key_bits"], struct.pack("<I", session["stream"])
    to_receiver = session_key(bits, b"watari v1 stream\x00" + stream)
    to_sender = session_key(bits, b"watari v1 stream\x01" + stream)
    leaf = blake3(b"watari", key=digest_key("leaf")).digest()
    assert [each["message"] for each in session["sender"]] == [
        sealed(to_receiver, 0, (1, 0, 1, 196608, 6), leaf + b"watari").hex(),
        sealed(to_receiver, 1, (2, 0, 0, 65536, 0), struct.pack("<Q", 1048576)).hex(),
        sealed(to_receiver, 2, (3, 1, 0, 0, 0), b"").hex(),
    ]
    assert [each["message"] for each in session["receiver"]] == [
        sealed(to_sender, 0, (4, 0, 0, 0, 0), struct.pack("<QQ", 2, 200)).hex(),
        sealed(to_sender, 1, (4, 1, 0, 0, 0), struct.pack("<QQ", 3, 248)).hex(),
    ]
    manifest = session_key(bits, b"watari v1 manifest").encrypt(bytes(12), b"manifest", None)
    assert manifest.hex() == session["manifest"]["sealed"]
