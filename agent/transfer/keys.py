"""Key agreement, key schedule and sealing (docs/wire-format.md, "Keys"). Pure; no I/O.

One X25519 agreement per session (RFC 7748), HKDF-SHA-256 (RFC 5869) salted with the hash of the
transcript, one AES-GCM key per stream and direction (NIST SP 800-38D), nonces that count frames and
are never stored: a key that is gone cannot be used with an old counter.
"""

import hashlib
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.transfer import frames
from watari import errors
from watari.v1 import agent_pb2

CIPHER_KEY_BITS = (128, 256)
"""AES key lengths that may be asked for; 128 as in the paper is the default."""

SHARE_BYTES = 32
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
        return AESGCM(self._derive(b"watari v1 manifest"))

    def _stream(self, direction: int, stream: int) -> AESGCM:
        return AESGCM(self._derive(b"watari v1 stream" + _STREAM_INFO.pack(direction, stream)))

    def _derive(self, info: bytes) -> bytes:
        hkdf = HKDF(algorithm=SHA256(), length=self._key_bytes, salt=self._salt, info=info)
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


class Agreement:
    """This side's ephemeral half of an X25519 agreement; used once, then forgotten."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()

    def share(self) -> agent_pb2.KeyShare:
        """What the peer is told."""
        return agent_pb2.KeyShare(
            agreement=agent_pb2.KEY_AGREEMENT_X25519,
            public_key=self._private.public_key().public_bytes_raw(),
        )

    def shared_secret(self, peer: agent_pb2.KeyShare) -> bytes:
        """The secret with `peer`. Raises InvalidArgument INVALID_FIELD for a share that is none."""
        if len(peer.public_key) != SHARE_BYTES:
            raise _bad_share(f"an X25519 share has {SHARE_BYTES} bytes")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer.public_key))
        except ValueError:
            raise _bad_share("the X25519 share is a point of small order") from None


def choose(offered: list[agent_pb2.KeyShare]) -> agent_pb2.KeyShare:
    """The first offered agreement that this release speaks. Raises InvalidArgument."""
    for share in offered:
        if share.agreement == agent_pb2.KEY_AGREEMENT_X25519:
            return share
    raise _bad_share("no key agreement in common; this agent speaks X25519")


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


def _bad_share(what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument("INVALID_FIELD", what, field="key_shares")
