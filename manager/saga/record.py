"""A migration as it is on disk, and how the contract shows it."""

from dataclasses import dataclass

from manager import store
from manager.saga import states
from manager.saga.states import State
from watari.v1 import common_pb2, manager_pb2


@dataclass(frozen=True)
class Record:
    """A migration as it is on disk. Moments are microseconds since 1970."""

    migration_id: str
    vm_id: str
    vm_name: str
    tenant_domain: str
    tenant: str
    host_id: str
    to_cloud: str
    to_manager: str
    state: State
    generation: int
    source_epoch: int
    requested_by: str
    request: manager_pb2.MigrateVmRequest
    created_at: int
    state_changed_at: int
    cancel_requested: bool = False
    transfers_failed: int = 0
    """In a row, without one that got further than any before."""

    furthest_bytes: int = 0
    """The most that a failed transfer had settled."""

    limit_bytes_per_second: int | None = None
    limit_schedule: common_pb2.TransferOptions | None = None
    ended_at: int | None = None
    reserve_request: manager_pb2.ReserveRequest | None = None
    grant: common_pb2.SignedGrant | None = None
    destination_control: common_pb2.Endpoint | None = None
    destination_data: common_pb2.Endpoint | None = None
    reserved_seconds: int | None = None
    receipt: common_pb2.SignedDocument | None = None
    stopped_at: int | None = None
    """When the transfer stopped the machine; None when it did not run."""

    hand_over: common_pb2.SignedDocument | None = None
    downtime: int | None = None
    """Microseconds from `stopped_at` until the destination said that it has the machine."""

    taken_back_epoch: int | None = None
    """The machine's since it is here again."""

    relinquishment: common_pb2.SignedDocument | None = None
    resolution: int | None = None
    """What an operator decided: a Resolution of the contract."""

    problem: common_pb2.Problem | None = None

    @property
    def mode(self) -> "common_pb2.MigrationMode.ValueType":
        """How the machine is moved."""
        return self.request.mode or common_pb2.MIGRATION_MODE_COLD

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in states.FINAL

    @property
    def options(self) -> common_pb2.TransferOptions:
        """What the transfer may use: as requested, with the caps that were set since."""
        options = common_pb2.TransferOptions()
        options.CopyFrom(self.request.options)
        if self.limit_bytes_per_second is not None:
            options.limit_bytes_per_second = self.limit_bytes_per_second
        if self.limit_schedule is not None:
            del options.limit_schedule[:]
            options.limit_schedule.extend(self.limit_schedule.limit_schedule)
        return options

    def message(self, from_cloud: str) -> manager_pb2.Migration:
        """The migration as the contract shows it, without what only memory knows."""
        shown = manager_pb2.Migration(
            migration_id=self.migration_id,
            vm_id=self.vm_id,
            vm_name=self.vm_name,
            from_cloud=from_cloud,
            to_cloud=self.to_cloud,
            mode=self.mode,
            state=manager_pb2.MigrationState.Value(f"MIGRATION_STATE_{self.state}"),
            options=self.options,
            problem=self.problem,
            reservation_id=self.reserve_request.reservation_id if self.reserve_request else "",
            source_epoch=self.source_epoch,
            receipt=self.receipt,
            generation=self.generation,
            requested_by=self.requested_by,
            cancel_requested=self.cancel_requested,
            downtime_seconds=(self.downtime or 0) / 1_000_000,
        )
        shown.created_at.FromDatetime(store.moment(self.created_at))
        shown.state_changed_at.FromDatetime(store.moment(self.state_changed_at))
        if self.ended_at is not None:
            shown.ended_at.FromDatetime(store.moment(self.ended_at))
        return shown
