"""A provider's certificate authority: makes itself, and issues leaves to the provider's parties.

In a folder it is `ca.pem` and `ca.key`, the key encrypted if its owner likes.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watari import errors
from watari.clock import Clock
from watari.identity import files
from watari.identity.spiffe import SpiffeId, validate_domain

CA_DAYS_DEFAULT = 3650
"""Ten years: changing a CA means that every provider of the federation accepts a new one."""

LEAF_SECONDS_DEFAULT = 3 * 24 * 3600
"""Three days: a host that is off over a weekend can still renew its certificate by itself."""

CERTIFICATE_FILE, KEY_FILE = "ca.pem", "ca.key"

REQUEST_BYTES_MAX = 8 * 1024
"""A larger certificate request is refused before it is parsed."""

BACKDATE_SECONDS = 300
"""Certificates begin a little in the past, for peers whose clock is behind. Denials reckon with it:
a certificate is as old as its beginning and this.
"""


@dataclass(frozen=True)
class Authority:
    """A CA with its key, PEM and not encrypted. `clock` dates what it issues."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    clock: Clock

    @classmethod
    def load(cls, folder: Path, clock: Clock, passphrase: bytes | None = None) -> "Authority":
        """The one in a folder.

        Raises FailedPrecondition: KEY_FILE_TOO_OPEN, and CREDENTIALS_UNREADABLE when it is not
        there, or its key is encrypted and the passphrase is missing or wrong.
        """
        cert_pem = files.load_certificate(folder / CERTIFICATE_FILE)
        path = folder / KEY_FILE
        try:
            key = serialization.load_pem_private_key(files.load_key(path), passphrase)
            certificate = x509.load_pem_x509_certificate(cert_pem)
        except TypeError:
            given = "is not encrypted" if passphrase else "is encrypted: its passphrase is needed"
            raise files.unreadable(path, given) from None
        except ValueError:
            problem = "the passphrase is wrong" if passphrase else "no key or no certificate"
            raise files.unreadable(path, problem) from None
        if key.public_key() != certificate.public_key():
            raise files.unreadable(path, f"is not the key of {CERTIFICATE_FILE}")
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise files.unreadable(path, "is not an ECDSA key")
        return cls(cert_pem, _pem(key), clock)

    def save(self, folder: Path, passphrase: bytes | None = None) -> None:
        """Write it to a folder, the key encrypted with the passphrase if there is one (PKCS #8,
        PBES2). Raises OSError.
        """
        files.save_key(folder / KEY_FILE, _pem(self._key, passphrase))
        files.save_certificate(folder / CERTIFICATE_FILE, self.cert_pem)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of its certificate: what people compare."""
        return self._certificate.fingerprint(hashes.SHA256())

    @property
    def domain(self) -> str:
        """The provider domain that it speaks for."""
        common_name = self._certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        return str(common_name[0].value)

    def issue(
        self, spiffe_id: SpiffeId, valid_seconds: float = LEAF_SECONDS_DEFAULT
    ) -> tuple[bytes, bytes]:
        """A new certificate and key for a party of this provider, PEM.

        It never outlives the CA. Raises InvalidArgument INVALID_FIELD for another provider's party.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(spiffe_id, key.public_key(), valid_seconds)
        return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)

    def issue_for(
        self,
        spiffe_id: SpiffeId,
        request: bytes,
        valid_seconds: float = LEAF_SECONDS_DEFAULT,
    ) -> bytes:
        """A new certificate for the key of a PKCS #10 request, both DER. The request's own names
        count for nothing: `spiffe_id` is what the requester has proven.

        Raises InvalidArgument INVALID_FIELD, Unauthenticated SIGNATURE_INVALID.
        """
        certificate = self._sign(spiffe_id, _requested_key(request), valid_seconds)
        return certificate.public_bytes(serialization.Encoding.DER)

    def _sign(
        self, spiffe_id: SpiffeId, key: ec.EllipticCurvePublicKey, valid_seconds: float
    ) -> x509.Certificate:
        if spiffe_id.domain != self.domain:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"the CA of {self.domain} cannot issue for {spiffe_id}",
                hint=f"use the CA of {spiffe_id.domain}",
                field="spiffe_id",
            )
        now = self.clock.now()
        until = min(now + timedelta(seconds=valid_seconds), self._certificate.not_valid_after_utc)
        builder = _builder(_name(spiffe_id.domain, spiffe_id.name), key, now, until)
        builder = builder.issuer_name(self._certificate.subject)
        builder = _leaf_extensions(builder, spiffe_id, self._certificate)
        return builder.sign(self._key, hashes.SHA256())

    @property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.cert_pem)

    @property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise errors.FailedPrecondition(
                "CREDENTIALS_UNREADABLE", "the CA's key is not ECDSA", hint="make the CA again"
            )
        return key


def create_ca(
    domain: str,
    clock: Clock,
    days: int = CA_DAYS_DEFAULT,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    title: str | None = None,
) -> Authority:
    """A new, self-signed CA that may issue leaves for parties of `domain` only.

    `title` is its common name, which is another one at every call unless it is given: TLS libraries
    look for a certificate's issuer by name, and two CAs of a provider may be accepted at a time.
    """
    validate_domain(domain)
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = _name(domain, title or f"Watari CA {clock.now():%Y%m%d} {secrets.token_hex(4)}")
    now = clock.now()
    names: list[x509.GeneralName] = [
        x509.DNSName(domain),
        x509.UniformResourceIdentifier(domain),
    ]
    certificate = (
        _builder(subject, key.public_key(), now, now + timedelta(days=days))
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(names, excluded_subtrees=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key), clock)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _leaf_extensions(
    builder: x509.CertificateBuilder, spiffe_id: SpiffeId, issuer: x509.Certificate
) -> x509.CertificateBuilder:
    names = [x509.UniformResourceIdentifier(str(spiffe_id)), x509.DNSName(spiffe_id.dns_name)]
    issuer_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
    )


def _name(domain: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain, _validate=False),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _requested_key(raw: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request whose holder has signed it."""
    if len(raw) > REQUEST_BYTES_MAX:
        raise _bad_request(f"is larger than {REQUEST_BYTES_MAX} bytes")
    try:
        request = x509.load_der_x509_csr(raw)
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _bad_request("is no PKCS #10 request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_request("is not for an ECDSA P-256 key")
    if not signed:
        raise errors.Unauthenticated(
            "SIGNATURE_INVALID", "the certificate request is not signed with its own key"
        )
    return key


def _bad_request(what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"the certificate request {what}", field="certificate_request"
    )


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
