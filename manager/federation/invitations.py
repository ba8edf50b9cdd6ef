"""Invitations that this provider gave out, and the door by which their holders come in."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from manager import audit
from manager.federation import rows
from manager.federation.rows import InvitationRow
from manager.settings.federation import FederationSettings
from manager.store import Store, micros, moment
from watari import errors, logs
from watari.clock import Clock
from watari.identity import Role, SpiffeId, invitation
from watari.identity.invitation import Invitation

_log = logs.get(__name__)


class Invitations:
    """Open invitations; the `Door` of the manager's server."""

    def __init__(self, domain: str, store: Store, clock: Clock, limits: FederationSettings) -> None:
        self._domain = domain
        self._store = store
        self._clock = clock
        self._limits = limits
        self._lock = threading.Lock()
        self._open: list[InvitationRow] = []
        self._load()

    def create(
        self,
        manager: SpiffeId,
        address: str,
        ca_sha256: bytes,
        ttl_seconds: int,
        caller: SpiffeId,
    ) -> Invitation:
        """A new one. Raises Exhausted INVITATION_INVALID when as many are open as may."""
        seconds = ttl_seconds or self._limits.invitation_ttl_seconds
        now = self._clock.now()
        made = Invitation.make(manager, address, ca_sha256, now + timedelta(seconds=seconds))
        door_cert, door_key = made.door(self._clock).issue(made.invitee, seconds)
        row = InvitationRow(
            invitation_id=made.invitee.name,
            expires_at=micros(made.expires_at),
            caller_pem=made.caller(self._clock).cert_pem,
            door_cert=door_cert,
            door_key=door_key,
        )
        with self._store.write() as connection:
            rows.expire_invitations(connection, micros(now))
            if len(rows.invitations(connection, micros(now))) >= self._limits.invitations_max:
                raise errors.Exhausted(
                    "INVITATION_INVALID",
                    f"{self._limits.invitations_max} invitations are open",
                    hint="wait until one is used or has run out",
                )
            rows.put_invitation(connection, row)
            audit.append(
                connection,
                micros(now),
                actor=caller,
                action="invitation.created",
                subject=row.invitation_id,
                details={"expires_at": made.expires_at.isoformat()},
            )
        self._load()
        return made

    def use(self, invitee: SpiffeId, domain: str, ca_sha256: bytes) -> None:
        """Uses an invitation up for one provider; the same one may come again while it holds.

        Raises Denied INVITATION_INVALID.
        """
        now = micros(self._clock.now())
        with self._store.write() as connection:
            row = rows.invitation(connection, invitee.name)
            if row is None or row.expires_at <= now:
                raise _denied("it has run out, or was never given out")
            if row.used_by and (row.used_by, row.used_ca) != (domain, ca_sha256):
                _log.warning("invitation used twice", first=row.used_by, second=domain)
                raise _denied("it was used already")
            if row.used_by:
                return
            rows.put_invitation(connection, replace(row, used_by=domain, used_ca=ca_sha256))
            audit.append(
                connection,
                now,
                actor=invitee,
                action="invitation.used",
                subject=domain,
                details={"ca_sha256": ca_sha256.hex()},
            )
        self._load()

    def close(self, domain: str) -> None:
        """The provider that used one is accepted or refused: its way in is shut."""
        with self._store.write() as connection:
            rows.drop_invitations_of(connection, domain)
        self._load()

    def pairs(self) -> Sequence[tuple[bytes, bytes]]:
        """What the server shows to holders, (key, certificate)."""
        return [(row.door_key, row.door_cert) for row in self._holding()]

    def roots(self) -> bytes:
        """Their authorities, PEM."""
        return b"".join(row.caller_pem for row in self._holding())

    def recognise(self, certificate: bytes, now: datetime) -> SpiffeId | None:
        """Which invitation's holder shows this certificate; None when none does."""
        for row in self._holding():
            invitee = self._invitee(row)
            if invitation.recognise(certificate, row.caller_pem, invitee, now):
                return invitee
        return None

    def _invitee(self, row: InvitationRow) -> SpiffeId:
        return SpiffeId(self._domain, Role.INVITEE, row.invitation_id)

    def _holding(self) -> list[InvitationRow]:
        if not self._open:
            return []
        now = self._clock.now()
        return [row for row in self._open if moment(row.expires_at) > now]

    def _load(self) -> None:
        with self._lock, self._store.read() as connection:
            self._open = rows.invitations(connection, micros(self._clock.now()))


def _denied(why: str) -> errors.Denied:
    return errors.Denied(
        "INVITATION_INVALID",
        f"the invitation cannot be used: {why}",
        hint="ask the inviting provider for a new one: watari federation invite",
    )
