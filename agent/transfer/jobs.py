"""Transfers that this host sends: one background thread each, looked up by migration id."""

import datetime
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.hooks import Hooks
from agent.hypervisors import COLD, Guest, Hypervisor
from agent.settings import Settings
from agent.transfer import standing
from agent.transfer.attempt import Attempt, checked_grant
from agent.transfer.estimating import Estimate
from agent.transfer.flow import Failure, Throttle
from agent.transfer.job import Job
from agent.transfer.meter import Meter
from watari import clock, errors, logs, tracing
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.v1 import agent_pb2, common_pb2

FINISHED_KEPT_MAX = 256
"""Ended transfers that can still be asked about; the manager keeps what matters durably."""

WATCH_SECONDS = 0.25
"""Shortest time between two progress messages to one watcher."""

_log = logs.get(__name__)


class Jobs:
    """All transfers that this host sends."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        hooks: Hooks,
        own: Identity,
        settings: Settings,
        time: clock.Clock,
        moved: Callable[[agent_pb2.HostEvent], object] = lambda _event: None,
    ) -> None:
        """`moved` is told of every attempt that has ended."""
        self._moved = moved
        self._hypervisor = hypervisor
        self._hooks = hooks
        self._own = own
        self._settings = settings
        self._clock = time
        self._channels = client.ChannelPool(own)
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._estimates = threading.Semaphore(settings.transfer.estimating_max)
        self._estimating: dict[Failure, tuple[SpiffeId, datetime.datetime]] = {}
        self._pool = ThreadPoolExecutor(
            settings.transfer.sending_max, thread_name_prefix="transfer"
        )

    def start(self, request: agent_pb2.StartTransferRequest) -> agent_pb2.Transfer:
        """Starts, joins, or starts again after a failure. Raises WatariError."""
        with self._lock:
            earlier = self._jobs.get(request.migration_id)
            state = earlier.snapshot().state if earlier else None
            if earlier and (earlier.running or state == agent_pb2.TRANSFER_STATE_SUCCEEDED):
                return earlier.snapshot()
            guest = self._hypervisor.guest(request.vm_id)
            if guest.problem:
                raise guest.problem
            if guest.held_by != request.migration_id:
                raise errors.FailedPrecondition(
                    "VM_BUSY", f"machine {guest.name} is not held by this migration"
                )
            # Again, for the disks that this mode moves.
            guest = self._hypervisor.hold(request.vm_id, request.migration_id, request.mode or COLD)
            grant = checked_grant(request, guest, self._own, self._settings, self._clock)
            if sum(job.running for job in self._jobs.values()) >= (
                self._settings.transfer.sending_max
            ):
                raise errors.Exhausted(
                    "TOO_MANY_TRANSFERS",
                    f"this host sends {self._settings.transfer.sending_max} machines already",
                    hint="try again when one has gone, or raise [agent.transfer] sending_max",
                    retryable=True,
                )
            number = earlier.meter.attempt + 1 if earlier else 1
            job = self._new_job(request, grant, number)
            self._remember(request.migration_id, job)
        attempt = Attempt(
            request,
            guest,
            self._hypervisor,
            self._hooks,
            self._own,
            self._settings,
            self._clock,
            self._channels,
            job.failure,
            job.throttle,
            job.measure,
            job.follow_schedule,
            job.enter,
            job.stopped,
            number,
        )
        self._pool.submit(self._run, job, attempt)
        return job.snapshot()

    @property
    def busy(self) -> bool:
        """Whether anything is being sent."""
        return any(job.running for job in list(self._jobs.values()))

    def snapshots(self) -> list[agent_pb2.Transfer]:
        """Every transfer that is remembered, as it stands."""
        return [job.snapshot() for job in list(self._jobs.values())]

    def get(self, migration_id: str) -> Job:
        """Raises NotFound TRANSFER_NOT_FOUND."""
        job = self._jobs.get(migration_id)
        if job is None:
            raise errors.NotFound(
                "TRANSFER_NOT_FOUND",
                f"this host sends nothing for migration {migration_id}",
                migration=migration_id,
            )
        return job

    def watch(self, migration_id: str, stopping: threading.Event) -> Iterator[agent_pb2.Transfer]:
        """The transfer at every change of state and a few times a second, until it has ended."""
        job = self.get(migration_id)
        while not stopping.is_set():
            running = job.running
            snapshot = job.snapshot()
            yield snapshot
            if not running:
                return
            with job.changed:
                if job.snapshot().state == snapshot.state:
                    job.changed.wait(WATCH_SECONDS)

    def cancel(self, migration_id: str) -> agent_pb2.Transfer:
        """Ends a running transfer as CANCELLED; one that has ended stays as it is."""
        job = self.get(migration_id)
        job.failure.fail(errors.Cancelled("CANCELLED", "the transfer was cancelled"))
        return job.snapshot()

    def set_limit(
        self,
        migration_id: str,
        bytes_per_second: int,
        windows: Sequence[common_pb2.LimitWindow],
    ) -> agent_pb2.Transfer:
        """Changes the bandwidth cap of a transfer, and its windows of the day."""
        job = self.get(migration_id)
        job.limit(bytes_per_second, windows)
        return job.snapshot()

    def estimate(
        self, request: agent_pb2.EstimateTransferRequest, failure: Failure
    ) -> agent_pb2.EstimateTransferResponse:
        """What a transfer would be; ends early when `failure` fails. Raises WatariError."""
        guest = self._hypervisor.guest(request.vm_id)
        if guest.problem:
            raise guest.problem
        receiver = SpiffeId.parse(request.destination_control.spiffe_id)
        if not self._estimates.acquire(blocking=False):
            raise errors.Exhausted(
                "TOO_MANY_TRANSFERS",
                f"this host makes {self._settings.transfer.estimating_max} estimates already",
                hint="try again when one has ended, or raise [agent.transfer] estimating_max",
                retryable=True,
            )
        try:
            self._estimating[failure] = receiver, self._clock.now()
            return Estimate(
                request,
                guest,
                self._hypervisor,
                self._own,
                self._settings,
                self._clock,
                self._channels,
                failure,
            ).run()
        finally:
            self._estimating.pop(failure, None)
            self._estimates.release()

    def cut_untrusted(self) -> None:
        """Ends what goes to agents that may not go on."""
        running = [
            (job.failure, job.receiver, job.started_at)
            for job in list(self._jobs.values())
            if job.running
        ]
        running += [(failure, *peer) for failure, peer in list(self._estimating.items())]
        for failure, receiver, since in running:
            error = standing.lost(self._own.trust, receiver, since)
            if error is not None:
                failure.fail(error)

    def close(self) -> None:
        """Ends every transfer as failed, so that another attempt may follow."""
        for failure in [*(job.failure for job in self._jobs.values()), *self._estimating]:
            failure.fail(errors.Unavailable("SERVER_UNAVAILABLE", "the agent is stopping"))
        self._pool.shutdown()
        self._channels.close()

    def _new_job(
        self, request: agent_pb2.StartTransferRequest, grant: common_pb2.Grant, number: int
    ) -> Job:
        failure = Failure()
        throttle = Throttle(failure, self._clock, 0)
        total = sum(disk.size_bytes for disk in grant.disks)
        data = sum(min(disk.size_bytes, disk.allocated_bytes) for disk in grant.disks)
        meter = Meter(self._clock, total, total if request.options.full_read else data, number)
        transfer = agent_pb2.Transfer(
            migration_id=request.migration_id,
            vm_id=request.vm_id,
            sending=True,
            state=agent_pb2.TRANSFER_STATE_OPENING,
        )
        transfer.started_at.FromDatetime(self._clock.now())
        granted = grant.rate_bytes_per_second_max
        receiver = SpiffeId.parse(grant.destination_agent)
        job = Job(transfer, receiver, failure, throttle, meter, granted, self._clock)
        options = request.options
        job.limit(options.limit_bytes_per_second, options.limit_schedule)
        return job

    def _remember(self, migration_id: str, job: Job) -> None:
        self._jobs.pop(migration_id, None)
        self._jobs[migration_id] = job
        ended = [name for name, each in self._jobs.items() if not each.running]
        for name in ended[: max(0, len(ended) - FINISHED_KEPT_MAX)]:
            del self._jobs[name]

    def _run(self, job: Job, attempt: Attempt) -> None:
        migration_id = attempt.request.migration_id
        with logs.context(migration_id=migration_id):
            try:
                with tracing.migration_span(migration_id, "transfer", attempt=attempt.number):
                    outcome = attempt.run()
            except errors.Cancelled as error:
                self._end(job, agent_pb2.TRANSFER_STATE_CANCELLED, error)
            except errors.WatariError as error:
                self._end(job, agent_pb2.TRANSFER_STATE_FAILED, error)
            except Exception:  # noqa: BLE001 - a thread's top: logged, and shown as INTERNAL
                _log.exception("transfer broke")
                broken = errors.Internal("INTERNAL", "the transfer broke; see the agent's log")
                self._end(job, agent_pb2.TRANSFER_STATE_FAILED, broken)
            else:
                self._ended(
                    job,
                    agent_pb2.TRANSFER_STATE_SUCCEEDED,
                    receipt=outcome.receipt,
                    source_view=outcome.source_view,
                )
        # Last: the machine may be standing still, and what follows waits for the state only.
        self._moved(_sent(job, attempt.guest))

    def _end(
        self, job: Job, state: "agent_pb2.TransferState.ValueType", error: errors.WatariError
    ) -> None:
        _log.warning("transfer ended", reason=error.reason, problem=error.message)
        self._ended(job, state, problem=errors.to_problem(error))

    def _ended(
        self, job: Job, state: "agent_pb2.TransferState.ValueType", **fields: object
    ) -> None:
        ended = agent_pb2.Transfer()
        ended.ended_at.FromDatetime(self._clock.now())
        job.failure.let_go()
        job.enter(state, ended_at=ended.ended_at, **fields)


def _sent(job: Job, guest: Guest) -> agent_pb2.HostEvent:
    """What to tell of an attempt that has ended."""
    transfer = job.snapshot()
    raw_bytes, wire_bytes = job.crossed_bytes
    return agent_pb2.HostEvent(
        kind=agent_pb2.HOST_EVENT_KIND_SENT,
        vm_id=transfer.vm_id,
        vm_name=guest.name,
        tenant=guest.tenant,
        migration_id=transfer.migration_id,
        reason=transfer.problem.reason or "succeeded",
        raw_bytes=raw_bytes,
        wire_bytes=wire_bytes,
        attempt=job.meter.attempt,
    )
