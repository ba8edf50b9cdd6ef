"""The saga's decisions: functions of values, without I/O, so that all of them can be tested.

What to do next is read from the record alone, which is why a migration that was cut off anywhere
goes on from its row. Whether a failure means "again" or "back" depends on which side of the commit
point it is, who failed, and for how long.
"""

from dataclasses import dataclass
from enum import Enum, auto

from manager.saga.record import Record
from manager.saga.states import CANCELLABLE, ONWARD, State
from manager.settings.migrations import MigrationSettings
from watari import errors, mandate
from watari.v1 import agent_pb2, common_pb2


class Step(Enum):
    """What to do next with a migration."""

    END = auto()
    """End it where it is: nobody was asked for anything."""

    BEGIN = auto()
    RESERVE = auto()
    COPY = auto()
    COMMIT = auto()
    HAND_OVER = auto()
    RETIRE = auto()
    GO_BACK = auto()
    """Turn round: record ROLLING_BACK."""

    UNDO = auto()
    """Give back what was taken, in ROLLING_BACK."""

    TAKE_BACK = auto()
    """Let the machine live here again, in TAKING_BACK."""

    NOTHING = auto()


class Party(Enum):
    """Who did not do what was asked."""

    OWN_AGENT = auto()
    PEER = auto()
    TRANSFER = auto()
    """The agents between them."""

    OURSELVES = auto()


@dataclass(frozen=True)
class Again:
    """Repeat the step after a delay; `problem` is what is waited for."""

    delay_seconds: float
    problem: common_pb2.Problem


@dataclass(frozen=True)
class Back:
    """Roll back because of this."""

    problem: common_pb2.Problem


BYTES_COUNTED_MAX = 2**62
"""What an agent claims beyond it is cut: columns are of 64 bits with a sign."""

_FORWARD = {
    State.REQUESTED: Step.BEGIN,
    State.RESERVING: Step.RESERVE,
    State.COPYING: Step.COPY,
    State.CONFIRMING: Step.COMMIT,
    State.HANDED_OVER: Step.HAND_OVER,
    State.RETIRING: Step.RETIRE,
    State.ROLLING_BACK: Step.UNDO,
    State.TAKING_BACK: Step.TAKE_BACK,
}
_WAIT_FOR_PLACE = frozenset({"TOO_MANY_TRANSFERS", "SERVER_UNAVAILABLE"})


def next_step(record: Record) -> Step:
    """What the record asks for. A cancellation turns round whatever has not committed."""
    if record.final:
        return Step.NOTHING
    if record.cancel_requested and record.state is State.REQUESTED:
        return Step.END
    if record.cancel_requested and record.state in CANCELLABLE:
        return Step.GO_BACK
    return _FORWARD[record.state]


def reservation_id(record: Record) -> str:
    """The id of a migration's reservation: what a broker holds, or one that is the same after every
    restart.
    """
    return record.request.reservation_id or mandate.reservation_id(record.migration_id)


def end_state(record: Record) -> State:
    """How a migration ends: when it does not succeed, FAILED if something went wrong."""
    if record.state is State.RETIRING:
        return State.SUCCEEDED
    return State.FAILED if record.problem is not None else State.CANCELLED


def downtime(record: Record, now: int) -> int | None:
    """Microseconds that a machine stood still until `now`; None for one that did not run."""
    return None if record.stopped_at is None else max(0, now - record.stopped_at)


def after_failure(
    record: Record,
    party: Party,
    error: errors.WatariError,
    *,
    failures: int,
    waited_seconds: float,
    limits: MigrationSettings,
) -> Again | Back:
    """What follows a step that failed for the `failures`-th time in a row.

    `waited_seconds` is how long this party has been failing. After the commit point, and on the way
    back, the only answer is "again".
    """
    again = Again(backoff_seconds(failures, limits), errors.to_problem(error))
    if record.state in ONWARD:
        return again
    if party is Party.OURSELVES:
        return again  # We could not even record that we turn round.
    if not error.retryable and error.reason not in _WAIT_FOR_PLACE:
        return Back(errors.to_problem(error))
    allowed = {
        Party.OWN_AGENT: limits.agent_wait_seconds_max,
        Party.PEER: limits.peer_wait_seconds_max,
        Party.TRANSFER: limits.copying_seconds_max,
    }[party]
    if waited_seconds < allowed:
        return again
    return Back(errors.to_problem(_gave_up(party, error, waited_seconds)))


def count_failure(record: Record, done_bytes: int) -> dict[str, int]:
    """The record's changes for a transfer that failed after it had settled so many bytes.

    One that got further than any before begins the count anew: over a bad line a large disk may
    take many attempts, each of which goes on where the last one was. What every attempt settles
    again (zeros, what was found there) is no progress.
    """
    done = min(done_bytes, BYTES_COUNTED_MAX)
    if done > record.furthest_bytes:
        return {"transfers_failed": 0, "furthest_bytes": done}
    return {"transfers_failed": record.transfers_failed + 1}


def after_transfer_failed(
    record: Record, problem: common_pb2.Problem, limits: MigrationSettings
) -> Again | Back:
    """What follows a transfer that ended as FAILED; `record` counts it already."""
    worth_it = problem.retryable or problem.reason in _WAIT_FOR_PLACE
    if worth_it and record.transfers_failed < limits.transfer_attempts_max:
        return Again(backoff_seconds(record.transfers_failed, limits), problem)
    return Back(problem)


def require_in_time(record: Record, now: int, limits: MigrationSettings) -> None:
    """Raises DeadlineExceeded, not retryable, when COPYING has taken longer than it may."""
    spent = (now - record.state_changed_at) / 1_000_000
    if record.state is State.COPYING and spent > limits.copying_seconds_max:
        raise errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED",
            f"the content was not moved within {limits.copying_seconds_max:.0f} s",
            hint="raise migrations.copying_seconds_max, or look at the link between the agents",
            retryable=False,
        )


def backoff_seconds(failures: int, limits: MigrationSettings) -> float:
    """Delay before the step is repeated; doubles with every failure up to its limit."""
    delay = limits.retry_initial_seconds * 2.0 ** min(max(failures - 1, 0), 32)
    return min(delay, limits.retry_max_seconds)


def require_same_machine(record: Record, guest: agent_pb2.Guest) -> None:
    """Raises FailedPrecondition when what the agent holds cannot be moved as this migration.

    A host that was never told an epoch says 0.
    """
    if guest.HasField("problem"):
        raise errors.FailedPrecondition(
            guest.problem.reason, guest.problem.message, hint=guest.problem.hint
        )
    if guest.epoch not in (0, record.source_epoch):
        raise errors.FailedPrecondition(
            "EPOCH_MISMATCH",
            f"host {record.host_id} has machine {record.vm_id} at epoch {guest.epoch}, "
            f"this cloud owns it at epoch {record.source_epoch}",
            hint="the host holds another copy than the one that is owned: look at both",
            epoch=record.source_epoch,
        )


def require_receipt(
    grant: common_pb2.Grant, receipt: common_pb2.Receipt, source_view: common_pb2.Receipt
) -> None:
    """Raises DataLoss RECEIPT_MISMATCH unless the receipt says what the source read itself."""
    granted = [(disk.disk_id, disk.size_bytes) for disk in grant.disks]
    pairs = {
        "migration_id": (receipt.migration_id, grant.migration_id),
        "vm_id": (receipt.vm_id, grant.vm_id),
        "destination_epoch": (receipt.destination_epoch, grant.source_epoch + 1),
        "granted disks": (
            sorted((disk.disk_id, disk.size_bytes) for disk in receipt.disks),
            sorted(granted),
        ),
        "disks": (list(receipt.disks), list(source_view.disks)),
        "definition_sha256": (receipt.definition_sha256, source_view.definition_sha256),
        "root": (receipt.root, source_view.root),
    }
    for what, (received, expected) in pairs.items():
        if received != expected:
            raise errors.DataLoss(
                "RECEIPT_MISMATCH",
                f"the destination's receipt differs from what was sent: {what}",
                hint="the machine stays here; look at the storage on both sides, then try again",
                differs=what,
            )
    if not receipt.root:
        raise errors.DataLoss(
            "RECEIPT_MISMATCH", "the destination's receipt has no root", hint="update its agent"
        )


def _gave_up(party: Party, error: errors.WatariError, waited_seconds: float) -> errors.WatariError:
    who = {Party.OWN_AGENT: "the machine's host", Party.PEER: "the destination's manager"}
    return errors.Unavailable(
        "PEER_UNAVAILABLE",
        f"{who.get(party, 'the transfer')} did not answer for {waited_seconds:.0f} s: "
        f"{error.message}",
        hint="the machine is where it was; try again when it answers",
        cause=error.reason,
    )
