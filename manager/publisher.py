"""Keeps the directory told about this cloud, under a lease. Outages are noted only."""

import uuid
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from manager import capacity, catalogue
from manager.accounting.price_sheet import PriceSheet
from manager.directories import Directories
from manager.links import records as link_records
from manager.links import rows as link_rows
from manager.settings import Settings
from manager.store import Store, micros
from watari import errors, failpoint, identity, logs
from watari.clock import Clock
from watari.v1 import common_pb2, directory_pb2

AFTER_LEASE = failpoint.declare("manager.publisher.after_lease")

_log = logs.get(__name__)
_Key = tuple[directory_pb2.RecordKind.ValueType, str]


class Publisher:
    """Publishes when something changed, and at a coarse interval."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        own: identity.Identity,
        directories: Directories,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._sheet = sheet
        self._settings = settings
        self._store = store
        self._clock = clock
        self._own = own
        self._directories = directories
        advertised = settings.advertise_address or settings.address
        self._endpoint = common_pb2.Endpoint(address=advertised, spiffe_id=str(own.spiffe_id))
        self._lease_id: str | None = None
        self._renew_at = 0.0
        self._refresh_at = 0.0
        self._published: dict[_Key, directory_pb2.Record] = {}
        self._problem: common_pb2.Problem | None = None

    @property
    def problem(self) -> common_pb2.Problem | None:
        """Why the directory does not take what is published; None when it does."""
        return self._problem

    def check(self) -> None:
        """Keep the lease, and publish what changed."""
        try:
            self._keep_lease()
            self._publish_changes()
        except errors.WatariError as error:
            if error.reason == "LEASE_NOT_FOUND":
                self._lease_id = None  # The next check grants a new one and publishes all.
            if self._problem is None:
                _log.warning("directory does not answer", reason=error.reason)
            self._problem = errors.to_problem(error)
        else:
            if self._problem is not None:
                _log.info("directory answers again")
            self._problem = None

    def _keep_lease(self) -> None:
        now, ttl_seconds = self._clock.monotonic(), self._settings.publish.lease_ttl_seconds
        if self._lease_id is not None and now < self._renew_at:
            return
        if self._lease_id is None:
            request = directory_pb2.GrantLeaseRequest(
                lease_id=str(uuid.uuid4()),
                cloud_id=self._settings.cloud_id,
                ttl_seconds=ttl_seconds,
            )
            self._directories.grant_lease(request)
            self._lease_id, self._published = request.lease_id, {}
            failpoint.hit(AFTER_LEASE)
        else:
            self._directories.renew_lease(self._lease_id)
        self._renew_at = now + ttl_seconds / 3

    def _publish_changes(self) -> None:
        now, records = self._clock.monotonic(), self._records()
        current = {(record.key.kind, record.key.name): record for record in records}
        old = {} if now >= self._refresh_at else self._published
        puts = [record for key, record in current.items() if old.get(key) != record]
        gone = [self._published[key].key for key in self._published.keys() - current.keys()]
        if not puts and not gone:
            return
        for batch in catalogue.batches(puts, gone):
            request = directory_pb2.PublishRequest(
                request_id=str(uuid.uuid4()), lease_id=self._lease_id or "", deletes=batch.deletes
            )
            request.puts.extend(directory_pb2.RecordPut(record=record) for record in batch.puts)
            self._directories.publish(request)
            # What follows may fail: this much has been published.
            self._published |= {(each.key.kind, each.key.name): each for each in batch.puts}
            for key in batch.deletes:
                self._published.pop((key.kind, key.name), None)
        self._refresh_at = now + self._settings.publish.refresh_seconds

    def _records(self) -> list[directory_pb2.Record]:
        with self._store.read() as connection:
            hosts = capacity.views(connection, self._settings.agents)
            links = link_rows.every(connection).values()
        known = {host.host_id: sorted(host.traits) for host in hosts}
        domain = self._own.spiffe_id.domain
        roots = x509.load_pem_x509_certificates(self._own.trust.roots_for(domain))
        authorities = [each.public_bytes(Encoding.DER) for each in roots]
        settings, now = self._settings, micros(self._clock.now())
        return [
            *catalogue.records(
                settings, domain, self._endpoint, hosts, known, authorities, sheet=self._sheet()
            ),
            *link_records.records(settings.cloud_id, links, now, settings.links),
        ]
