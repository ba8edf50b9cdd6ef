"""Rows of what was issued, disputed and settled. Runs in the caller's transaction."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager.accounting import exact, tables
from watari.v1 import manager_pb2

_INVOICES = tables.invoices.c
_HEADS = tables.invoice_heads.c
_MONTHS = tables.issued_months.c
_DISPUTES = tables.disputes.c
_DECISIONS = tables.dispute_decisions.c
_SETTLEMENTS = tables.settlements.c


@dataclass(frozen=True)
class DisputeRow:
    """A dispute, and how it was decided if it was."""

    dispute_id: str
    entry_id: str
    charge_id: str
    payer: str
    reason: str
    opened_by: str
    opened_at: int
    credited_nanos: int | None = None
    """None while it is open."""
    decision_reason: str = ""
    decided_by: str = ""
    decided_at: int = 0


def invoice_heads(
    connection: Connection,
    *,
    payer: str | None,
    period: str = "",
    before: tuple[int, str] | None = None,
    limit: int,
) -> list[manager_pb2.Invoice]:
    """Invoices without lines, newest first, before a position; `payer` None is all."""
    query = sa.select(_HEADS.head).join(tables.invoices, _INVOICES.invoice_id == _HEADS.invoice_id)
    if payer is not None:
        query = query.where(_INVOICES.payer == payer)
    if period:
        query = query.where(_INVOICES.period == period)
    position = sa.tuple_(_INVOICES.issued_at, _INVOICES.invoice_id)
    if before is not None:
        query = query.where(position < sa.tuple_(*before))
    query = query.order_by(_INVOICES.issued_at.desc(), _INVOICES.invoice_id.desc()).limit(limit)
    return [manager_pb2.Invoice.FromString(head) for head in connection.scalars(query)]


def invoice_head(connection: Connection, key: str) -> manager_pb2.Invoice | None:
    """The invoice of an id or a number, without lines."""
    query = sa.select(_HEADS.head).join(tables.invoices, _INVOICES.invoice_id == _HEADS.invoice_id)
    found = connection.scalar(
        query.where(sa.or_(_INVOICES.invoice_id == key, _INVOICES.number == key))
    )
    return None if found is None else manager_pb2.Invoice.FromString(found)


def add_invoice(
    connection: Connection, head: manager_pb2.Invoice, corrections: Iterable[str]
) -> None:
    """What lists show of an invoice, and the corrections that are in it."""
    connection.execute(
        tables.invoice_heads.insert().values(
            invoice_id=head.invoice_id, head=head.SerializeToString(deterministic=True)
        )
    )
    listed = [{"entry_id": each, "invoice_id": head.invoice_id} for each in corrections]
    if listed:
        connection.execute(tables.invoice_corrections.insert(), listed)


def issued_payers(connection: Connection, period: str) -> set[str]:
    """Who has an invoice of a month."""
    return set(connection.scalars(sa.select(_INVOICES.payer).where(_INVOICES.period == period)))


def issued_month(connection: Connection, period: str) -> tuple[int, int] | None:
    """When all of a month had been issued, and how many invoices; None before that."""
    row = connection.execute(
        sa.select(_MONTHS.issued_at, _MONTHS.invoices).where(_MONTHS.period == period)
    ).one_or_none()
    return None if row is None else (row.issued_at, row.invoices)


def add_issued_month(connection: Connection, period: str, invoices: int, now: int) -> None:
    """All of a month has been issued."""
    connection.execute(
        tables.issued_months.insert().values(period=period, invoices=invoices, issued_at=now)
    )


def unissued_before(connection: Connection, period: str) -> str | None:
    """The first earlier month in which something was charged and that is not issued."""
    entries = tables.ledger_entries.c
    query = sa.select(sa.func.min(entries.period)).where(
        entries.period < period,
        entries.kind.in_(("charge", "tax", "correction")),
        entries.period.not_in(sa.select(_MONTHS.period)),
    )
    found: str | None = connection.scalar(query)
    return found


def dispute(connection: Connection, dispute_id: str) -> DisputeRow | None:
    """A dispute."""
    found = _disputes(connection, [_DISPUTES.dispute_id == dispute_id], 1)
    return found[0] if found else None


def disputes(
    connection: Connection,
    *,
    payer: str | None,
    open_only: bool = False,
    period: str = "",
    before: tuple[int, str] | None = None,
    limit: int,
) -> list[DisputeRow]:
    """Disputes, newest first, before a position; `payer` None is all, an empty `period` too."""
    where: list[sa.ColumnElement[bool]] = []
    if period:
        entries = tables.ledger_entries.c
        of_period = sa.select(entries.entry_id).where(entries.period == period)
        where.append(_DISPUTES.entry_id.in_(of_period))
    if payer is not None:
        where.append(_DISPUTES.payer == payer)
    if open_only:
        where.append(_DECISIONS.dispute_id.is_(None))
    if before is not None:
        where.append(sa.tuple_(_DISPUTES.opened_at, _DISPUTES.dispute_id) < sa.tuple_(*before))
    return _disputes(connection, where, limit)


def add_dispute(connection: Connection, row: DisputeRow) -> None:
    """A dispute that is not decided."""
    connection.execute(
        tables.disputes.insert().values(
            **{column.name: getattr(row, column.name) for column in tables.disputes.columns}
        )
    )


def decide_dispute(
    connection: Connection, dispute_id: str, nanos: int, reason: str, decided_by: str, now: int
) -> None:
    """How it was decided."""
    units, rest = divmod(nanos, exact.NANOS)
    connection.execute(
        tables.dispute_decisions.insert().values(
            dispute_id=dispute_id,
            units=units,
            nanos=rest,
            reason=reason,
            decided_by=decided_by,
            decided_at=now,
        )
    )


def settlement(
    connection: Connection, peer_cloud: str, period: str
) -> manager_pb2.Settlement | None:
    """The statement with a cloud for a month, as it was booked."""
    return _settlement(connection, _SETTLEMENTS.peer_cloud == peer_cloud, period)


def settlement_with(
    connection: Connection, peer_domain: str, period: str
) -> manager_pb2.Settlement | None:
    """The same with a provider's only cloud."""
    return _settlement(connection, _SETTLEMENTS.peer_domain == peer_domain, period)


def add_settlement(
    connection: Connection, statement: manager_pb2.Settlement, peer_domain: str, now: int
) -> None:
    """A statement is booked."""
    connection.execute(
        tables.settlements.insert().values(
            statement_id=statement.statement_id,
            peer_cloud=statement.peer_cloud,
            peer_domain=peer_domain,
            period=statement.period,
            statement=statement.SerializeToString(deterministic=True),
            netted_at=now,
        )
    )


def _settlement(
    connection: Connection, where: sa.ColumnElement[bool], period: str
) -> manager_pb2.Settlement | None:
    query = sa.select(_SETTLEMENTS.statement).where(where, _SETTLEMENTS.period == period)
    found = connection.scalar(query)
    return None if found is None else manager_pb2.Settlement.FromString(found)


def _disputes(
    connection: Connection, where: Iterable[sa.ColumnElement[bool]], limit: int
) -> list[DisputeRow]:
    query = (
        sa.select(
            *_DISPUTES,
            _DECISIONS.units,
            _DECISIONS.nanos,
            _DECISIONS.reason.label("decision_reason"),
            _DECISIONS.decided_by,
            _DECISIONS.decided_at,
        )
        .join(
            tables.dispute_decisions,
            _DECISIONS.dispute_id == _DISPUTES.dispute_id,
            isouter=True,
        )
        .where(*where)
        .order_by(_DISPUTES.opened_at.desc(), _DISPUTES.dispute_id.desc())
        .limit(limit)
    )
    return [
        DisputeRow(
            row.dispute_id,
            row.entry_id,
            row.charge_id,
            row.payer,
            row.reason,
            row.opened_by,
            row.opened_at,
            None if row.units is None else row.units * exact.NANOS + row.nanos,
            row.decision_reason or "",
            row.decided_by or "",
            row.decided_at or 0,
        )
        for row in connection.execute(query)
    ]
