"""Key schedule and sealing (docs/wire-format.md, "Keys"). Pure; no I/O.

HKDF-SHA-256 (RFC 5869) over one agreement per session, salted with the hash of the transcript; one
AES-GCM key per stream and direction (NIST SP 800-38D), nonces that count frames and are never
stored: a key that is gone cannot be used with an old counter.
"""

import hashlib
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.transfer import frames
from watari import errors

CIPHER_KEY_BITS = (128, 256)
"""AES key lengths that may be asked for; 128 as in the paper is the default."""

PROOF_BYTES = 32
_NONCE = struct.Struct("<IQ")
_STREAM_INFO = struct.Struct("<BI")
_TO_RECEIVER, _TO_SENDER = 0, 1


class SessionKeys:
    """What both agents derive all keys of one session from."""

    def __init__(self, shared: bytes, transcript: bytes, key_bits: int) -> None:
        self._shared = shared
        self._salt = hashlib.sha256(transcript).digest()
        self._key_bytes = key_bits // 8

    def sender_stream(self, stream: int) -> tuple["Sealer", "Opener"]:
        """The sender's ends of a stream: what it seals with, and opens answers with."""
        return Sealer(self._stream(_TO_RECEIVER, stream)), Opener(self._stream(_TO_SENDER, stream))

    def receiver_stream(self, stream: int) -> tuple["Sealer", "Opener"]:
        """The receiver's ends of the same stream."""
        return Sealer(self._stream(_TO_SENDER, stream)), Opener(self._stream(_TO_RECEIVER, stream))

    def stream_proof(self, stream: int) -> bytes:
        """32 bytes that nobody but the two ends can say of a stream before it was opened."""
        return self._derive(b"watari v1 stream proof" + struct.pack("<I", stream), PROOF_BYTES)

    def seal_manifest(self, manifest: bytes) -> bytes:
        """The sender's manifest, sealed under a key that is used once."""
        return self._manifest().encrypt(bytes(12), manifest, None)

    def open_manifest(self, sealed: bytes) -> bytes:
        """The manifest. Raises DataLoss FRAME_INVALID when it was not sealed in this session."""
        try:
            return self._manifest().decrypt(bytes(12), sealed, None)
        except InvalidTag:
            raise frames.invalid("the manifest does not open") from None

    def _manifest(self) -> AESGCM:
        return AESGCM(self._derive(b"watari v1 manifest", self._key_bytes))

    def _stream(self, direction: int, stream: int) -> AESGCM:
        info = b"watari v1 stream" + _STREAM_INFO.pack(direction, stream)
        return AESGCM(self._derive(info, self._key_bytes))

    def _derive(self, info: bytes, length: int) -> bytes:
        hkdf = HKDF(algorithm=SHA256(), length=length, salt=self._salt, info=info)
        return hkdf.derive(self._shared)


class Sealer:
    """Seals the frames of one stream in one direction, in order. For one thread at a time."""

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher
        self.frames = 0

    def seal(self, frame: frames.Frame) -> bytes:
        """The message for the wire: header, sealed bytes."""
        kind, flags, disk, offset, length, plain = frames.encode(frame)
        sealed_bytes = len(plain) + frames.TAG_BYTES
        header = frames.Header(kind, flags, disk, self.frames, offset, length, sealed_bytes).pack()
        message = header + self._cipher.encrypt(_NONCE.pack(0, self.frames), plain, header)
        self.frames += 1
        return message


class Opener:
    """Opens the frames of one stream in one direction, in order and each once."""

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher
        self._ended = False
        self.frames = 0

    def open(self, message: bytes) -> frames.Frame:
        """The frame in a message. Raises DataLoss FRAME_INVALID when anything about it is off:
        altered, repeated, out of order, after the final one, or of another stream or session.
        """
        header = frames.parse(message)
        if self._ended or header.counter != self.frames:
            raise frames.invalid(f"frame {header.counter} where {self.frames} was due")
        view = memoryview(message)
        try:
            plain = self._cipher.decrypt(
                _NONCE.pack(0, self.frames),
                view[frames.HEADER_BYTES :],
                view[: frames.HEADER_BYTES],
            )
        except InvalidTag:
            raise frames.invalid(f"frame {header.counter} does not open") from None
        self.frames += 1
        self._ended = bool(header.flags & frames.Flags.FINAL)
        return frames.decode(header, plain)

    @property
    def ended(self) -> bool:
        """Whether the final frame was seen."""
        return self._ended


def require_key_bits(bits: int) -> int:
    """`bits` if it is an AES key length that may be asked for. Raises InvalidArgument."""
    if bits not in CIPHER_KEY_BITS:
        raise errors.InvalidArgument(
            "INVALID_FIELD",
            f"cipher_key_bits is {bits}",
            hint="ask for 128 or 256",
            field="cipher_key_bits",
        )
    return bits
