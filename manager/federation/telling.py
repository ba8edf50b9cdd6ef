"""Tells accepted providers what has changed here, until they have it."""

from dataclasses import dataclass

from manager.federation import rows
from manager.federation.own import OwnBundle
from manager.federation.rows import ProviderRow, State
from manager.settings.federation import FederationSettings
from manager.store import Store
from watari import errors, logs
from watari.clock import Clock
from watari.identity import SpiffeId
from watari.rpc import ChannelPool, Target, call
from watari.v1 import federation_pb2, federation_pb2_grpc

RETRY_INITIAL_SECONDS = 1.0

_log = logs.get(__name__)


@dataclass
class _Silent:
    """A provider that did not answer."""

    delay_seconds: float
    again_at: float


class Teller:
    """Call `tell` now and then. For one thread at a time."""

    def __init__(
        self,
        bundle: OwnBundle,
        store: Store,
        clock: Clock,
        channels: ChannelPool,
        limits: FederationSettings,
    ) -> None:
        self._bundle = bundle
        self._store = store
        self._clock = clock
        self._channels = channels
        self._limits = limits
        self._silent: dict[str, _Silent] = {}

    def tell(self) -> None:
        """Brings the own bundle to whoever has an older one and is due."""
        own = self._bundle.current()
        with self._store.read() as connection:
            accepted = rows.providers(connection, state=State.ACCEPTED)
        for row in accepted:
            silent = self._silent.get(row.domain)
            due = silent is None or self._clock.monotonic() >= silent.again_at
            if row.told_sequence < own.sequence and due:
                self._tell_one(row)

    def waiting_for(self) -> list[str]:
        """Accepted providers that do not have the newest bundle."""
        own = self._bundle.current()
        with self._store.read() as connection:
            accepted = rows.providers(connection, state=State.ACCEPTED)
        return [row.domain for row in accepted if row.told_sequence < own.sequence]

    def _tell_one(self, row: ProviderRow) -> None:
        manager = row.bundle.manager
        target = Target(manager.address, SpiffeId.parse(manager.spiffe_id))
        document = self._bundle.signed()
        sequence = federation_pb2.Bundle.FromString(document.payload).sequence
        try:
            stub = federation_pb2_grpc.FederationServiceStub(self._channels.get(target))
            request = federation_pb2.PutBundleRequest(bundle=document)
            call(stub.PutBundle, request, timeout_seconds=self._limits.call_seconds_max)
        except errors.WatariError as error:
            before = self._silent.get(row.domain)
            delay = before.delay_seconds * 2 if before else RETRY_INITIAL_SECONDS
            delay = min(delay, self._limits.retry_max_seconds)
            self._silent[row.domain] = _Silent(delay, self._clock.monotonic() + delay)
            _log.info("provider not told yet", domain=row.domain, reason=error.reason)
            return
        self._silent.pop(row.domain, None)
        with self._store.write() as connection:
            rows.told(connection, row.domain, sequence)
        _log.info("provider told", domain=row.domain, sequence=sequence)
