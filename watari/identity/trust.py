"""Which providers are accepted, and the check of a peer's certificate against its own provider."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from watari import errors, logs
from watari.identity import denials, files, leaves
from watari.identity.denials import Denial
from watari.identity.leaves import Verified
from watari.identity.spiffe import Role, SpiffeId, validate_domain

PROVIDERS_MAX = 1000
"""Most providers in one federation: their roots are offered in every TLS handshake."""

VERIFIED_PEERS_MAX = 4096
"""Peers whose verified certificate is remembered; the least recently seen is forgotten."""

LOOK_SECONDS_MAX = 0.1
"""A file that is written to in its place, by hand, is read again within this time. One that
appears, vanishes or is replaced is seen at once."""

_TICK_NS = 50_000_000
"""More than any file system lets pass between two moments that it tells apart."""

_log = logs.get(__name__)


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

    def of(self, spiffe_id: SpiffeId) -> list[x509.Certificate]:
        """The roots that may speak for a party: those of its domain. An invited party has none, it
        is known by its invitation (`watari.identity.invitation`).
        """
        if spiffe_id.role is Role.INVITEE:
            return []
        root = self.by_domain.get(spiffe_id.domain)
        if root is None:
            raise _provider_unknown(spiffe_id.domain)
        return root.certificates


_Stamp = tuple[int, int]
"""Modification and inode of the folder itself: changes when a file in it appears, vanishes or is
put in the place of another, which is how everything of Watari writes files here."""


@dataclass(frozen=True)
class _Look:
    """A look at every file of the folder. Each call asks whom to trust, and each file that is asked
    for lets another thread have the interpreter: mostly the folder alone is looked at.
    """

    stamp: _Stamp
    """Of the folder, before the files were looked at."""

    began: float
    """By the monotonic clock."""

    began_ns: int
    """By the clock that files are stamped with."""

    def still_holds(self, stamp: _Stamp, now: float) -> bool:
        """Whether nothing that the folder would show has changed since, and no file may have been
        written to in its place for longer than LOOK_SECONDS_MAX.
        """
        # A stamp that was young then may hide a second change within the same tick.
        settled = self.began_ns - stamp[0] > _TICK_NS
        return settled and stamp == self.stamp and now - self.began < LOOK_SECONDS_MAX


class TrustStore:
    """The CA bundles of the accepted providers: one `<domain>.pem` per provider in a folder, and
    what each of them denies in a `<domain>.denied.json` beside it.

    A file may hold several roots, for the time in which a provider changes its CA. The folder is
    read again when it changes. May be used from any thread.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the folder. Raises FailedPrecondition CREDENTIALS_UNREADABLE."""
        self.folder = folder
        self.ask: Callable[[], None] | None = None
        """Called when a provider is not known: somebody may know more. It brings the folder up to
        date if it can, and raises nothing.
        """

        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()
        self._newest: OrderedDict[SpiffeId, datetime] = OrderedDict()
        if not folder.is_dir():
            raise files.unreadable(folder, "is not a folder")
        signature = _signature(folder)
        roots = [_read_root(folder / name) for name in _bundles(signature)]
        self._roots = _Roots(signature, {root.domain: root for root in roots})
        self._look = _Look((0, 0), 0.0, 0)

    def domains(self) -> list[str]:
        """The accepted providers, sorted."""
        return sorted(self._current().by_domain)

    def roots_for(self, domain: str) -> bytes:
        """The roots of one provider, PEM. Raises Unauthenticated PROVIDER_UNKNOWN."""
        root = self._current().by_domain.get(domain)
        if root is None and self.ask is not None:
            self.ask()
            root = self._current().by_domain.get(domain)
        if root is None:
            raise _provider_unknown(domain)
        return root.pem

    def accepted(self) -> dict[str, tuple[bytes, Mapping[SpiffeId, Denial]]]:
        """Roots (PEM) and denials of every accepted provider."""
        return {
            domain: (root.pem, root.denied) for domain, root in self._current().by_domain.items()
        }

    def stamp(self) -> object:
        """Something that equals itself for as long as nothing of the folder changes."""
        return self._current().signature

    def bundle(self) -> bytes:
        """The roots of all providers, PEM. Only for TLS; `verify_peer` tells them apart."""
        return b"".join(root.pem for root in self._current().by_domain.values())

    def refuses(self, peer: SpiffeId, since: datetime) -> bool:
        """Whether a party that proved itself at `since` may not go on: its provider is not accepted
        any more, or has denied the certificate that it showed. A denial may be heard of late: of
        before `since`, it counts while no newer certificate of the party was seen here.
        """
        root = self._current().by_domain.get(peer.domain)
        if root is None:
            return True
        denial = root.denied.get(peer)
        if denial is None:
            return False
        with self._lock:
            newest = self._newest.get(peer)
        return denial.issued_until >= since or (
            newest is not None and newest <= denial.issued_until
        )

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
                verified = leaves.verify(certificate, roots.of)
            except errors.Unauthenticated as error:
                if error.reason != "PROVIDER_UNKNOWN" or self.ask is None:
                    raise
                self.ask()
                roots = self._current()
                verified = leaves.verify(certificate, roots.of)
            self._remember(fingerprint, verified, roots)
        _require_not_denied(verified, roots.by_domain)
        self._note_newest(verified)
        return verified.require_valid(now)

    def _note_newest(self, verified: Verified) -> None:
        peer = verified.spiffe_id
        with self._lock:
            known = self._newest.get(peer)
            self._newest[peer] = max(known or verified.issued_at, verified.issued_at)
            self._newest.move_to_end(peer)
            if len(self._newest) > VERIFIED_PEERS_MAX:
                self._newest.popitem(last=False)

    def _remember(self, fingerprint: bytes, verified: Verified, roots: _Roots) -> None:
        with self._lock:
            if roots is not self._roots:
                return  # Verified against roots that are no longer accepted.
            self._verified[fingerprint] = verified
            self._verified.move_to_end(fingerprint)
            if len(self._verified) > VERIFIED_PEERS_MAX:
                self._verified.popitem(last=False)

    def _current(self) -> _Roots:
        began = time.monotonic()
        stamp = _stamp(self.folder)
        with self._lock:
            if self._look.still_holds(stamp, began):
                return self._roots
        look = _Look(stamp, began, time.time_ns())
        signature = _signature(self.folder)
        with self._lock:
            if signature != self._roots.signature:
                self._roots = _reread(self.folder, signature)
                self._verified.clear()
            self._look = look
            return self._roots


def _require_not_denied(verified: Verified, roots: Mapping[str, _Root]) -> None:
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


def _stamp(folder: Path) -> _Stamp:
    try:
        found = folder.stat()
    except OSError as error:
        raise files.unreadable(folder, error.strerror or str(error)) from error
    return found.st_mtime_ns, found.st_ino


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


def _provider_unknown(domain: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "PROVIDER_UNKNOWN",
        f"provider {domain} is not in this federation",
        hint="let it join: watari federation invite; `watari federation list` shows who has",
        domain=domain,
    )
