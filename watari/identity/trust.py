"""Which providers are accepted, and the check of a peer's certificate against its own provider."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from watari import errors, logs
from watari.identity import denials, files
from watari.identity.authority import BACKDATE_SECONDS
from watari.identity.denials import Denial
from watari.identity.spiffe import SpiffeId, validate_domain

PROVIDERS_MAX = 1000
"""Most providers in one federation: their roots are offered in every TLS handshake."""

CERTIFICATE_BYTES_MAX = 8 * 1024
"""A larger peer certificate is refused before it is parsed."""

VERIFIED_PEERS_MAX = 4096
"""Peers whose verified certificate is remembered; the least recently seen is forgotten."""

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises, as late as an extension is looked at, for a malformed certificate."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class _Verified:
    spiffe_id: SpiffeId
    issued_at: datetime
    """When the leaf itself was made."""
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True)
class _Root:
    domain: str
    pem: bytes
    certificates: list[x509.Certificate]
    denied: Mapping[SpiffeId, Denial]


@dataclass(frozen=True)
class _Roots:
    """One consistent reading of the trust folder."""

    signature: tuple[tuple[str, int, int], ...]
    by_domain: dict[str, _Root]


class TrustStore:
    """The CA bundles of the accepted providers: one `<domain>.pem` per provider in a folder, and
    what each of them denies in a `<domain>.denied.json` beside it.

    A file may hold several roots, for the time in which a provider changes its CA. The folder is
    read again when it changes. May be used from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the folder. Raises FailedPrecondition CREDENTIALS_UNREADABLE."""
        self.folder = folder
        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        if not folder.is_dir():
            raise files.unreadable(folder, "is not a folder")
        signature = _signature(folder)
        roots = [_read_root(folder / name) for name in _bundles(signature)]
        self._roots = _Roots(signature, {root.domain: root for root in roots})

    def domains(self) -> list[str]:
        """The accepted providers, sorted."""
        return sorted(self._current().by_domain)

    def roots_for(self, domain: str) -> bytes:
        """The roots of one provider, PEM. Raises Unauthenticated PROVIDER_UNKNOWN."""
        root = self._current().by_domain.get(domain)
        if root is None:
            raise _provider_unknown(domain)
        return root.pem

    def bundle(self) -> bytes:
        """The roots of all providers, PEM. Only for TLS; `verify_peer` tells them apart."""
        return b"".join(root.pem for root in self._current().by_domain.values())

    def refuses(self, peer: SpiffeId, since: datetime) -> bool:
        """Whether a party that proved itself at `since` may not go on: its provider is not accepted
        any more, or has denied it meanwhile.
        """
        root = self._current().by_domain.get(peer.domain)
        if root is None:
            return True
        denial = root.denied.get(peer)
        return denial is not None and denial.issued_until >= since

    def verify_peer(self, certificate: bytes, now: datetime) -> SpiffeId:
        """Who the certificate (PEM or DER) proves its holder to be at the moment `now`.

        Raises Unauthenticated: PROVIDER_UNKNOWN when its domain is not accepted,
        CERTIFICATE_DENIED when its provider has denied it, PEER_UNAUTHENTICATED when that domain's
        own root did not sign it, it is not valid at `now`, or it is not a Watari leaf.
        """
        roots = self._current()
        fingerprint = hashlib.sha256(certificate).digest()
        with self._lock:
            verified = self._verified.get(fingerprint)
        if verified is None:
            try:
                verified = _verify(certificate, roots.by_domain)
            except _UNREADABLE as error:
                raise _refused(f"the certificate cannot be read: {error}") from error
            self._remember(fingerprint, verified, roots)
        _require_not_denied(verified, roots.by_domain)
        if not verified.not_before <= now <= verified.not_after:
            raise _refused(
                f"the certificate of {verified.spiffe_id} is valid from {verified.not_before} "
                f"to {verified.not_after}, not at {now}"
            )
        return verified.spiffe_id

    def _remember(self, fingerprint: bytes, verified: _Verified, roots: _Roots) -> None:
        with self._lock:
            if roots is not self._roots:
                return  # Verified against roots that are no longer accepted.
            self._verified[fingerprint] = verified
            self._verified.move_to_end(fingerprint)
            if len(self._verified) > VERIFIED_PEERS_MAX:
                self._verified.popitem(last=False)

    def _current(self) -> _Roots:
        signature = _signature(self.folder)
        with self._lock:
            if signature != self._roots.signature:
                self._roots = _reread(self.folder, signature)
                self._verified.clear()
            return self._roots


def _require_not_denied(verified: _Verified, roots: Mapping[str, _Root]) -> None:
    root = roots.get(verified.spiffe_id.domain)
    if root is None:
        raise _provider_unknown(verified.spiffe_id.domain)
    denial = root.denied.get(verified.spiffe_id)
    if denial is not None and verified.issued_at <= denial.issued_until:
        raise errors.Unauthenticated(
            "CERTIFICATE_DENIED",
            f"the certificate of {verified.spiffe_id} was denied at {denial.issued_until}",
            hint="its provider's operator issues a new one: watari ca issue",
            party=verified.spiffe_id,
        )


def peer_key(certificate: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate that was verified before."""
    return _key(_parse(certificate))


def _signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of the folder appears, vanishes or is replaced."""
    try:
        found = sorted(folder.glob("*.pem"))
        denied = sorted(folder.glob(f"*{denials.SUFFIX}"))
        if max(len(found), len(denied)) > PROVIDERS_MAX:
            raise files.unreadable(folder, f"more than {PROVIDERS_MAX} providers")
        stats = [(path.name, path.stat()) for path in (*found, *denied)]
        return tuple((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
    except OSError as error:
        raise files.unreadable(folder, error.strerror or str(error)) from error


def _reread(folder: Path, signature: tuple[tuple[str, int, int], ...]) -> _Roots:
    """A file that has become unreadable costs its own provider the trust, and nobody else."""
    by_domain = {}
    for name in _bundles(signature):
        try:
            root = _read_root(folder / name)
        except errors.WatariError as error:
            _log.error("provider not trusted until its file is mended", problem=str(error))
        else:
            by_domain[root.domain] = root
    return _Roots(signature, by_domain)


def _bundles(signature: tuple[tuple[str, int, int], ...]) -> list[str]:
    return [name for name, _, _ in signature if name.endswith(".pem")]


def _read_root(path: Path) -> _Root:
    domain = validate_domain(path.name.removesuffix(".pem"))
    pem = files.load_certificate(path)
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise files.unreadable(path, f"not PEM certificates: {error}") from error
    denied = denials.load(path.parent, domain)
    return _Root(domain, pem if pem.endswith(b"\n") else pem + b"\n", certificates, denied)


def _verify(raw: bytes, roots: dict[str, _Root]) -> _Verified:
    leaf = _parse(raw)
    spiffe_id = _check_leaf(leaf)
    if spiffe_id.domain not in roots:
        raise _provider_unknown(spiffe_id.domain)
    signers = [root for root in roots[spiffe_id.domain].certificates if _signed_by(leaf, root)]
    if not signers:
        raise _refused(f"the CA of {spiffe_id.domain} did not sign the certificate of {spiffe_id}")
    # The same CA key may stand in several roots while a provider renews its CA: the last to end.
    root = max(signers, key=lambda signer: signer.not_valid_after_utc)
    return _Verified(
        spiffe_id,
        leaf.not_valid_before_utc + timedelta(seconds=BACKDATE_SECONDS),
        max(leaf.not_valid_before_utc, root.not_valid_before_utc),
        min(leaf.not_valid_after_utc, root.not_valid_after_utc),
    )


def _check_leaf(leaf: x509.Certificate) -> SpiffeId:
    """The leaf's one SPIFFE id, after its form was checked."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _refused(f"the certificate has {len(uris)} URI names instead of one")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except errors.InvalidArgument as error:
        raise _refused(error.message) from error
    if names.get_values_for_type(x509.DNSName) != [spiffe_id.dns_name]:
        raise _refused(f"the certificate of {spiffe_id} has DNS names that are not its own")
    if basic.ca or ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise _refused(f"the certificate of {spiffe_id} is not a party's")
    _key(leaf)
    return spiffe_id


def _signed_by(leaf: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return is_ca


def _parse(raw: bytes) -> x509.Certificate:
    if len(raw) > CERTIFICATE_BYTES_MAX:
        raise _refused(f"the certificate is larger than {CERTIFICATE_BYTES_MAX} bytes")
    load: Callable[[bytes], x509.Certificate] = (
        x509.load_pem_x509_certificate
        if raw.lstrip().startswith(b"-----")
        else x509.load_der_x509_certificate
    )
    return load(raw)


def _key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("the certificate's key is not ECDSA P-256")
    return key


def der(certificate_pem: bytes) -> bytes:
    """The first certificate of a PEM text, DER."""
    return x509.load_pem_x509_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)


def _refused(problem: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "PEER_UNAUTHENTICATED", problem, hint="issue the party's certificate again"
    )


def _provider_unknown(domain: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "PROVIDER_UNKNOWN",
        f"provider {domain} is not in this federation",
        hint=f"put its CA bundle into the trust folder as {domain}.pem",
        domain=domain,
    )
