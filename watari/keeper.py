"""Keeps a process's certificate valid, and its trust folder as its provider has it.

Promises: a certificate is renewed once a third of its life is over, under a new key, without ending
a connection; what the provider's manager says about other providers is in the trust folder within a
second or two. While the manager is away both stay as they are, and certificates last for days.

Never: asks for another identity than the one it has, or forgets the own provider.
"""

import threading
from typing import Protocol

from watari import bundles, errors, logs, metrics
from watari.clock import Clock
from watari.identity import Identity, requests
from watari.rpc import ChannelPool, Target, call
from watari.v1 import federation_pb2, federation_pb2_grpc

CHECK_SECONDS = 1.0
"""How often the manager is asked whether trust has changed: how late a removal is known."""

ASK_SECONDS = 0.2
"""Between two questions because of providers that are not known."""

RENEW_AFTER = 1 / 3
"""The part of its life after which a certificate is renewed; the rest is for trying again."""

RETRY_SECONDS = 15.0
"""Between two tries to renew; less of a certificate's life where that is short."""

CALL_SECONDS_MAX = 5.0

_log = logs.get(__name__)


class Issuer(Protocol):
    """Whoever issues certificates and knows whom to trust. Each method raises WatariError."""

    def renew(self, request: bytes) -> bytes:
        """A certificate (DER) for a PKCS #10 request, in the name that the caller has proven."""
        ...

    def trust(self, version: bytes) -> federation_pb2.GetTrustResponse:
        """Whom the provider trusts; without bundles when that is still `version`."""
        ...


class ManagerIssuer:
    """The provider's manager, over mutual TLS."""

    def __init__(self, channels: ChannelPool, target: Target) -> None:
        self._channels = channels
        self._target = target

    def renew(self, request: bytes) -> bytes:
        message = federation_pb2.RenewCertificateRequest(certificate_request=request)
        stub = self._stub().RenewCertificate
        return call(stub, message, timeout_seconds=CALL_SECONDS_MAX).certificate

    def trust(self, version: bytes) -> federation_pb2.GetTrustResponse:
        message = federation_pb2.GetTrustRequest(version=version)
        return call(self._stub().GetTrust, message, timeout_seconds=CALL_SECONDS_MAX)

    def _stub(self) -> federation_pb2_grpc.IdentityServiceStub:
        return federation_pb2_grpc.IdentityServiceStub(self._channels.get(self._target))


def is_due(identity: Identity, clock: Clock) -> bool:
    """Whether it is time to renew a party's certificate."""
    made, end = identity.current().validity
    return clock.now() >= made + (end - made) * RENEW_AFTER


class Keeper:
    """Renews a certificate and follows the provider's trust. Call `check` every CHECK_SECONDS."""

    def __init__(self, identity: Identity, issuer: Issuer, clock: Clock) -> None:
        self._identity = identity
        self._issuer = issuer
        self._clock = clock
        self._version = b""
        self._failed_at: float | None = None
        self._asked_at: float | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Renews what is due and takes over what has changed. What fails is tried again."""
        with self._lock:
            self.renew_if_due()
            try:
                self._follow_trust()
            except errors.WatariError as error:
                _log.debug("trust not asked for", reason=error.reason, problem=error.message)

    def ask(self) -> None:
        """Takes over what has changed, unless that was just done: for a provider that is not known
        yet, because it has just joined.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            now = self._clock.monotonic()
            if self._asked_at is None or now >= self._asked_at + ASK_SECONDS:
                self._asked_at = now
                self._follow_trust()
        except (errors.WatariError, OSError) as error:
            _log.debug("trust not asked for", problem=str(error))
        finally:
            self._lock.release()

    def renew(self) -> None:
        """A new certificate under a new key, at once. Raises WatariError."""
        request, key_pem = requests.make(self._identity.spiffe_id)
        certificate = requests.pem_of(self._issuer.renew(request))
        try:
            self._identity.replace(certificate, key_pem)
        except OSError as error:
            _log.error("renewed certificate not written", problem=error.strerror or str(error))
        until = self._identity.current().validity[1]
        _log.info("certificate renewed", until=until.isoformat())

    def renew_if_due(self) -> None:
        """Renews the certificate when it is time. A failure is logged, and tried again later."""
        made, end = self._identity.current().validity
        metrics.certificate_expires(end)
        if not is_due(self._identity, self._clock):
            return
        pause = min(RETRY_SECONDS, (end - made).total_seconds() / 20)
        now = self._clock.monotonic()
        if self._failed_at is not None and now < self._failed_at + pause:
            return
        try:
            self.renew()
            self._failed_at = None
        except errors.WatariError as error:
            self._failed_at = now
            _log.warning(
                "certificate not renewed",
                until=end.isoformat(),
                reason=error.reason,
                problem=error.message,
            )

    def _follow_trust(self) -> None:
        answer = self._issuer.trust(self._version)
        if answer.version == self._version:
            return
        bundles.write(self._identity.trust.folder, self._identity.spiffe_id.domain, answer.bundles)
        self._version = answer.version
        _log.info("trust taken over", providers=len(answer.bundles))
