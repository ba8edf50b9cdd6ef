"""Writes docs/wire-vectors.json: bytes that any implementation of docs/wire-format.md must produce.

A test compares the committed file with what this prints, and with a second implementation. An
ML-KEM ciphertext is made with fresh randomness, so that one is taken over from the committed file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.seeds.fingerprints import BLOCKS_PER_LEAF, Fingerprints, pack
from agent.transfer import agreement, frames
from agent.transfer.frames import Verdict
from agent.transfer.geometry import LEAF_BYTES, OFFER_STREAM
from agent.transfer.keys import Sealer, SessionKeys
from agent.transfer.merkle import DigestKeys, DiskTree, receipt_root

FILE = Path(__file__).resolve().parents[1] / "docs" / "wire-vectors.json"
ML_KEM_SEED = bytes(range(96, 160))
SENDER_X25519, RECEIVER_X25519 = bytes(range(160, 192)), bytes(range(192, 224))
SECRET = bytes(range(32))
TRANSCRIPT = b"a serialized SessionTranscript"
DIGEST_KEY = bytes(range(32, 64))
CONTENT = b"watari" * 11_000
"""A full leaf, and a short one with one short block."""

DEFINITION_SHA256 = bytes(range(64, 96))
ZERO_DISK_BYTES = 5 * 1024 * 1024

BLOCK = b"w" * 4096
BLOCK_ZSTD = bytes.fromhex("28b52ffd 60000f 038000 77")
"""BLOCK as a zstd frame made by hand, so that no release of a library changes the vectors: magic,
single segment with a content size of 2 bytes (less 256), one last block that repeats a byte.
"""

Described = tuple[str, frames.Frame]


def vectors() -> dict[str, Any]:
    """Inputs and expected outputs; bytes in hexadecimal."""
    digests = DigestKeys(DIGEST_KEY)
    return {
        "inputs": {
            "secret": SECRET.hex(),
            "transcript": TRANSCRIPT.hex(),
            "digest_key": DIGEST_KEY.hex(),
            "content": "'watari' in ASCII, 11000 times",
            "definition_sha256": DEFINITION_SHA256.hex(),
            "sender_x25519_private": SENDER_X25519.hex(),
            "receiver_x25519_private": RECEIVER_X25519.hex(),
            "sender_ml_kem_seed": ML_KEM_SEED.hex(),
            "receiver_ml_kem_ciphertext": _ciphertext().hex(),
        },
        "agreements": [_classical(), _hybrid()],
        "digests": _digests(digests),
        "sessions": [_session(bits, digests) for bits in (128, 256)],
    }


def _ciphertext() -> bytes:
    inputs = json.loads(FILE.read_text())["inputs"]
    return bytes.fromhex(inputs["receiver_ml_kem_ciphertext"])


def _classical() -> dict[str, str]:
    sender = agreement.Classical(X25519PrivateKey.from_private_bytes(SENDER_X25519))
    return _agreed("KEY_AGREEMENT_X25519", sender, _receiver_point())


def _hybrid() -> dict[str, str]:
    sender = agreement.Hybrid(
        MLKEM768PrivateKey.from_seed_bytes(ML_KEM_SEED),
        agreement.Classical(X25519PrivateKey.from_private_bytes(SENDER_X25519)),
    )
    return _agreed("KEY_AGREEMENT_X25519_MLKEM768", sender, _ciphertext() + _receiver_point())


def _receiver_point() -> bytes:
    return agreement.Classical(X25519PrivateKey.from_private_bytes(RECEIVER_X25519)).public


def _agreed(
    name: str, sender: agreement.Classical | agreement.Hybrid, answer: bytes
) -> dict[str, str]:
    return {
        "agreement": name,
        "sender_share": sender.public.hex(),
        "receiver_share": answer.hex(),
        "secret": sender.secret(answer).hex(),
    }


def _digests(keys: DigestKeys) -> dict[str, Any]:
    disk, zeros = DiskTree(keys, len(CONTENT)), DiskTree(keys, ZERO_DISK_BYTES)
    disk.put_leaves(0, keys.leaves(CONTENT))
    zeros.put_zeros(0, ZERO_DISK_BYTES)
    parts = [("vda", len(CONTENT), disk.root()), ("vdb", ZERO_DISK_BYTES, zeros.root())]
    return {
        "leaves": [leaf.hex() for leaf in keys.leaves(CONTENT)],
        "fingerprints": [leaf.hex() for leaf in _fingerprints()],
        "parent_of_content": disk.parent(0).hex(),
        "root_of_content": disk.root().hex(),
        "root_of_zeros": {"size_bytes": ZERO_DISK_BYTES, "root": zeros.root().hex()},
        "receipt_root_of_vda_content_and_vdb_zeros": receipt_root(
            keys, parts, DEFINITION_SHA256
        ).hex(),
    }


def _fingerprints() -> tuple[bytes, ...]:
    """Those of each leaf of the content, as they travel."""
    found = Fingerprints(DIGEST_KEY).of(CONTENT)
    leaves = [found[at : at + BLOCKS_PER_LEAF] for at in range(0, len(found), BLOCKS_PER_LEAF)]
    return tuple(pack(leaf + [0] * (BLOCKS_PER_LEAF - len(leaf))) for leaf in leaves)


def _session(bits: int, digests: DigestKeys) -> dict[str, Any]:
    keys = SessionKeys(SECRET, TRANSCRIPT, bits)
    return {
        "cipher_key_bits": bits,
        "streams": [
            _stream(keys, OFFER_STREAM, _offers(digests), _answers()),
            _stream(keys, 2, _content(digests), _acknowledgements()),
        ],
        "manifest": {"plain": b"manifest".hex(), "sealed": keys.seal_manifest(b"manifest").hex()},
    }


def _stream(
    keys: SessionKeys, number: int, sent: list[Described], answered: list[Described]
) -> dict[str, Any]:
    return {
        "stream": number,
        "proof": keys.stream_proof(number).hex(),
        "sender": _sealed(keys.sender_stream(number)[0], sent),
        "receiver": _sealed(keys.receiver_stream(number)[0], answered),
    }


def _sealed(sealer: Sealer, sent: list[Described]) -> list[dict[str, str]]:
    return [{"frame": text, "message": sealer.seal(frame).hex()} for text, frame in sent]


def _offers(keys: DigestKeys) -> list[Described]:
    leaves = keys.leaves(CONTENT)
    return [
        (
            "PARENT disk 0 offset 0, of the content",
            frames.ParentOffer(0, 0, keys.parent(b"".join(leaves))),
        ),
        (
            "LEAVES disk 0 offset 0, both leaves of the content, BLOCKS",
            frames.LeavesOffer(0, 0, 0, tuple(leaves), _fingerprints()),
        ),
        (
            "LEAVES disk 1 offset 4194304, the first leaf of the content, then a zero one",
            frames.LeavesOffer(1, 4_194_304, 0b10, (leaves[0],)),
        ),
        ("END", frames.End()),
    ]


def _answers() -> list[Described]:
    return [
        ("ANSWER disk 0 offset 0 OPEN", frames.Answer(0, 0, Verdict.OPEN)),
        (
            "ANSWER disk 0 offset 0 WANT masks 0x8001 0x0000",
            frames.Answer(0, 0, Verdict.WANT, (0x8001, 0)),
        ),
        ("ANSWER disk 1 offset 4194304 HAVE", frames.Answer(1, 4_194_304, Verdict.HAVE)),
        ("ACK frames 4 bytes 0, FINAL", frames.Ack(4, 0, final=True)),
    ]


def _content(keys: DigestKeys) -> list[Described]:
    last = CONTENT[LEAF_BYTES:]
    block_leaf = BLOCK + bytes(LEAF_BYTES - len(BLOCK))
    return [
        (
            "DATA disk 0 offset 0 masks 0x0000 0x0001, the end of the content, not compressed",
            frames.Data(0, 0, len(last), (0, 1), keys.leaf(last), last, compressed=False),
        ),
        (
            "DATA disk 1 offset 196608 mask 0x0001, 4096 times 'w' of a leaf with zeros behind, "
            "ZSTD body " + BLOCK_ZSTD.hex(),
            frames.Data(
                1, 196_608, len(BLOCK), (1,), keys.leaf(block_leaf), BLOCK_ZSTD, compressed=True
            ),
        ),
        ("ZERO disk 0 offset 65536 length 1048576", frames.Zeros(0, 65_536, 1_048_576)),
        ("END", frames.End()),
    ]


def _acknowledgements() -> list[Described]:
    return [
        (
            "ACK frames 2 bytes 200, held for 1500 microseconds, leaf 3 of disk 1 rejected",
            frames.Ack(2, 200, rejected=((1, 3),), held_microseconds=1500),
        ),
        ("ACK frames 4 bytes 248, FINAL", frames.Ack(4, 248, final=True)),
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(vectors(), indent=2) + "\n")
