"""A party's own identity: its certificate and key, and whom it trusts."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from watari.identity import files
from watari.identity.spiffe import SpiffeId
from watari.identity.trust import TrustStore

CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
TRUST_FOLDER = "trust"


@dataclass(frozen=True)
class Identity:
    """Who this process is. The key never leaves it; `repr` does not show it."""

    spiffe_id: SpiffeId
    cert_pem: bytes
    key_pem: bytes
    trust: TrustStore

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
        cert_pem, key_pem = files.load_certificate(cert), files.load_key(key)
        try:
            certificate = x509.load_pem_x509_certificate(cert_pem)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except (ValueError, x509.ExtensionNotFound) as error:
            raise files.unreadable(cert, f"not a party's certificate: {error}") from error
        loaded = cls(SpiffeId.parse(uri), cert_pem, key_pem, TrustStore(trust))
        if loaded.private_key.public_key() != certificate.public_key():
            raise files.unreadable(key, f"is not the key of {cert}")
        return loaded

    def save(self, folder: Path) -> None:
        """Write certificate and key where `load_folder` finds them; leaves the trust folder."""
        files.save_key(folder / KEY_FILE, self.key_pem)
        files.save_certificate(folder / CERTIFICATE_FILE, self.cert_pem)

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
