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
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tools import wire_vectors

FILE = Path(__file__).resolve().parents[2] / "docs" / "wire-vectors.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
LEAF, BLOCK = 65536, 4096
CONTENT = b"watari" * 11_000
DATA, ZERO, END, ACK, PARENT, LEAVES, ANSWER = range(1, 8)
FINAL, ZSTD, BLOCKS = 1, 2, 4
HAVE, OPEN, WANT = 0, 1, 2
REPEATED_W = bytes.fromhex("28b52ffd60000f03800077")


def test_the_committed_vectors_are_what_the_code_makes() -> None:
    assert wire_vectors.vectors() == VECTORS


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, for at most one block."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:length]


def given(name: str) -> bytes:
    return bytes.fromhex(VECTORS["inputs"][name])


def derived_key(info: bytes, length: int) -> bytes:
    salt = hashlib.sha256(given("transcript")).digest()
    return hkdf_sha256(given("secret"), salt, info, length)


def session_key(bits: int, info: bytes) -> AESGCM:
    return AESGCM(derived_key(info, bits // 8))


def test_both_agreements_follow_from_the_specification() -> None:
    sender = X25519PrivateKey.from_private_bytes(given("sender_x25519_private"))
    receiver = X25519PrivateKey.from_private_bytes(given("receiver_x25519_private"))
    point, back = (each.public_key().public_bytes_raw() for each in (sender, receiver))
    classical = receiver.exchange(X25519PublicKey.from_public_bytes(point))
    ml_kem = MLKEM768PrivateKey.from_seed_bytes(given("sender_ml_kem_seed"))
    ciphertext = given("receiver_ml_kem_ciphertext")
    assert VECTORS["agreements"] == [
        {
            "agreement": "KEY_AGREEMENT_X25519",
            "sender_share": point.hex(),
            "receiver_share": back.hex(),
            "secret": classical.hex(),
        },
        {
            "agreement": "KEY_AGREEMENT_X25519_MLKEM768",
            "sender_share": (ml_kem.public_key().public_bytes_raw() + point).hex(),
            "receiver_share": (ciphertext + back).hex(),
            "secret": (ml_kem.decapsulate(ciphertext) + classical).hex(),
        },
    ]


@pytest.mark.parametrize("session", VECTORS["sessions"], ids=["128", "256"])
def test_the_proofs_of_streams_follow_from_the_specification(session: dict[str, Any]) -> None:
    for stream in session["streams"]:
        proof = derived_key(b"watari v1 stream proof" + struct.pack("<I", stream["stream"]), 32)
        assert stream["proof"] == proof.hex()


def stream_key(bits: int, direction: int, number: int) -> AESGCM:
    return session_key(bits, b"watari v1 stream" + struct.pack("<BI", direction, number))


def sealed(key: AESGCM, counter: int, head: tuple[int, int, int, int, int], plain: bytes) -> str:
    """A message; `head` is type, flags, disk, offset, length."""
    kind, flags, disk, offset, length = head
    header = struct.pack(
        "<HBBBBHQQII", 0x5754, 2, kind, flags, 0, disk, counter, offset, length, len(plain) + 16
    )
    nonce = bytes(4) + struct.pack("<Q", counter)
    return (header + key.encrypt(nonce, plain, header)).hex()


def derived(context: str) -> bytes:
    material = bytes.fromhex(VECTORS["inputs"]["digest_key"])
    return blake3(material, derive_key_context=f"watari.dev 2026 {context}").digest()


def leaf_digest(content: bytes) -> bytes:
    return blake3(content, key=derived("v1 leaf")).digest()


def parent_digest(leaves: list[bytes]) -> bytes:
    return blake3(b"".join(leaves), key=derived("v1 parent")).digest()


def leaves_of(content: bytes) -> list[bytes]:
    return [leaf_digest(content[at : at + LEAF]) for at in range(0, len(content), LEAF)]


def root(content: bytes) -> bytes:
    leaves = leaves_of(content)
    parents = [parent_digest(leaves[at : at + 64]) for at in range(0, len(leaves), 64)]
    joined = struct.pack("<Q", len(content)) + b"".join(parents)
    return blake3(joined, key=derived("v1 disk root")).digest()


def fingerprints(leaf: bytes) -> bytes:
    """96 bytes: the first 6 of each block's digest, zeros for blocks that the leaf has not."""
    key = derived("v2 block")
    blocks = [leaf[at : at + BLOCK] for at in range(0, len(leaf), BLOCK)]
    return b"".join(blake3(block, key=key).digest()[:6] for block in blocks).ljust(96, b"\0")


def test_the_digests_follow_from_the_specification() -> None:
    zeros = bytes(5 * 1024 * 1024)
    expected = VECTORS["digests"]
    assert [leaf.hex() for leaf in leaves_of(CONTENT)] == expected["leaves"]
    assert parent_digest(leaves_of(CONTENT)).hex() == expected["parent_of_content"]
    assert root(CONTENT).hex() == expected["root_of_content"]
    assert root(zeros).hex() == expected["root_of_zeros"]["root"]
    receipt = bytes.fromhex(VECTORS["inputs"]["definition_sha256"])
    for name, disk in ((b"vda", CONTENT), (b"vdb", zeros)):
        receipt += struct.pack("<HQ", len(name), len(disk)) + name + root(disk)
    digest = blake3(receipt, key=derived("v1 receipt root")).hexdigest()
    assert digest == expected["receipt_root_of_vda_content_and_vdb_zeros"]


def test_the_fingerprints_follow_from_the_specification() -> None:
    found = [fingerprints(CONTENT[:LEAF]).hex(), fingerprints(CONTENT[LEAF:]).hex()]
    assert found == VECTORS["digests"]["fingerprints"]


@pytest.mark.parametrize("session", VECTORS["sessions"], ids=["128", "256"])
def test_the_frames_about_digests_follow_from_the_specification(session: dict[str, Any]) -> None:
    there, back = (stream_key(session["cipher_key_bits"], way, 0) for way in (0, 1))
    first, second = leaves_of(CONTENT)
    offered = (
        struct.pack("<Q", 0)
        + (first + fingerprints(CONTENT[:LEAF]))
        + (second + fingerprints(CONTENT[LEAF:]))
    )
    with_zeros = struct.pack("<Q", 0b10) + first
    stream = session["streams"][0]
    assert stream["stream"] == 0
    assert [each["message"] for each in stream["sender"]] == [
        sealed(there, 0, (PARENT, 0, 0, 0, 0), parent_digest([first, second])),
        sealed(there, 1, (LEAVES, BLOCKS, 0, 0, 0), offered),
        sealed(there, 2, (LEAVES, 0, 1, 4_194_304, 0), with_zeros),
        sealed(there, 3, (END, FINAL, 0, 0, 0), b""),
    ]
    assert [each["message"] for each in stream["receiver"]] == [
        sealed(back, 0, (ANSWER, 0, 0, 0, 0), struct.pack("<B", OPEN)),
        sealed(back, 1, (ANSWER, 0, 0, 0, 0), struct.pack("<BHH", WANT, 0x8001, 0)),
        sealed(back, 2, (ANSWER, 0, 1, 4_194_304, 0), struct.pack("<B", HAVE)),
        sealed(back, 3, (ACK, FINAL, 0, 0, 0), struct.pack("<QQI", 4, 0, 0)),
    ]


@pytest.mark.parametrize("session", VECTORS["sessions"], ids=["128", "256"])
def test_the_frames_with_content_follow_from_the_specification(session: dict[str, Any]) -> None:
    there, back = (stream_key(session["cipher_key_bits"], way, 2) for way in (0, 1))
    end, block = CONTENT[LEAF:], b"w" * BLOCK
    short = struct.pack("<BHH", 2, 0, 1) + leaf_digest(end) + end
    packed = struct.pack("<BH", 1, 1) + leaf_digest(block.ljust(LEAF, b"\0")) + REPEATED_W
    stream = session["streams"][1]
    assert stream["stream"] == 2
    assert [each["message"] for each in stream["sender"]] == [
        sealed(there, 0, (DATA, 0, 0, 0, len(end)), short),
        sealed(there, 1, (DATA, ZSTD, 1, 196_608, BLOCK), packed),
        sealed(there, 2, (ZERO, 0, 0, 65_536, 0), struct.pack("<Q", 1_048_576)),
        sealed(there, 3, (END, FINAL, 0, 0, 0), b""),
    ]
    assert [each["message"] for each in stream["receiver"]] == [
        sealed(back, 0, (ACK, 0, 0, 0, 0), struct.pack("<QQIHQ", 2, 200, 1500, 1, 3)),
        sealed(back, 1, (ACK, FINAL, 0, 0, 0), struct.pack("<QQI", 4, 248, 0)),
    ]


@pytest.mark.parametrize("session", VECTORS["sessions"], ids=["128", "256"])
def test_the_manifest_follows_from_the_specification(session: dict[str, Any]) -> None:
    key = session_key(session["cipher_key_bits"], b"watari v1 manifest")
    manifest = key.encrypt(bytes(12), bytes.fromhex(session["manifest"]["plain"]), None)
    assert manifest.hex() == session["manifest"]["sealed"]


def test_the_compressed_body_is_a_zstd_frame_that_states_its_size() -> None:
    assert zstandard.frame_content_size(REPEATED_W) == BLOCK
    assert zstandard.ZstdDecompressor().decompress(REPEATED_W) == b"w" * BLOCK


def test_the_vectors_have_every_type_of_frame_in_both_key_lengths() -> None:
    for session in VECTORS["sessions"]:
        messages = [
            bytes.fromhex(each["message"])
            for stream in session["streams"]
            for each in stream["sender"] + stream["receiver"]
        ]
        assert {message[3] for message in messages} == set(range(DATA, ANSWER + 1))
