"""The provider's authority: issues, denies, and makes way for the next one.

    folder/ca.pem, ca.key            the one that issues
          /next/ca.pem, ca.key       the one that is to follow, already accepted here

A new authority is accepted before it issues: its certificate stands in the own trust file, second,
and so in the bundle that others are told. When every accepted provider has that bundle, it takes
over. The old one stays accepted until everything that it may have issued has run out.
"""

import hashlib
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from manager import audit
from manager.federation import rows
from manager.federation.telling import Teller
from manager.settings.federation import AuthoritySettings
from manager.store import Store, micros, moment
from watari import errors, logs
from watari.clock import Clock
from watari.identity import Authority, Denial, Identity, SpiffeId, create_ca, denials, files, leaves
from watari.identity.authority import CERTIFICATE_FILE, KEY_FILE

NEXT_FOLDER = "next"

DENIAL_KEPT = timedelta(days=100)
"""What was issued earlier has run out: no certificate of a party lasts longer than ninety days."""

PASSPHRASE_BYTES_MAX = 1024

_log = logs.get(__name__)


@dataclass(frozen=True)
class Rotation:
    """How far the change to a new authority is."""

    ca_sha256: bytes
    waiting_for: Sequence[str]
    issuing: bool
    old_until: datetime | None


class Authorities:
    """The authority of this provider. From any thread."""

    def __init__(
        self,
        settings: AuthoritySettings,
        own: Identity,
        store: Store,
        clock: Clock,
        teller: Teller,
    ) -> None:
        """Raises FailedPrecondition CREDENTIALS_UNREADABLE, KEY_FILE_TOO_OPEN."""
        self._leaf_seconds = settings.leaf_seconds
        self._overlap_seconds = settings.overlap_seconds
        self._own = own
        self._store = store
        self._clock = clock
        self._teller = teller
        self._lock = threading.RLock()
        self._folder = settings.folder
        self._passphrase = _passphrase(settings.passphrase_file)
        self._issuing = None if self._folder is None else self._load(self._folder)

    def issue(self, request: bytes, party: SpiffeId) -> bytes:
        """A certificate (DER) for a party and the key of its PKCS #10 request. Raises Unimplemented
        NOT_SERVED, InvalidArgument INVALID_FIELD, Unauthenticated SIGNATURE_INVALID.
        """
        with self._lock:
            # Again, under the lock that denials take: one may have come since the call was let in.
            denied = self._own.trust.refuses(party, self._clock.now())
            if denied and party != self._own.spiffe_id:
                raise errors.Unauthenticated(
                    "CERTIFICATE_DENIED", f"{party} was denied", hint="watari ca issue"
                )
            certificate = self._require().issue_for(party, request, self._leaf_seconds)
        sha256 = hashlib.sha256(certificate).hexdigest()
        self._note("certificate.issued", party, party, certificate_sha256=sha256)
        return certificate

    def revoke(self, party: SpiffeId, reason: str, caller: SpiffeId) -> Denial:
        """Denies what a party was issued until now. Raises InvalidArgument INVALID_FIELD."""
        domain, now = self._own.spiffe_id.domain, self._clock.now()
        if party.domain != domain:
            raise errors.InvalidArgument(
                "INVALID_FIELD",
                f"{party} is another provider's",
                hint=f"a party of {domain} can be revoked here; a whole provider, removed",
                field="spiffe_id",
            )
        with self._lock:
            folder = self._own.trust.folder
            known = denials.load(folder, domain).values()
            kept = [each for each in known if each.issued_until > now - DENIAL_KEPT]
            denial = Denial(party, now, reason)
            denials.save(folder, domain, denials.merged(kept, [denial]))
        self._note("party.denied", party, caller, reason=reason)
        _log.warning("party denied", party=str(party))
        return denial

    def rotate(self, caller: SpiffeId) -> Rotation:
        """Begins to change the authority, or tells how far that is. Raises Unimplemented."""
        with self._lock:
            issuing = self._require()
            if self._next() is None and not self._old():
                following = create_ca(issuing.domain, self._clock)
                following.save(self._next_folder(), self._passphrase)
                self._accept([issuing.cert_pem, following.cert_pem])
                self._note("authority.made", following.fingerprint.hex(), caller)
                _log.warning("new authority made", sha256=following.fingerprint.hex())
            return self._rotation()

    def step(self) -> None:
        """Lets the next authority issue, and the old one go, when it is time: for now and then."""
        with self._lock:
            if self._issuing is None:
                return
            following = self._next()
            if following is not None and not self._is_accepted(following):
                self._accept([self._issuing.cert_pem, following.cert_pem])  # it was cut off there
            elif following is not None and not self._teller.waiting_for():
                self._promote(self._issuing, following)
            for sha256, accepted_until in self._old():
                if sha256 == self._issuing.fingerprint:
                    continue  # cut off before the next one took its place
                if self._clock.now() >= moment(accepted_until):
                    self._drop(sha256)

    def _promote(self, before: Authority, following: Authority) -> None:
        until = self._clock.now() + timedelta(seconds=self._overlap_seconds)
        with self._store.write() as connection:
            rows.put_old_authority(connection, before.fingerprint, micros(until))
        folder = self._folder
        assert folder is not None  # noqa: S101 - there is one that issues
        # First the certificate: `_load` goes on from here when the process ends in between.
        files.save_certificate(folder / CERTIFICATE_FILE, following.cert_pem)
        self._finish(folder)
        self._issuing = following
        self._accept([following.cert_pem, before.cert_pem])
        self._note("authority.issues", following.fingerprint.hex(), self._own.spiffe_id)
        _log.warning("new authority issues", sha256=following.fingerprint.hex())

    def _drop(self, sha256: bytes) -> None:
        pem = self._own.trust.roots_for(self._own.spiffe_id.domain)
        kept = [each for each in leaves.split(pem) if leaves.fingerprint(each) != sha256]
        self._accept(kept)
        with self._store.write() as connection:
            rows.drop_old_authority(connection, sha256)
        self._note("authority.dropped", sha256.hex(), self._own.spiffe_id)
        _log.warning("old authority is not accepted any more", sha256=sha256.hex())

    def _is_accepted(self, authority: Authority) -> bool:
        pem = self._own.trust.roots_for(self._own.spiffe_id.domain)
        return authority.fingerprint in map(leaves.fingerprint, leaves.split(pem))

    def _accept(self, pems: Sequence[bytes]) -> None:
        """Makes these the own provider's roots, the one that issues first."""
        path = self._own.trust.folder / f"{self._own.spiffe_id.domain}.pem"
        files.save_certificate(path, b"".join(pems))

    def _rotation(self) -> Rotation:
        following, issuing, old = self._next(), self._require(), self._old()
        if following is not None:
            return Rotation(following.fingerprint, self._teller.waiting_for(), False, None)
        until = moment(old[0][1]) if old else None
        return Rotation(issuing.fingerprint, (), True, until)

    def _note(self, action: str, subject: object, actor: SpiffeId, **details: object) -> None:
        now = micros(self._clock.now())
        with self._store.write() as connection:
            audit.append(
                connection,
                now,
                actor=actor,
                action=action,
                subject=str(subject),
                details=details,
            )

    def _old(self) -> Sequence[tuple[bytes, int]]:
        with self._store.read() as connection:
            return rows.old_authorities(connection)

    def _next_folder(self) -> Path:
        assert self._folder is not None  # noqa: S101 - asked only where there is one
        return self._folder / NEXT_FOLDER

    def _next(self) -> Authority | None:
        folder = self._next_folder()
        if not (folder / KEY_FILE).exists():
            return None
        return Authority.load(folder, self._clock, self._passphrase)

    def _load(self, folder: Path) -> Authority:
        try:
            found = Authority.load(folder, self._clock, self._passphrase)
        except errors.FailedPrecondition:
            if not _is_half_done(folder):
                raise
            self._finish(folder)
            found = Authority.load(folder, self._clock, self._passphrase)
        if found.domain != self._own.spiffe_id.domain:
            raise files.unreadable(folder, f"is the authority of {found.domain}")
        return found

    def _finish(self, folder: Path) -> None:
        (folder / NEXT_FOLDER / KEY_FILE).replace(folder / KEY_FILE)
        shutil.rmtree(folder / NEXT_FOLDER)

    def _require(self) -> Authority:
        if self._issuing is None:
            raise errors.Unimplemented(
                "NOT_SERVED",
                "this manager has no authority's key and issues nothing",
                hint="set [manager.authority] folder, or issue by hand: watari ca issue",
            )
        return self._issuing


def _is_half_done(folder: Path) -> bool:
    """Whether the next authority's certificate has taken its place, and its key not yet."""
    following = folder / NEXT_FOLDER
    if not (following / KEY_FILE).exists():
        return False
    present, coming = folder / CERTIFICATE_FILE, following / CERTIFICATE_FILE
    return files.load_certificate(present) == files.load_certificate(coming)


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    lines = files.load_key(path)[:PASSPHRASE_BYTES_MAX].splitlines()
    if not lines or not lines[0]:
        raise files.unreadable(path, "has no passphrase in its first line")
    return lines[0]
