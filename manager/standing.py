"""What a standing delegation lets a broker do in this cloud, and what is remembered of it.

Remembered is when each document was first seen with its signer's certificate valid, since the
certificate ends before the document may. How often a machine has moved is not written down again:
the migrations that were begun under standing delegations are counted. What was revoked is looked up
again in the transaction that begins a move (`manager.revocations`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from manager import revocation_rows, tables
from manager.ownership import Tenant, View
from manager.revocation_rows import Revocation
from manager.saga.record import Record
from manager.store import Store, micros, moment
from watari import errors, standing, validate
from watari.delegation import invalid
from watari.identity import Identity, SpiffeId
from watari.standing import Standing
from watari.v1 import common_pb2, manager_pb2

SEEN_MAX = 10_000
"""Documents that are remembered; a further one is good for as long as its signer's certificate."""

KEPT = timedelta(days=7)
"""So long after its end a document is still believed: what it let begin may be looked at."""

_LIFE = timedelta(seconds=standing.LIFE_SECONDS_MAX)
_SEEN = tables.standing_delegations.c
_MIGRATIONS = tables.migrations.c


@dataclass(frozen=True)
class StandingMandate:
    """A standing delegation whose signature has been proved, to a broker that is known."""

    standing: Standing
    revoked: Revocation | None = None
    """Who ended it here, as was known when the call came."""

    @property
    def _said(self) -> common_pb2.StandingDelegation:
        return self.standing.message

    @property
    def delegate(self) -> SpiffeId:
        """The broker."""
        return SpiffeId.parse(self._said.delegate)

    @property
    def told(self) -> dict[str, object]:
        """For the audit log."""
        return {"standing_delegation": self._said.delegation_id}

    @property
    def view(self) -> View:
        """The tenant's."""
        return View(Tenant(self._said.tenant_domain, self._said.tenant))

    @property
    def vm_ids(self) -> Sequence[str]:
        """Only these machines of it; empty is all."""
        return self._said.vm_ids

    def require_cloud(self, cloud_id: str) -> None:
        """Raises Denied DELEGATION_INVALID for a machine of another cloud."""
        if cloud_id not in self._said.from_clouds:
            raise invalid(
                f"it is for machines of {', '.join(self._said.from_clouds)}, not of {cloud_id}",
                "have it signed for the clouds that machines are in",
            )

    def require_vm(self, vm: str) -> None:
        """Raises Denied DELEGATION_INVALID for a machine that it does not name, where it names any,
        and for a name: what a name stands for may change.
        """
        try:
            validate.require_uuid(vm, "vm")
        except errors.InvalidArgument as error:
            raise invalid("it is for machines by their UUID", "name the machine by it") from error
        if not self.covers(vm):
            raise invalid(
                f"it is for {len(self.vm_ids)} machines, of which {vm} is none",
                "have it signed for that machine, or for all of the tenant's",
            )

    def require_migration(self, _migration_id: str) -> None:
        """Any migration: which ones it let begin, `began` tells."""

    def require_destination(self, cloud_id: str) -> None:
        """Raises Denied DELEGATION_INVALID for a cloud that machines may not go to."""
        if cloud_id not in self._said.to_clouds:
            raise invalid(
                f"it lets machines go to {', '.join(self._said.to_clouds)}, not to {cloud_id}",
                "have it signed for that cloud too",
            )

    def require_alive(self, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID when it is over, or good for longer than may be, and
        DELEGATION_REVOKED.
        """
        standing.require_alive(self._said, now)
        _require_not(self.revoked)

    def require_move(self, connection: Connection, vm_id: str, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID when brokers have begun as many moves of the machine as
        they may, and DELEGATION_REVOKED. For the transaction that records one more; the machine's
        row is locked by then, and nobody revokes before it ends.

        Counted are moves under any standing delegation: a second document lends no second budget.
        """
        _require_not(revocation_rows.of_standing(connection, self.standing))
        window = timedelta(seconds=self._said.window_seconds)
        rows = connection.execute(
            sa.select(_MIGRATIONS.request).where(
                _MIGRATIONS.vm_id == vm_id, _MIGRATIONS.created_at > micros(now - window)
            )
        )
        moved = sum(standing.is_one(_delegation(request)) for (request,) in rows)
        if moved >= self._said.moves_max:
            raise invalid(
                f"it lets a machine leave {moved} times within {window}, and it has",
                "wait, move it yourself, or have one signed for more",
            )

    def covers(self, vm_id: str) -> bool:
        """Whether it is about this machine, of those in the view."""
        return not self.vm_ids or vm_id in self.vm_ids

    def began(self, record: Record) -> bool:
        """Whether a standing delegation of the same signer to the same broker began it."""
        shown = record.request.delegation
        if not standing.is_one(shown) or record.requested_by != str(self.standing.signer):
            return False
        said = common_pb2.StandingDelegation.FromString(shown.payload)
        return said.delegate == self._said.delegate


class Seen:
    """Documents that were seen while the certificate that signed them was valid."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(
        self, document: common_pb2.SignedDocument, own: Identity, now: datetime, peer: SpiffeId
    ) -> StandingMandate:
        """What the document says to broker `peer`, and whether that was revoked; it is remembered
        until it is over.

        Raises Denied DELEGATION_INVALID.
        """
        if document.ByteSize() > standing.DOCUMENT_BYTES_MAX:
            # Before it is hashed.
            raise invalid(f"it is larger than {standing.DOCUMENT_BYTES_MAX} bytes", "sign less")
        digest = standing.digest(document)
        seen_at, told = self._seen_at(digest)
        found = standing.read(document, own.trust, now, delegate=peer, seen_at=seen_at)
        revoked = self._revoked(found)
        if revoked is None and not told:
            self._remember(digest, found, now)
        return StandingMandate(found, revoked)

    def _seen_at(self, digest: str) -> tuple[datetime | None, bool]:
        """When, and whether what it says was written down too."""
        with self._store.read() as connection:
            row = connection.execute(
                sa.select(_SEEN.seen_at, _SEEN.delegation_id).where(_SEEN.digest == digest)
            ).one_or_none()
        return (None, False) if row is None else (moment(row.seen_at), bool(row.delegation_id))

    def _revoked(self, found: Standing) -> Revocation | None:
        with self._store.read() as connection:
            revoked = revocation_rows.of_standing(connection, found)
        if revoked is not None and not revocation_rows.outlasts(revoked, found):
            with self._store.write() as connection:
                revocation_rows.keep(connection, revoked, found)
        return revoked

    def _remember(self, digest: str, found: Standing, now: datetime) -> None:
        table, said = tables.standing_delegations, found.message
        if not now < found.expires_at <= now + _LIFE:
            # What is made out for longer is not good yet, nor would a revocation be kept for it.
            return
        told = {
            "delegation_id": said.delegation_id,
            "tenant_domain": said.tenant_domain,
            "tenant": said.tenant,
            "delegate": said.delegate,
        }
        with self._store.write() as connection:
            connection.execute(table.delete().where(_SEEN.expires_at <= micros(now - KEPT)))
            known = connection.scalar(sa.select(_SEEN.seen_at).where(_SEEN.digest == digest))
            held = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            if known is not None:
                connection.execute(table.update().where(_SEEN.digest == digest).values(**told))
            elif held < SEEN_MAX:
                connection.execute(
                    table.insert().values(
                        digest=digest,
                        signer=str(found.signer),
                        seen_at=micros(now),
                        expires_at=micros(found.expires_at),
                        **told,
                    )
                )


def _require_not(revoked: Revocation | None) -> None:
    """Raises Denied DELEGATION_REVOKED for one."""
    if revoked is None:
        return
    at = moment(revoked.revoked_at).isoformat(timespec="seconds")
    why = f": {revoked.reason}" if revoked.reason else ""
    raise errors.Denied(
        "DELEGATION_REVOKED",
        f"{revoked.revoked_by} revoked the delegation in this cloud at {at}{why}",
        hint="nothing begins under it here any more; another one has to be signed",
        delegation=revoked.delegation_id,
    )


def _delegation(request: bytes) -> common_pb2.SignedDocument:
    return manager_pb2.MigrateVmRequest.FromString(request).delegation
