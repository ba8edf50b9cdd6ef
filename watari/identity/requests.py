"""Certificate requests (PKCS #10, RFC 2986): how a party asks for its next certificate."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from watari import errors
from watari.identity.spiffe import SpiffeId


def make(spiffe_id: SpiffeId) -> tuple[bytes, bytes]:
    """A request for a new key, DER, and that key, PEM. Its name is for people who look at it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return signed.public_bytes(serialization.Encoding.DER), key_pem


def pem_of(certificate: bytes) -> bytes:
    """A certificate that came as DER, PEM. Raises Internal PEER_ERROR when it is none."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
    except ValueError:
        raise errors.Internal("PEER_ERROR", "what was issued is no certificate") from None
    return parsed.public_bytes(serialization.Encoding.PEM)
