"""What this provider tells others about itself: its authorities, denials, manager and clouds."""

import hashlib
import threading

from manager.federation import rows
from manager.settings import Settings
from manager.store import Store
from watari import bundles, identity
from watari.identity import Identity
from watari.v1 import common_pb2, federation_pb2


class OwnBundle:
    """The own bundle, numbered anew whenever it says something else. From any thread."""

    def __init__(self, settings: Settings, own: Identity, store: Store) -> None:
        self._settings = settings
        self._own = own
        self._store = store
        self._lock = threading.Lock()
        self._last: tuple[bytes, federation_pb2.Bundle] | None = None

    @property
    def fingerprint(self) -> bytes:
        """What people compare."""
        return fingerprint(self.current())

    def current(self) -> federation_pb2.Bundle:
        """As it is now, with its number. Raises Unauthenticated, and what the database raises."""
        with self._lock:
            said = self._said()
            digest = hashlib.sha256(said.SerializeToString(deterministic=True)).digest()
            if self._last is None or self._last[0] != digest:
                said.sequence = self._numbered(digest)
                self._last = digest, said
            return self._last[1]

    def signed(self) -> common_pb2.SignedDocument:
        """It, signed by this manager."""
        payload = self.current().SerializeToString(deterministic=True)
        return identity.sign(self._own, payload, bundles.PURPOSE)

    def _said(self) -> federation_pb2.Bundle:
        settings, domain = self._settings, self._own.spiffe_id.domain
        pem, denied = self._own.trust.accepted()[domain]
        bundle = bundles.bundle_of(domain, pem, denied)
        bundle.manager.address = settings.advertise_address or settings.address
        bundle.manager.spiffe_id = str(self._own.spiffe_id)
        bundle.cloud_ids.append(settings.cloud_id)
        bundle.display_name = settings.display_name or settings.cloud_id
        return bundle

    def _numbered(self, digest: bytes) -> int:
        with self._store.write() as connection:
            sequence, known = rows.own_bundle(connection)
            if known == digest:
                return sequence
            rows.put_own_bundle(connection, sequence + 1, digest)
            return sequence + 1


def fingerprint(bundle: federation_pb2.Bundle) -> bytes:
    """What people compare: SHA-256 of the authority's certificate; of several, while the provider
    changes its authority, SHA-256 over theirs in order, so that none comes in unseen.
    """
    found = [hashlib.sha256(der).digest() for der in bundle.authorities]
    return found[0] if len(found) == 1 else hashlib.sha256(b"".join(found)).digest()
