"""What the provider's own servers are told: whose authorities are accepted, and what is denied."""

import hashlib
import threading

from watari import bundles
from watari.identity import TrustStore
from watari.v1 import federation_pb2


class Trusting:
    """The manager's trust folder as an answer. From any thread."""

    def __init__(self, trust: TrustStore) -> None:
        self._trust = trust
        self._lock = threading.Lock()
        self._seen: object = None
        self._answer = federation_pb2.GetTrustResponse()

    def get(self, version: bytes) -> federation_pb2.GetTrustResponse:
        """All of it; only its version for who has that already."""
        current = self._current()
        if version == current.version:
            return federation_pb2.GetTrustResponse(version=version)
        return current

    def _current(self) -> federation_pb2.GetTrustResponse:
        stamp = self._trust.stamp()
        with self._lock:
            if stamp != self._seen:
                self._answer, self._seen = self._made(), stamp
            return self._answer

    def _made(self) -> federation_pb2.GetTrustResponse:
        accepted = self._trust.accepted()
        answer = federation_pb2.GetTrustResponse(
            bundles=[
                bundles.bundle_of(domain, pem, denied)
                for domain, (pem, denied) in sorted(accepted.items())
            ]
        )
        said = answer.SerializeToString(deterministic=True)
        answer.version = hashlib.sha256(said).digest()
        return answer
