"""A transfer that this host sends, as it is looked up and steered."""

import datetime
import threading
from collections.abc import Sequence

from agent.transfer import schedule
from agent.transfer.flow import Failure, Throttle
from agent.transfer.meter import Meter
from watari import clock
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2

_RUNNING = frozenset(
    {
        agent_pb2.TRANSFER_STATE_OPENING,
        agent_pb2.TRANSFER_STATE_COPYING,
        agent_pb2.TRANSFER_STATE_COMPLETING,
    }
)


class Job:
    """One transfer: its state, and the handles that steer it."""

    def __init__(
        self,
        transfer: agent_pb2.Transfer,
        receiver: SpiffeId,
        failure: Failure,
        throttle: Throttle,
        meter: Meter,
        granted_bytes_per_second: int,
        time: clock.Clock,
    ) -> None:
        self._clock = time
        self._limit = 0
        self._windows: Sequence[common_pb2.LimitWindow] = ()
        self._transfer = transfer
        self.receiver = receiver
        self.started_at = time.now()
        self._granted_bytes_per_second = granted_bytes_per_second
        self.failure = failure
        self.throttle = throttle
        self.meter = meter
        self._raw_bytes = self._wire_bytes = 0
        self.changed = threading.Condition()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._transfer.state in _RUNNING

    def limit(self, bytes_per_second: int, windows: Sequence[common_pb2.LimitWindow] = ()) -> None:
        """Caps the bandwidth, at certain times of the day otherwise; 0 is no cap of its own."""
        self._limit, self._windows = bytes_per_second, windows
        self.follow_schedule()

    def follow_schedule(self) -> None:
        """Applies the cap of this moment, within what the grant allows."""
        local = self._clock.now().astimezone()
        wanted, _ = schedule.cap_at(local, self._limit, self._windows)
        caps = [cap for cap in (self._granted_bytes_per_second, wanted) if cap]
        self.throttle.set(min(caps, default=0))

    def measure(self, meter: Meter) -> None:
        """What the transfer does is counted by this meter from now on."""
        with self.changed:
            self._raw_bytes, self._wire_bytes = self._crossed()
            self.meter = meter

    @property
    def crossed_bytes(self) -> tuple[int, int]:
        """What was sent in all rounds: content before compression, and sealed bytes."""
        with self.changed:
            return self._crossed()

    def _crossed(self) -> tuple[int, int]:
        meter = self.meter
        return self._raw_bytes + meter.carried_bytes, self._wire_bytes + meter.wire_bytes

    def stopped(self, at: datetime.datetime) -> None:
        """The machine, which ran, was stopped then."""
        told = agent_pb2.Transfer()
        told.stopped_at.FromDatetime(at)
        self.enter(self._transfer.state, stopped_at=told.stopped_at)

    def enter(self, state: "agent_pb2.TransferState.ValueType", **fields: object) -> None:
        """Moves to a state, setting further fields of the transfer, and wakes the watchers."""
        with self.changed:
            self._transfer.MergeFrom(agent_pb2.Transfer(state=state, **fields))  # type: ignore[arg-type]
            self.changed.notify_all()

    def snapshot(self) -> agent_pb2.Transfer:
        """The transfer as it stands."""
        with self.changed:
            copy = agent_pb2.Transfer()
            copy.CopyFrom(self._transfer)
        copy.progress.CopyFrom(self.meter.progress())
        return copy
