"""The rows of migrations. Runs in the caller's transaction; enforces the table of states.

Every state that a migration comes to is in the audit log, once, by the same transaction.
"""

import sqlalchemy as sa
from google.protobuf.message import Message
from sqlalchemy.engine import Connection, RowMapping

from manager import audit, tables
from manager.ownership import EVERYTHING, View
from manager.saga import states
from manager.saga.record import Record
from manager.saga.states import State
from manager.within import within
from watari import errors
from watari.v1 import common_pb2, manager_pb2

_ROWS = tables.migrations.c

Position = tuple[int, str]
"""Creation and id of the last migration of a page."""

_BLOBS: dict[str, type[Message]] = {
    "request": manager_pb2.MigrateVmRequest,
    "reserve_request": manager_pb2.ReserveRequest,
    "grant": common_pb2.SignedGrant,
    "destination_control": common_pb2.Endpoint,
    "destination_data": common_pb2.Endpoint,
    "limit_schedule": common_pb2.TransferOptions,
    "receipt": common_pb2.SignedDocument,
    "hand_over": common_pb2.SignedDocument,
    "relinquishment": common_pb2.SignedDocument,
    "problem": common_pb2.Problem,
}


def insert(connection: Connection, new: Record) -> None:
    """Write a new migration."""
    values = {column.name: getattr(new, column.name) for column in tables.migrations.columns}
    connection.execute(tables.migrations.insert().values(**_stored(values)))
    audit.append(
        connection,
        new.created_at,
        actor=new.requested_by,
        action="migration.requested",
        subject=new.migration_id,
        details={
            "vm_id": new.vm_id,
            "vm_name": new.vm_name,
            "tenant": new.tenant,
            "source_epoch": new.source_epoch,
            "to_cloud": new.to_cloud,
            "to_manager": new.to_manager,
            "mode": _word(new.mode),
            "state": new.state,
        },
    )


def get(connection: Connection, migration_id: str) -> Record | None:
    """The migration, or None."""
    query = sa.select(tables.migrations).where(_ROWS.migration_id == migration_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


def require(connection: Connection, migration_id: str) -> Record:
    """The migration. Raises NotFound MIGRATION_NOT_FOUND."""
    return require_seen(connection, migration_id, EVERYTHING)


def require_seen(connection: Connection, migration_id: str, view: View) -> Record:
    """The migration, if it is in the view. Raises NotFound MIGRATION_NOT_FOUND."""
    query = sa.select(tables.migrations).where(
        _ROWS.migration_id == migration_id, within(_ROWS, view)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_found(migration_id)
    return _row(row)


def not_found(migration_id: str) -> errors.NotFound:
    """The error for a migration that is not there, or not the caller's."""
    return errors.NotFound(
        "MIGRATION_NOT_FOUND",
        f"no migration {migration_id} from this cloud",
        hint="ask the cloud that the machine left",
        migration_id=migration_id,
    )


def advance(
    connection: Connection, record: Record, to: State, now: int, *, actor: str, **values: object
) -> Record:
    """Change the state, and further columns with it; `actor` is who did, for the audit log.

    Compare-and-swap: raises Conflict GENERATION_CONFLICT when the record changed since it was read,
    so that a cancellation and a step forward can never both happen. Raises FailedPrecondition
    MIGRATION_STATE for a step that the table has not.
    """
    states.check(record.state, to)
    ended = {"ended_at": now} if to in states.FINAL else {}
    changes = {"state": to, "generation": record.generation + 1, "state_changed_at": now}
    advanced = _update(connection, record, **(values | changes | ended))
    audit.append(
        connection,
        now,
        actor=actor,
        action="migration.state",
        subject=record.migration_id,
        details=_told(advanced, record.state),
    )
    return advanced


def note(connection: Connection, record: Record, **values: object) -> Record:
    """Change columns within a state. Raises Conflict as `advance` does."""
    return _update(connection, record, **values)


def active(connection: Connection) -> list[Record]:
    """Migrations that have not ended, oldest first."""
    query = sa.select(tables.migrations).where(_not_ended())
    rows = connection.execute(query.order_by(_ROWS.created_at, _ROWS.migration_id)).mappings()
    return [_row(row) for row in rows]


def active_count(connection: Connection, view: View = EVERYTHING) -> int:
    """How many of the view have not ended."""
    seen = sa.select(sa.func.count()).select_from(tables.migrations).where(within(_ROWS, view))
    query = seen.where(_not_ended())
    return connection.scalar(query) or 0


def page(
    connection: Connection,
    view: View,
    *,
    active_only: bool,
    vm_id: str,
    after: Position | None,
    limit: int,
) -> list[Record]:
    """Migrations of the view, newest first, after a position."""
    query = sa.select(tables.migrations).where(within(_ROWS, view))
    if active_only:
        query = query.where(_not_ended())
    if vm_id:
        query = query.where(_ROWS.vm_id == vm_id)
    if after is not None:
        query = query.where(
            (_ROWS.created_at < after[0])
            | ((_ROWS.created_at == after[0]) & (_ROWS.migration_id > after[1]))
        )
    rows = connection.execute(
        query.order_by(_ROWS.created_at.desc(), _ROWS.migration_id).limit(limit)
    ).mappings()
    return [_row(row) for row in rows]


def _told(record: Record, before: State) -> dict[str, object]:
    """What the audit log says of a change of state."""
    told: dict[str, object] = {
        "state": record.state,
        "from_state": before,
        "generation": record.generation,
        "vm_id": record.vm_id,
    }
    if record.problem is not None:
        told["reason"] = record.problem.reason
    if record.state is State.HANDED_OVER and record.receipt is not None:
        told["to_cloud"], told["epoch"] = record.to_cloud, record.source_epoch + 1
        told["receipt_root"] = common_pb2.Receipt.FromString(record.receipt.payload).root.hex()
    if record.state is State.TAKING_BACK:
        told["epoch"] = record.taken_back_epoch
    return told


def _word(mode: "common_pb2.MigrationMode.ValueType") -> str:
    return common_pb2.MigrationMode.Name(mode).removeprefix("MIGRATION_MODE_").lower()


def _not_ended() -> sa.ColumnElement[bool]:
    return _ROWS.state.not_in([state.value for state in states.FINAL])


def _update(connection: Connection, record: Record, **values: object) -> Record:
    changed = connection.execute(
        tables.migrations.update()
        .where(
            _ROWS.migration_id == record.migration_id,
            _ROWS.generation == record.generation,
            _ROWS.cancel_requested == record.cancel_requested,
        )
        .values(**_stored(values))
    )
    if changed.rowcount != 1:
        raise errors.Conflict(
            "GENERATION_CONFLICT",
            f"migration {record.migration_id} changed meanwhile",
            hint="read it again",
            migration_id=record.migration_id,
        )
    return require(connection, record.migration_id)


def _stored(values: dict[str, object]) -> dict[str, object]:
    return {
        name: value.SerializeToString(deterministic=True) if isinstance(value, Message) else value
        for name, value in values.items()
    }


def _row(row: RowMapping) -> Record:
    values = dict(row)
    values["state"] = State(values["state"])
    for name, kind in _BLOBS.items():
        if values[name] is not None:
            values[name] = kind.FromString(values[name])
    return Record(**values)
