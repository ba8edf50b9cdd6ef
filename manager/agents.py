"""The agents of this cloud's own hosts: one method per order, each with its deadline.

Every method raises Unavailable PEER_UNAVAILABLE while the agent cannot be reached, and what the
agent answers otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc

from manager.settings.hosts import AgentSettings, HostSettings
from watari import errors
from watari.identity import SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, agent_pb2_grpc, common_pb2

PAGE_SIZE = 500
"""Entries that are asked for at once: some 100 KiB."""

ABANDONED_SECONDS_MAX = 1.0
"""How late an estimate notices that nobody waits for it any more."""


class Agents:
    """Calls to agents, by host id."""

    def __init__(
        self,
        agents: Mapping[str, AgentSettings],
        channels: client.ChannelPool,
        limits: HostSettings,
    ) -> None:
        self._agents = agents
        self._channels = channels
        self._deadline = limits.call_seconds_max
        self._lifecycle = limits.lifecycle_seconds_max
        self._guests_max = limits.guests_max

    @property
    def host_ids(self) -> list[str]:
        """Every configured host, sorted."""
        return sorted(self._agents)

    def spiffe_id(self, host_id: str) -> str:
        """The identity of a host's agent. Raises Unavailable when the host is not configured."""
        return self._settings(host_id).spiffe_id

    def host(self, host_id: str) -> agent_pb2.Host:
        """What the host has."""
        request = agent_pb2.GetHostRequest()
        return client.call(
            self._stub(host_id).GetHost, request, timeout_seconds=self._deadline
        ).host

    def guests(self, host_id: str) -> list[agent_pb2.Guest]:
        """Every machine of the host. Raises Exhausted beyond the limit of the settings."""
        stub, found, token = self._stub(host_id), list[agent_pb2.Guest](), ""
        while True:
            request = agent_pb2.ListGuestsRequest(page_size=PAGE_SIZE, page_token=token)
            page = client.call(stub.ListGuests, request, timeout_seconds=self._deadline)
            found += page.guests
            token = page.next_page_token
            if not token:
                return found
            self._require_bounded(host_id, len(found))

    def guest(self, host_id: str, vm_id: str) -> agent_pb2.Guest:
        """One machine as it is now. Raises NotFound VM_NOT_FOUND."""
        request = agent_pb2.GetGuestRequest(vm_id=vm_id)
        return client.call(
            self._stub(host_id).GetGuest, request, timeout_seconds=self._deadline
        ).guest

    def events(
        self, host_id: str, log_id: str, recorded: int, limit: int
    ) -> agent_pb2.ListEventsResponse:
        """At most `limit` events after the last one of that log that is recorded: the host may drop
        those before it. From the beginning of another log if the host has that.
        """
        request = agent_pb2.ListEventsRequest(
            log_id=log_id, after_sequence=recorded, acknowledged_sequence=recorded, page_size=limit
        )
        return client.call(self._stub(host_id).ListEvents, request, timeout_seconds=self._deadline)

    def round_trip(self, host_id: str, address: str) -> float:
        """Seconds of a round trip from the host to a port, host:port."""
        request = agent_pb2.MeasureRoundTripRequest(address=address)
        return client.call(
            self._stub(host_id).MeasureRoundTrip, request, timeout_seconds=self._deadline
        ).round_trip_seconds

    def incoming(self, host_id: str) -> list[agent_pb2.Incoming]:
        """Everything that has arrived at the host and is no machine yet."""
        stub, found, token = self._stub(host_id), list[agent_pb2.Incoming](), ""
        while True:
            request = agent_pb2.ListIncomingRequest(page_size=PAGE_SIZE, page_token=token)
            page = client.call(stub.ListIncoming, request, timeout_seconds=self._deadline)
            found += page.incoming
            token = page.next_page_token
            if not token:
                return found
            self._require_bounded(host_id, len(found))

    def hold(
        self,
        host_id: str,
        vm_id: str,
        migration_id: str,
        mode: common_pb2.MigrationMode.ValueType,
    ) -> agent_pb2.Guest:
        """Hold a machine for a migration; its disks are all that the migration moves."""
        request = agent_pb2.HoldGuestRequest(vm_id=vm_id, migration_id=migration_id, mode=mode)
        return client.call(
            self._stub(host_id).HoldGuest, request, timeout_seconds=self._lifecycle
        ).guest

    def unhold(self, host_id: str, vm_id: str, migration_id: str, epoch: int = 0) -> None:
        """End a hold: the machine is as before it, at `epoch` unless that is 0; nothing when it is
        gone. Raises FailedPrecondition VM_LIFECYCLE_FAILED when it does not run again.
        """
        request = agent_pb2.UnholdGuestRequest(vm_id=vm_id, migration_id=migration_id, epoch=epoch)
        with _absent_is_done("VM_NOT_FOUND"):
            client.call(self._stub(host_id).UnholdGuest, request, timeout_seconds=self._lifecycle)

    def retire(self, host_id: str, vm_id: str, migration_id: str) -> None:
        """Take a handed-over machine out of use; nothing when even its retained copy is gone."""
        request = agent_pb2.RetireGuestRequest(vm_id=vm_id, migration_id=migration_id)
        with _absent_is_done("VM_NOT_FOUND"):
            client.call(self._stub(host_id).RetireGuest, request, timeout_seconds=self._deadline)

    def retained(self, host_id: str) -> list[agent_pb2.Retained]:
        """What the host keeps of machines that were handed over, by migration."""
        stub, found, token = self._stub(host_id), list[agent_pb2.Retained](), ""
        while True:
            request = agent_pb2.ListRetainedRequest(page_size=PAGE_SIZE, page_token=token)
            page = client.call(stub.ListRetained, request, timeout_seconds=self._deadline)
            found += page.retained
            token = page.next_page_token
            if not token:
                return found
            self._require_bounded(host_id, len(found))

    def purge(self, host_id: str, vm_id: str, migration_id: str) -> None:
        """Delete what is kept of a machine; nothing when nothing is."""
        request = agent_pb2.PurgeRetainedRequest(vm_id=vm_id, migration_id=migration_id)
        client.call(self._stub(host_id).PurgeRetained, request, timeout_seconds=self._deadline)

    def start(
        self, host_id: str, vm_id: str, migration_id: str = "", epoch: int = 0
    ) -> agent_pb2.Guest:
        """Let a machine run, because of a migration if one is named, and only at that epoch unless
        it is 0. Raises FailedPrecondition VM_BUSY, EPOCH_MISMATCH and VM_LIFECYCLE_FAILED, NotFound
        VM_NOT_FOUND, Unimplemented NOT_SERVED where none runs.
        """
        request = agent_pb2.StartGuestRequest(vm_id=vm_id, migration_id=migration_id, epoch=epoch)
        return client.call(
            self._stub(host_id).StartGuest, request, timeout_seconds=self._lifecycle
        ).guest

    def stop(
        self, host_id: str, vm_id: str, timeout_seconds: int, epoch: int = 0
    ) -> agent_pb2.Guest:
        """Shut a machine down, by force after `timeout_seconds`. Raises as `start`."""
        request = agent_pb2.StopGuestRequest(
            vm_id=vm_id, timeout_seconds=timeout_seconds, epoch=epoch
        )
        deadline = self._lifecycle + timeout_seconds
        return client.call(self._stub(host_id).StopGuest, request, timeout_seconds=deadline).guest

    def start_transfer(
        self, host_id: str, request: agent_pb2.StartTransferRequest
    ) -> agent_pb2.Transfer:
        """Start, join or repeat a transfer."""
        return client.call(
            self._stub(host_id).StartTransfer, request, timeout_seconds=self._deadline
        ).transfer

    @contextmanager
    def watch_transfer(
        self, host_id: str, migration_id: str, seconds_max: float
    ) -> Iterator[Iterator[agent_pb2.Transfer]]:
        """A transfer at every change; iterating raises DeadlineExceeded after `seconds_max`."""
        request = agent_pb2.WatchTransferRequest(migration_id=migration_id)
        watch = self._stub(host_id).WatchTransfer
        with client.stream(watch, request, timeout_seconds=seconds_max) as answers:
            yield (answer.transfer for answer in answers)

    def cancel_transfer(self, host_id: str, migration_id: str) -> None:
        """Cancel a transfer; nothing when there is none."""
        request = agent_pb2.CancelTransferRequest(migration_id=migration_id)
        with _absent_is_done("TRANSFER_NOT_FOUND"):
            client.call(self._stub(host_id).CancelTransfer, request, timeout_seconds=self._deadline)

    def estimate_transfer(
        self,
        host_id: str,
        request: agent_pb2.EstimateTransferRequest,
        seconds_max: float,
        gone: Callable[[], bool],
    ) -> agent_pb2.EstimateTransferResponse:
        """What a transfer would take. It is called off once `gone` says, or raises, that nobody
        waits for it. Raises Cancelled then, DeadlineExceeded after `seconds_max`.
        """
        answer = self._stub(host_id).EstimateTransfer.future(request, timeout=seconds_max)
        try:
            while True:
                try:
                    return answer.result(ABANDONED_SECONDS_MAX)
                except grpc.FutureTimeoutError:
                    if gone():
                        raise errors.Cancelled("CANCELLED", "nobody waits for it") from None
        except grpc.RpcError as error:
            raise errors.from_rpc_error(error) from error
        finally:
            answer.cancel()

    def set_transfer_limit(
        self,
        host_id: str,
        migration_id: str,
        limit: int,
        schedule: Sequence[common_pb2.LimitWindow],
    ) -> None:
        """Change a transfer's cap in bytes per second and those at certain times of the day;
        nothing when there is no transfer yet.
        """
        request = agent_pb2.SetTransferLimitRequest(
            migration_id=migration_id, limit_bytes_per_second=limit, limit_schedule=schedule
        )
        with _absent_is_done("TRANSFER_NOT_FOUND"):
            client.call(
                self._stub(host_id).SetTransferLimit, request, timeout_seconds=self._deadline
            )

    def activate(
        self, host_id: str, migration_id: str, epoch: int, *, prepare: bool
    ) -> agent_pb2.Guest:
        """Make a machine of what has arrived, and with `prepare` one that is ready to run and has
        not executed an instruction.
        """
        request = agent_pb2.ActivateIncomingRequest(
            migration_id=migration_id, epoch=epoch, prepare=prepare
        )
        return client.call(
            self._stub(host_id).ActivateIncoming, request, timeout_seconds=self._lifecycle
        ).guest

    def discard(self, host_id: str, migration_id: str) -> None:
        """Delete what has arrived for a migration, and what was made of it and never ran."""
        request = agent_pb2.DiscardIncomingRequest(migration_id=migration_id)
        client.call(self._stub(host_id).DiscardIncoming, request, timeout_seconds=self._deadline)

    def _stub(self, host_id: str) -> agent_pb2_grpc.AgentServiceStub:
        settings = self._settings(host_id)
        target = client.Target(settings.address, SpiffeId.parse(settings.spiffe_id))
        return agent_pb2_grpc.AgentServiceStub(self._channels.get(target))

    def _settings(self, host_id: str) -> AgentSettings:
        try:
            return self._agents[host_id]
        except KeyError:
            raise errors.Unavailable(
                "PEER_UNAVAILABLE",
                f"host {host_id} is not in the configuration any more",
                hint=f"put it back as agents.{host_id}",
                peer=host_id,
            ) from None

    def _require_bounded(self, host_id: str, count: int) -> None:
        if count > self._guests_max:
            raise errors.Exhausted(
                "PEER_ERROR",
                f"host {host_id} lists more than {self._guests_max} entries",
                hint="raise hosts.guests_max if the host really has so many",
            )


@contextmanager
def _absent_is_done(reason: str) -> Iterator[None]:
    try:
        yield
    except errors.NotFound as error:
        if error.reason != reason:
            raise
