"""The agent's two services. Each method checks the request, asks the domain and answers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import grpc

from agent import distance, host
from agent.events.serving import Events
from agent.hooks import Document, Hooks, Stage
from agent.hypervisors import COLD, Guest, Hypervisor, Mode, Retained, domain
from agent.transfer import geometry, keys, schedule
from agent.transfer.flow import Failure
from agent.transfer.jobs import Jobs
from agent.transfer.sessions import Sessions
from watari import errors, paging, validate
from watari.rpc.interceptors import current_peer
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

_Item = TypeVar("_Item")

LEVELS = (-7, 19)
EPOCH_MAX = 1 << 62
STOP_SECONDS_MAX = 3600
KEY_SHARES_MAX = 4


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """What the cloud's own manager asks of the host."""

    def __init__(
        self,
        describe: Callable[[], agent_pb2.Host],
        hypervisor: Hypervisor,
        jobs: Jobs,
        sessions: Sessions,
        hooks: Hooks,
        events: Events,
        stopping: threading.Event,
    ) -> None:
        self._hooks = hooks
        self._events = events
        self._describe = describe
        self._hypervisor = hypervisor
        self._jobs = jobs
        self._sessions = sessions
        self._stopping = stopping

    def GetHost(
        self, request: agent_pb2.GetHostRequest, context: grpc.ServicerContext
    ) -> agent_pb2.GetHostResponse:
        return agent_pb2.GetHostResponse(host=self._describe())

    def ListGuests(
        self, request: agent_pb2.ListGuestsRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ListGuestsResponse:
        page, token = _page(
            self._hypervisor.guests(), lambda guest: (guest.name, guest.vm_id), request
        )
        return agent_pb2.ListGuestsResponse(
            guests=[host.message(guest) for guest in page], next_page_token=token
        )

    def GetGuest(
        self, request: agent_pb2.GetGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.GetGuestResponse:
        guest = self._hypervisor.guest(validate.require_uuid(request.vm_id, "vm_id"))
        return agent_pb2.GetGuestResponse(
            guest=host.message(guest), definition_xml=guest.definition_xml
        )

    def HoldGuest(
        self, request: agent_pb2.HoldGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.HoldGuestResponse:
        guest = self._hypervisor.hold(*_vm_and_migration(request), _mode(request.mode))
        self._events.noticed(guest.vm_id)  # or one that came just now would leave unseen
        return agent_pb2.HoldGuestResponse(guest=host.message(guest))

    def UnholdGuest(
        self, request: agent_pb2.UnholdGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.UnholdGuestResponse:
        epoch = validate.require_range(request.epoch, "epoch", 0, EPOCH_MAX)
        vm_id, migration_id = _vm_and_migration(request)
        self._owe(Stage.AFTER_UNHOLD, vm_id, migration_id, epoch)
        self._hypervisor.unhold(vm_id, migration_id, epoch)
        self._events.noticed(vm_id)
        self._hooks.drop(Stage.AFTER_STOP, migration_id)
        self._hooks.settle(Stage.AFTER_UNHOLD, migration_id)
        return agent_pb2.UnholdGuestResponse()

    def RetireGuest(
        self, request: agent_pb2.RetireGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.RetireGuestResponse:
        vm_id, migration_id = _vm_and_migration(request)
        self._owe(Stage.AFTER_RETIRE, vm_id, migration_id)
        retained = self._hypervisor.retire(vm_id, migration_id)
        self._events.noticed(vm_id)
        self._hooks.drop(Stage.AFTER_STOP, migration_id)
        self._hooks.settle(Stage.AFTER_RETIRE, migration_id)
        return agent_pb2.RetireGuestResponse(retained=_retained(retained))

    def ListRetained(
        self, request: agent_pb2.ListRetainedRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ListRetainedResponse:
        page, token = _page(self._hypervisor.retained(), lambda each: (each.migration_id,), request)
        return agent_pb2.ListRetainedResponse(
            retained=[_retained(each) for each in page], next_page_token=token
        )

    def PurgeRetained(
        self, request: agent_pb2.PurgeRetainedRequest, context: grpc.ServicerContext
    ) -> agent_pb2.PurgeRetainedResponse:
        _, migration_id = _vm_and_migration(request)
        self._hypervisor.purge(migration_id)
        return agent_pb2.PurgeRetainedResponse()

    def StartGuest(
        self, request: agent_pb2.StartGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.StartGuestResponse:
        vm_id, (migration_id, epoch) = (
            validate.require_uuid(request.vm_id, "vm_id"),
            _meant(request),
        )
        guest = self._hypervisor.start(vm_id, migration_id, epoch)
        if migration_id:
            self._hooks.run(Stage.AFTER_START, self._told(guest, migration_id))
        return agent_pb2.StartGuestResponse(guest=host.message(guest))

    def StopGuest(
        self, request: agent_pb2.StopGuestRequest, context: grpc.ServicerContext
    ) -> agent_pb2.StopGuestResponse:
        vm_id = validate.require_uuid(request.vm_id, "vm_id")
        seconds = validate.require_range(
            request.timeout_seconds, "timeout_seconds", 0, STOP_SECONDS_MAX
        )
        guest = self._hypervisor.stop(vm_id, seconds, *_meant(request))
        return agent_pb2.StopGuestResponse(guest=host.message(guest))

    def StartTransfer(
        self, request: agent_pb2.StartTransferRequest, context: grpc.ServicerContext
    ) -> agent_pb2.StartTransferResponse:
        _vm_and_migration(request)
        _check_options(request.options)
        _mode(request.mode)
        return agent_pb2.StartTransferResponse(transfer=self._jobs.start(request))

    def EstimateTransfer(
        self, request: agent_pb2.EstimateTransferRequest, context: grpc.ServicerContext
    ) -> agent_pb2.EstimateTransferResponse:
        validate.require_uuid(request.vm_id, "vm_id")
        _check_options(request.options)
        _mode(request.mode)
        failure = Failure()
        gone = errors.Cancelled("CANCELLED", "the caller went away")
        if not context.add_callback(lambda: failure.fail(gone)):
            raise gone
        return self._jobs.estimate(request, failure)

    def GetTransfer(
        self, request: agent_pb2.GetTransferRequest, context: grpc.ServicerContext
    ) -> agent_pb2.GetTransferResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        transfer = self._sessions.transfer(migration_id)
        return agent_pb2.GetTransferResponse(
            transfer=transfer or self._jobs.get(migration_id).snapshot()
        )

    def WatchTransfer(
        self, request: agent_pb2.WatchTransferRequest, context: grpc.ServicerContext
    ) -> Iterator[agent_pb2.WatchTransferResponse]:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        for transfer in self._jobs.watch(migration_id, self._stopping):
            if not context.is_active():
                return
            yield agent_pb2.WatchTransferResponse(transfer=transfer)

    def CancelTransfer(
        self, request: agent_pb2.CancelTransferRequest, context: grpc.ServicerContext
    ) -> agent_pb2.CancelTransferResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        return agent_pb2.CancelTransferResponse(transfer=self._jobs.cancel(migration_id))

    def SetTransferLimit(
        self, request: agent_pb2.SetTransferLimitRequest, context: grpc.ServicerContext
    ) -> agent_pb2.SetTransferLimitResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        limit = validate.require_limit(request.limit_bytes_per_second, "limit_bytes_per_second")
        schedule.check(request.limit_schedule, "limit_schedule")
        transfer = self._jobs.set_limit(migration_id, limit, request.limit_schedule)
        return agent_pb2.SetTransferLimitResponse(transfer=transfer)

    def ListIncoming(
        self, request: agent_pb2.ListIncomingRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ListIncomingResponse:
        page, token = _page(self._sessions.incoming(), lambda each: (each.migration_id,), request)
        return agent_pb2.ListIncomingResponse(incoming=page, next_page_token=token)

    def ActivateIncoming(
        self, request: agent_pb2.ActivateIncomingRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ActivateIncomingResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        epoch = validate.require_range(request.epoch, "epoch", 2, EPOCH_MAX)
        guest = self._sessions.activate(migration_id, epoch, provisional=request.prepare)
        self._events.noticed(guest.vm_id)
        if request.prepare:
            self._hooks.run(Stage.BEFORE_START, self._told(guest, migration_id))
            guest = self._sessions.prepare(migration_id)
        return agent_pb2.ActivateIncomingResponse(guest=host.message(guest))

    def DiscardIncoming(
        self, request: agent_pb2.DiscardIncomingRequest, context: grpc.ServicerContext
    ) -> agent_pb2.DiscardIncomingResponse:
        migration_id = validate.require_uuid(request.migration_id, "migration_id")
        self._sessions.discard(migration_id)
        self._events.discarded(migration_id)
        return agent_pb2.DiscardIncomingResponse()

    def ListEvents(
        self, request: agent_pb2.ListEventsRequest, context: grpc.ServicerContext
    ) -> agent_pb2.ListEventsResponse:
        return self._events.list(request, current_peer(), context.time_remaining())

    def MeasureRoundTrip(
        self, request: agent_pb2.MeasureRoundTripRequest, context: grpc.ServicerContext
    ) -> agent_pb2.MeasureRoundTripResponse:
        return distance.measure(request)

    def _owe(self, stage: Stage, vm_id: str, migration_id: str, epoch: int = 0) -> None:
        """Hooks are due after the step, unless this migration does not hold the machine: then the
        step was done before, and what was noted is still noted.
        """
        try:
            guest = self._hypervisor.guest(vm_id)
        except errors.NotFound:
            return
        if guest.held_by == migration_id:
            told = self._told(replace(guest, epoch=epoch or guest.epoch), migration_id)
            self._hooks.owe(stage, told)

    def _told(self, guest: Guest, migration_id: str) -> Document:
        return self._hooks.document(guest, migration_id=migration_id)


class TransferService(agent_pb2_grpc.TransferServiceServicer):
    """What the sending agent asks of this one."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def OpenSession(
        self, request: agent_pb2.OpenSessionRequest, context: grpc.ServicerContext
    ) -> agent_pb2.OpenSessionResponse:
        validate.require_uuid(request.session_id, "session_id")
        validate.require_uuid(request.migration_id, "migration_id")
        validate.require_range(request.streams, "streams", 1, geometry.STREAMS_MAX)
        validate.require_count(len(request.key_shares), "key_shares", KEY_SHARES_MAX)
        validate.require_range(
            len(request.definition_xml), "definition_xml", 1, domain.DEFINITION_BYTES_MAX
        )
        return self._sessions.open(request, current_peer())

    def CompleteSession(
        self, request: agent_pb2.CompleteSessionRequest, context: grpc.ServicerContext
    ) -> agent_pb2.CompleteSessionResponse:
        session_id = validate.require_uuid(request.session_id, "session_id")
        receipt = self._sessions.complete(session_id, request.sealed_manifest, current_peer())
        return agent_pb2.CompleteSessionResponse(receipt=receipt)

    def AbortSession(
        self, request: agent_pb2.AbortSessionRequest, context: grpc.ServicerContext
    ) -> agent_pb2.AbortSessionResponse:
        session_id = validate.require_uuid(request.session_id, "session_id")
        problem = self._sessions.abort(session_id, current_peer())
        return agent_pb2.AbortSessionResponse(
            problem=errors.to_problem(problem) if problem else None
        )


def _check_options(options: common_pb2.TransferOptions) -> None:
    validate.require_range(options.streams, "options.streams", 0, geometry.STREAMS_MAX)
    validate.require_range(options.compression_level, "options.compression_level", *LEVELS)
    validate.require_limit(options.limit_bytes_per_second, "options.limit_bytes_per_second")
    schedule.check(options.limit_schedule)
    for name in ("downtime_seconds_target", "stop_seconds_max"):
        validate.require_range(getattr(options, name), f"options.{name}", 0, STOP_SECONDS_MAX)
    if options.cipher_key_bits:
        keys.require_key_bits(options.cipher_key_bits)


def _mode(mode: Mode) -> Mode:
    if mode not in common_pb2.MigrationMode.values():
        raise validate.invalid_field("mode", f"{mode} is no mode", "see MigrationMode")
    return COLD if mode == common_pb2.MIGRATION_MODE_UNSPECIFIED else mode


def _vm_and_migration(
    request: agent_pb2.HoldGuestRequest
    | agent_pb2.UnholdGuestRequest
    | agent_pb2.RetireGuestRequest
    | agent_pb2.PurgeRetainedRequest
    | agent_pb2.StartTransferRequest,
) -> tuple[str, str]:
    return (
        validate.require_uuid(request.vm_id, "vm_id"),
        validate.require_uuid(request.migration_id, "migration_id"),
    )


def _meant(request: agent_pb2.StartGuestRequest | agent_pb2.StopGuestRequest) -> tuple[str, int]:
    """The migration and the epoch that an order names; empty and 0 where it names none."""
    named = request.migration_id
    return (
        validate.require_uuid(named, "migration_id") if named else "",
        validate.require_range(request.epoch, "epoch", 0, EPOCH_MAX),
    )


def _retained(retained: Retained) -> agent_pb2.Retained:
    message = agent_pb2.Retained(
        vm_id=retained.vm_id,
        migration_id=retained.migration_id,
        allocated_bytes=retained.allocated_bytes,
        name=retained.name,
    )
    message.expires_at.FromMilliseconds(int(retained.expires_at_seconds * 1000))
    return message


def _page(
    items: Sequence[_Item],
    key: Callable[[_Item], tuple[str, ...]],
    request: agent_pb2.ListGuestsRequest
    | agent_pb2.ListRetainedRequest
    | agent_pb2.ListIncomingRequest,
) -> tuple[list[_Item], str]:
    """The items after the request's position, ordered by key, and the token of the next page."""
    size, query = paging.page_size(request.page_size), paging.fingerprint(request)
    ordered = sorted(items, key=key)
    if ordered and request.page_token:
        shape = (str,) * len(key(ordered[0]))
        after = paging.decode(query, request.page_token, shape)
        ordered = [item for item in ordered if after is None or key(item) > after]
    page = ordered[:size]
    more = len(ordered) > size
    return page, paging.encode(query, key(page[-1])) if more else ""
