"""The gRPC face of the directory: checks a request, calls the domain, returns."""

from collections.abc import Iterator

import grpc

from directory import publications, queries, records
from directory.rates import Rates
from directory.settings import Settings
from directory.stores import DirectoryStore
from directory.watch import Watches
from watari import errors, rpc, validate
from watari.clock import Clock
from watari.v1 import directory_pb2, directory_pb2_grpc


class DirectoryServicer(directory_pb2_grpc.DirectoryServiceServicer):
    """DirectoryService. The contract is in the proto; the caller's domain decides what it owns."""

    def __init__(
        self, store: DirectoryStore, watches: Watches, settings: Settings, time: Clock
    ) -> None:
        self._store = store
        self._watches = watches
        self._settings = settings
        self._rates = Rates(settings.publishes_per_second_max, time)

    def GrantLease(
        self, request: directory_pb2.GrantLeaseRequest, context: grpc.ServicerContext
    ) -> directory_pb2.GrantLeaseResponse:
        lease = self._store.grant_lease(
            validate.require_uuid(request.lease_id, "lease_id"),
            validate.require_cloud_id(request.cloud_id, "cloud_id"),
            rpc.current_peer().domain,
            validate.require_range(
                request.ttl_seconds,
                "ttl_seconds",
                self._settings.lease_ttl_seconds_min,
                self._settings.lease_ttl_seconds_max,
            ),
        )
        return directory_pb2.GrantLeaseResponse(lease=lease)

    def RenewLease(
        self, request: directory_pb2.RenewLeaseRequest, context: grpc.ServicerContext
    ) -> directory_pb2.RenewLeaseResponse:
        lease_id = validate.require_uuid(request.lease_id, "lease_id")
        lease = self._store.renew_lease(lease_id, rpc.current_peer().domain)
        return directory_pb2.RenewLeaseResponse(lease=lease)

    def RevokeLease(
        self, request: directory_pb2.RevokeLeaseRequest, context: grpc.ServicerContext
    ) -> directory_pb2.RevokeLeaseResponse:
        lease_id = validate.require_uuid(request.lease_id, "lease_id")
        self._store.revoke_lease(lease_id, rpc.current_peer().domain)
        return directory_pb2.RevokeLeaseResponse()

    def Publish(
        self, request: directory_pb2.PublishRequest, context: grpc.ServicerContext
    ) -> directory_pb2.PublishResponse:
        publication = publications.from_request(request, rpc.current_peer().domain)
        self._rates.take(publication.owner, publication.lease_id)
        return directory_pb2.PublishResponse(revision=self._store.publish(publication))

    def GetRecord(
        self, request: directory_pb2.GetRecordRequest, context: grpc.ServicerContext
    ) -> directory_pb2.GetRecordResponse:
        key = records.key_of(request.key, "key")
        record, revision = self._store.get(key)
        if record is None:
            raise errors.NotFound(
                "RECORD_NOT_FOUND",
                f"the directory has no record {key}",
                hint="query the records of its cloud for what there is",
                record=key,
            )
        answer = directory_pb2.GetRecordResponse(record=record, revision=revision)
        queries.tell_age(self._store, answer)
        return answer

    def QueryRecords(
        self, request: directory_pb2.QueryRecordsRequest, context: grpc.ServicerContext
    ) -> directory_pb2.QueryRecordsResponse:
        return queries.run(self._store, request)

    def WatchRecords(
        self, request: directory_pb2.WatchRecordsRequest, context: grpc.ServicerContext
    ) -> Iterator[directory_pb2.WatchRecordsResponse]:
        selection = queries.Selection(request.kind, request.cloud_id, request.filter)
        yield from self._watches.follow(selection, request.after_revision, context)
