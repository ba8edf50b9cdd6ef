"""A provider's certificate authority: makes itself, and issues leaves to the provider's parties."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watari import errors
from watari.clock import Clock
from watari.identity.spiffe import SpiffeId, validate_domain

CA_DAYS_DEFAULT = 3650
"""Ten years: changing a CA means that every provider of the federation accepts a new one."""

LEAF_SECONDS_DEFAULT = 90 * 24 * 3600
"""Ninety days, as public authorities do; leaves are cheap to issue again."""

BACKDATE_SECONDS = 300
"""Certificates begin a little in the past, for peers whose clock is behind. Denials reckon with it:
a certificate is as old as its beginning and this.
"""


@dataclass(frozen=True)
class Authority:
    """A CA with its key, PEM. `clock` dates what it issues."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    clock: Clock

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
        if spiffe_id.domain != self.domain:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"the CA of {self.domain} cannot issue for {spiffe_id}",
                hint=f"use the CA of {spiffe_id.domain}",
                field="spiffe_id",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        now = self.clock.now()
        until = min(now + timedelta(seconds=valid_seconds), self._certificate.not_valid_after_utc)
        builder = _builder(_name(spiffe_id.domain, spiffe_id.name), key, now, until)
        builder = builder.issuer_name(self._certificate.subject)
        ca_key = serialization.load_pem_private_key(self.key_pem, password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise errors.FailedPrecondition(
                "CREDENTIALS_UNREADABLE", "the CA's key is not ECDSA", hint="make the CA again"
            )
        certificate = _leaf_extensions(builder, spiffe_id, self._certificate).sign(
            ca_key, hashes.SHA256()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)

    @property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.cert_pem)


def create_ca(domain: str, clock: Clock, days: int = CA_DAYS_DEFAULT) -> Authority:
    """A new, self-signed CA that may issue leaves for parties of `domain` only."""
    validate_domain(domain)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(domain, "Watari CA")
    now = clock.now()
    names: list[x509.GeneralName] = [
        x509.DNSName(domain),
        x509.UniformResourceIdentifier(domain),
    ]
    certificate = (
        _builder(subject, key, now, now + timedelta(days=days))
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(names, excluded_subtrees=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key), clock)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
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


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
