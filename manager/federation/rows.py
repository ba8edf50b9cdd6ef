"""Rows of providers, invitations, old authorities and the own bundle: what SQL there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from manager.federation import tables
from manager.tables import peers
from watari.v1 import federation_pb2

_PROVIDERS = tables.providers
_INVITATIONS = tables.invitations
_OLD = tables.old_authorities
_OWN = tables.own_bundle


class State(StrEnum):
    """How far a provider is; see `ProviderState` in the contract."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REMOVED = "removed"


@dataclass(frozen=True)
class ProviderRow:
    """A provider that was met."""

    domain: str
    state: State
    bundle: federation_pb2.Bundle
    met_at: int
    state_changed_at: int
    told_sequence: int = 0


@dataclass(frozen=True)
class InvitationRow:
    """An invitation that was given out. The secret is not kept."""

    invitation_id: str
    expires_at: int
    caller_pem: bytes
    """The authority whose certificates the invited party shows."""
    door_cert: bytes
    door_key: bytes
    used_by: str = ""
    """The provider that used it."""
    used_ca: bytes = b""
    """Fingerprint that it came with."""


def provider(connection: Connection, domain: str) -> ProviderRow | None:
    """The provider of a domain."""
    row = connection.execute(sa.select(_PROVIDERS).where(_PROVIDERS.c.domain == domain)).first()
    return None if row is None else _provider(row)


def providers(
    connection: Connection, *, state: State | None = None, after: str = "", limit: int = 10_000
) -> list[ProviderRow]:
    """Providers by domain."""
    query = sa.select(_PROVIDERS).where(_PROVIDERS.c.domain > after)
    if state is not None:
        query = query.where(_PROVIDERS.c.state == state.value)
    rows = connection.execute(query.order_by(_PROVIDERS.c.domain).limit(limit))
    return [_provider(row) for row in rows]


def put_provider(connection: Connection, row: ProviderRow) -> None:
    """Writes a provider in place of what was known of it."""
    connection.execute(_PROVIDERS.delete().where(_PROVIDERS.c.domain == row.domain))
    connection.execute(
        _PROVIDERS.insert().values(
            domain=row.domain,
            state=row.state.value,
            bundle=row.bundle.SerializeToString(),
            met_at=row.met_at,
            state_changed_at=row.state_changed_at,
            told_sequence=row.told_sequence,
        )
    )


def told(connection: Connection, domain: str, sequence: int) -> None:
    """A provider has taken a bundle of ours."""
    connection.execute(
        _PROVIDERS.update().where(_PROVIDERS.c.domain == domain).values(told_sequence=sequence)
    )


def known_managers(connection: Connection) -> dict[str, str]:
    """Managers (SPIFFE ids) of clouds, as the directory last told them."""
    rows = connection.execute(sa.select(peers.c.cloud_id, peers.c.spiffe_id))
    return {row.cloud_id: row.spiffe_id for row in rows}


def invitation(connection: Connection, invitation_id: str) -> InvitationRow | None:
    """An invitation by its id."""
    query = sa.select(_INVITATIONS).where(_INVITATIONS.c.invitation_id == invitation_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else InvitationRow(**row)


def invitations(connection: Connection, now: int) -> list[InvitationRow]:
    """Those that hold, used or not."""
    query = sa.select(_INVITATIONS).where(_INVITATIONS.c.expires_at > now)
    return [InvitationRow(**row) for row in connection.execute(query).mappings()]


def put_invitation(connection: Connection, row: InvitationRow) -> None:
    """Writes an invitation in place of what was known of it."""
    drop_invitation(connection, row.invitation_id)
    connection.execute(_INVITATIONS.insert().values(**row.__dict__))


def drop_invitation(connection: Connection, invitation_id: str) -> None:
    """Forgets an invitation."""
    connection.execute(_INVITATIONS.delete().where(_INVITATIONS.c.invitation_id == invitation_id))


def drop_invitations_of(connection: Connection, domain: str) -> None:
    """Forgets the invitations that a provider used."""
    connection.execute(_INVITATIONS.delete().where(_INVITATIONS.c.used_by == domain))


def expire_invitations(connection: Connection, now: int) -> None:
    """Forgets the invitations that have run out."""
    connection.execute(_INVITATIONS.delete().where(_INVITATIONS.c.expires_at <= now))


def own_bundle(connection: Connection) -> tuple[int, bytes]:
    """The sequence of the own bundle, and SHA-256 of what it said; 0 and nothing at first."""
    row = connection.execute(sa.select(_OWN.c.sequence, _OWN.c.sha256)).first()
    return (0, b"") if row is None else (row.sequence, row.sha256)


def put_own_bundle(connection: Connection, sequence: int, sha256: bytes) -> None:
    """Notes the own bundle."""
    connection.execute(_OWN.delete())
    connection.execute(_OWN.insert().values(sequence=sequence, sha256=sha256))


def old_authorities(connection: Connection) -> Sequence[tuple[bytes, int]]:
    """Fingerprints of authorities that issue no longer, and until when they are accepted."""
    rows = connection.execute(sa.select(_OLD.c.sha256, _OLD.c.accepted_until))
    return [(row.sha256, row.accepted_until) for row in rows]


def put_old_authority(connection: Connection, sha256: bytes, accepted_until: int) -> None:
    """An authority issues no longer."""
    drop_old_authority(connection, sha256)
    connection.execute(_OLD.insert().values(sha256=sha256, accepted_until=accepted_until))


def drop_old_authority(connection: Connection, sha256: bytes) -> None:
    """An authority is not accepted any more."""
    connection.execute(_OLD.delete().where(_OLD.c.sha256 == sha256))


def _provider(row: Row[tuple[object, ...]]) -> ProviderRow:
    return ProviderRow(
        domain=row.domain,
        state=State(row.state),
        bundle=federation_pb2.Bundle.FromString(row.bundle),
        met_at=row.met_at,
        state_changed_at=row.state_changed_at,
        told_sequence=row.told_sequence,
    )
