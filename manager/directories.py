"""Calls to the directory: the configured servers in order of preference, the first that answers."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from manager.settings.publishing import PublishSettings
from watari import errors
from watari.identity import SpiffeId
from watari.rpc import client
from watari.settings import EndpointSettings
from watari.v1 import directory_pb2, directory_pb2_grpc

CLOUDS_MAX = 10_000
"""Clouds of the federation that a manager keeps in mind."""

_Answer = TypeVar("_Answer")
_Stub = directory_pb2_grpc.DirectoryServiceStub


class Directories:
    """The federation's directory. Every method raises Unavailable when no server answers."""

    def __init__(
        self,
        servers: Sequence[EndpointSettings],
        channels: client.ChannelPool,
        limits: PublishSettings,
    ) -> None:
        self._servers = servers
        self._channels = channels
        self._deadline = limits.call_seconds_max

    @property
    def configured(self) -> bool:
        """Whether there is any server to ask."""
        return bool(self._servers)

    def cloud(self, cloud_id: str) -> directory_pb2.Cloud:
        """A cloud's record. Raises NotFound RECORD_NOT_FOUND."""
        key = directory_pb2.RecordKey(
            kind=directory_pb2.RECORD_KIND_CLOUD, cloud_id=cloud_id, name="main"
        )
        request = directory_pb2.GetRecordRequest(key=key)
        return self._first(
            lambda stub: client.call(stub.GetRecord, request, timeout_seconds=self._deadline)
        ).record.cloud

    def clouds(self) -> list[directory_pb2.Record]:
        """Every cloud's record, at most CLOUDS_MAX."""
        found: list[directory_pb2.Record] = []
        request = directory_pb2.QueryRecordsRequest(kind=directory_pb2.RECORD_KIND_CLOUD)
        while len(found) < CLOUDS_MAX:
            page = self._first(
                lambda stub: client.call(stub.QueryRecords, request, timeout_seconds=self._deadline)
            )
            found.extend(page.records)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return found[:CLOUDS_MAX]

    def grant_lease(self, request: directory_pb2.GrantLeaseRequest) -> None:
        """Grant a lease, or renew it."""
        self._first(
            lambda stub: client.call(stub.GrantLease, request, timeout_seconds=self._deadline)
        )

    def renew_lease(self, lease_id: str) -> None:
        """Renew a lease. Raises NotFound LEASE_NOT_FOUND."""
        request = directory_pb2.RenewLeaseRequest(lease_id=lease_id)
        self._first(
            lambda stub: client.call(stub.RenewLease, request, timeout_seconds=self._deadline)
        )

    def publish(self, request: directory_pb2.PublishRequest) -> None:
        """Write records as one change. Raises NotFound LEASE_NOT_FOUND."""
        self._first(lambda stub: client.call(stub.Publish, request, timeout_seconds=self._deadline))

    def _first(self, ask: Callable[[_Stub], _Answer]) -> _Answer:
        last: errors.WatariError = errors.Unavailable(
            "PEER_UNAVAILABLE",
            "no directory is configured",
            hint="set directories",
            retryable=False,
        )
        for server in self._servers:
            target = client.Target(server.address, SpiffeId.parse(server.spiffe_id))
            try:
                return ask(_Stub(self._channels.get(target)))
            except errors.WatariError as error:
                if not error.retryable:
                    raise
                last = error
        raise last
