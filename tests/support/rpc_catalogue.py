"""A service whose answers a test chooses, for tests of the calls themselves."""

import threading
from datetime import timedelta

from watari import errors, logs, rpc
from watari.clock import SystemClock
from watari.v1 import directory_pb2, directory_pb2_grpc

DIRECTORY = "spiffe://tokyo.example/directory/main"
ALICE = "spiffe://osaka.example/user/alice"


class Ahead(SystemClock):
    """A clock that can be set forward."""

    ahead_seconds = 0

    def now(self):
        return super().now() + timedelta(seconds=self.ahead_seconds)


class Catalogue(directory_pb2_grpc.DirectoryServiceServicer):
    """Answers what the test put into it."""

    def __init__(self):
        self.behaviour = lambda: directory_pb2.GetRecordResponse(revision=7)
        self.peers, self.contexts, self.calls = [], [], 0
        self.ended = threading.Event()

    def GetRecord(self, request, context):
        self.calls += 1
        self.peers.append(rpc.current_peer())
        self.contexts.append(context.time_remaining())
        return self.behaviour()

    def WatchRecords(self, request, context):
        try:
            for revision in range(1, request.after_revision + 1):
                self.peers.append((rpc.current_peer(), logs.bound("migration_id")))
                yield directory_pb2.WatchRecordsResponse(revision=revision)
            if request.cloud_id == "broken":
                raise errors.OutOfRange("REVISION_COMPACTED", "gone", hint="list again")
            while context.is_active() and request.cloud_id == "endless":
                yield directory_pb2.WatchRecordsResponse()
        finally:
            self.ended.set()


def get(stub, **how):
    """The shortest call there is to a catalogue."""
    return rpc.call(stub.GetRecord, directory_pb2.GetRecordRequest(), **how)
