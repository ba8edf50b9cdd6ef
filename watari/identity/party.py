"""A party's own identity: its certificate and key, which may be renewed, and whom it trusts."""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from watari import errors, logs
from watari.identity import files
from watari.identity.authority import BACKDATE_SECONDS
from watari.identity.spiffe import SpiffeId
from watari.identity.trust import TrustStore

CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
TRUST_FOLDER = "trust"

NEXT_SUFFIX = ".next"
"""Of the key file while a renewed certificate takes the place of the one before."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key. `repr` shows neither."""

    cert_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "KeyPair()"

    @cached_property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key, for signing. Raises FailedPrecondition CREDENTIALS_UNREADABLE."""
        try:
            key = serialization.load_pem_private_key(self.key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise files.unreadable(Path(KEY_FILE), f"not a private key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise files.unreadable(Path(KEY_FILE), "not an ECDSA key")
        return key

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The certificate, parsed."""
        return x509.load_pem_x509_certificate(self.cert_pem)

    @property
    def validity(self) -> tuple[datetime, datetime]:
        """When it was made, and until when it is valid."""
        made = self.certificate.not_valid_before_utc + timedelta(seconds=BACKDATE_SECONDS)
        return made, self.certificate.not_valid_after_utc


class Identity:
    """Who this process is. The key never leaves it; `repr` does not show it.

    Certificate and key are renewed while the process runs, by `replace` or by whoever writes the
    files that it was loaded from; ask for `current` once where both are needed. Any thread may.
    """

    def __init__(
        self, spiffe_id: SpiffeId, cert_pem: bytes, key_pem: bytes, trust: TrustStore
    ) -> None:
        self.spiffe_id = spiffe_id
        self.trust = trust
        self._pair = KeyPair(cert_pem, key_pem)
        self._files: tuple[Path, Path] | None = None
        self._seen: _Signature = ()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Identity({self.spiffe_id})"

    @classmethod
    def load_folder(cls, folder: Path) -> "Identity":
        """From `cert.pem`, `key.pem` and `trust/<domain>.pem` in one folder; else as `load`."""
        return cls.load(folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / TRUST_FOLDER)

    @classmethod
    def load(cls, cert: Path, key: Path, trust: Path) -> "Identity":
        """From a certificate file, a key file and a trust folder.

        Raises FailedPrecondition: KEY_FILE_TOO_OPEN, CREDENTIALS_UNREADABLE.
        """
        spiffe_id, pair = _read_pair(cert, key)
        loaded = cls(spiffe_id, pair.cert_pem, pair.key_pem, TrustStore(trust))
        loaded._files, loaded._seen = (cert, key), _signature(cert, key)
        return loaded

    def save(self, folder: Path) -> None:
        """Write certificate and key where `load_folder` finds them; leaves the trust folder."""
        pair = self.current()
        files.save_key(folder / KEY_FILE, pair.key_pem)
        files.save_certificate(folder / CERTIFICATE_FILE, pair.cert_pem)

    def current(self) -> KeyPair:
        """The certificate and key of now, read again when their files have changed."""
        if self._files is not None:
            signature = _signature(*self._files)
            with self._lock:
                if signature != self._seen:
                    self._reread(*self._files)
                    self._seen = signature
        return self._pair

    def replace(self, cert_pem: bytes, key_pem: bytes) -> None:
        """Take a renewed certificate and its key, and write them to the files, if there are any.

        Whatever happens on the way, the files hold a certificate and its key. Raises OSError when
        they cannot be written, which leaves the new ones in force until the process ends, and
        FailedPrecondition CREDENTIALS_UNREADABLE when they are another party's or do not match.
        """
        pair = KeyPair(cert_pem, key_pem)
        if _check(pair, Path(CERTIFICATE_FILE), Path(KEY_FILE)) != self.spiffe_id:
            raise files.unreadable(Path(CERTIFICATE_FILE), f"is not one of {self.spiffe_id}")
        with self._lock:
            self._pair = pair
            if self._files is not None:
                cert, key = self._files
                files.save_key(_next(key), key_pem)
                files.save_certificate(cert, cert_pem)
                _next(key).replace(key)
                self._seen = _signature(cert, key)

    @property
    def cert_pem(self) -> bytes:
        """The certificate of now."""
        return self.current().cert_pem

    @property
    def key_pem(self) -> bytes:
        """The key of now."""
        return self.current().key_pem

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of now, for signing. Raises FailedPrecondition CREDENTIALS_UNREADABLE."""
        return self.current().private_key

    def _reread(self, cert: Path, key: Path) -> None:
        """What cannot be used, or is half written, leaves the pair that there is."""
        try:
            spiffe_id, pair = _read_pair(cert, key)
        except errors.WatariError as error:
            _log.warning("credentials not taken from their files", problem=error.message)
            return
        if spiffe_id != self.spiffe_id:
            _log.error("credentials in the files are another party's", party=str(spiffe_id))
            return
        self._pair = pair
        _log.info("credentials read again", until=pair.validity[1].isoformat())


_Signature = tuple[tuple[int, int], ...]


def _read_pair(cert: Path, key: Path) -> tuple[SpiffeId, KeyPair]:
    """Whose they are, and certificate and key; the key that was to come where a renewal was cut
    off between the two files.
    """
    cert_pem = files.load_certificate(cert)
    if _next(key).exists():
        pair = KeyPair(cert_pem, files.load_key(_next(key)))
        try:
            return _check(pair, cert, _next(key)), pair
        except errors.WatariError:
            pass  # The renewal was cut off before the certificate: the present key counts.
    pair = KeyPair(cert_pem, files.load_key(key))
    return _check(pair, cert, key), pair


def _check(pair: KeyPair, cert: Path, key: Path) -> SpiffeId:
    """Whose the certificate is, once it is known to be that of the key."""
    try:
        certificate = pair.certificate
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise files.unreadable(cert, f"not a party's certificate: {error}") from error
    if pair.private_key.public_key() != certificate.public_key():
        raise files.unreadable(key, f"is not the key of {cert}")
    return SpiffeId.parse(uri)


def _next(key: Path) -> Path:
    return key.with_name(key.name + NEXT_SUFFIX)


def _signature(*paths: Path) -> _Signature:
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((stat.st_mtime_ns, stat.st_ino))
    return tuple(found)
