"""Own authorities of what is stored in, etcd and PostgreSQL: nothing of the federation's trust.

A node's certificate is for its name on the network, as server and as peer; nodes let only
certificates of the name PEER_NAME join them (`--peer-cert-allowed-cn`), so that a directory's
certificate, which is the same authority's, reads and writes but is no member.
"""

import ipaddress
from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watari.clock import Clock

PEER_NAME = "etcd"
"""Common name of every node's certificate."""

VALID_DAYS = 3650
"""As long as the federation's own authorities: nobody renews these."""

BACKDATE_SECONDS = 300
"""Certificates begin a little in the past, for peers whose clock is behind."""


class StoreAuthority:
    """Makes its key, which leaves it only through `key_pem`, and issues certificates."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(f"{name} CA")
        builder = self._builder(self._subject, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.cert_pem = self._signed(builder)

    @property
    def key_pem(self) -> bytes:
        """Its key."""
        return _pem(self._key)

    def node(self, name: str, addresses: Sequence[str] = ()) -> tuple[bytes, bytes]:
        """Certificate and key of etcd's node that is reached as `name` or at `addresses`, PEM."""
        names: list[x509.GeneralName] = [
            *(x509.DNSName(each) for each in sorted({name, "localhost"})),
            *(
                x509.IPAddress(ipaddress.ip_address(each))
                for each in sorted({"127.0.0.1", *addresses})
            ),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._leaf(PEER_NAME, usages, names)

    def server(self, name: str) -> tuple[bytes, bytes]:
        """Certificate and key of a server that is reached as `name`, PEM."""
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        return self._leaf(name, [ExtendedKeyUsageOID.SERVER_AUTH], names)

    def client(self, name: str) -> tuple[bytes, bytes]:
        """Certificate and key of a client, PEM."""
        return self._leaf(name, [ExtendedKeyUsageOID.CLIENT_AUTH], [])

    def _leaf(
        self, common_name: str, usages: list[x509.ObjectIdentifier], names: list[x509.GeneralName]
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(_name(common_name), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return self._signed(builder), _pem(key)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = self._clock.now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=BACKDATE_SECONDS))
            .not_valid_after(now + timedelta(days=VALID_DAYS))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
