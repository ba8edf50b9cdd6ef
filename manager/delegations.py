"""What a delegation lets a broker do in this cloud: functions of values.

Whose machine it is, is not asked here: a broker sees what the signer may see and of that the one
machine only, so that a delegation by somebody else finds nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.engine import Connection

from manager.saga.record import Record
from watari import delegation, errors
from watari.delegation import LIFE_SECONDS_MAX, invalid
from watari.identity import SpiffeId
from watari.v1 import common_pb2


@dataclass(frozen=True)
class Mandate:
    """A delegation whose signature has been proved, to a broker that is known."""

    delegation: common_pb2.Delegation

    @property
    def vm_id(self) -> str:
        """The one machine."""
        return self.delegation.vm_id

    @property
    def delegate(self) -> SpiffeId:
        """The broker."""
        return SpiffeId.parse(self.delegation.delegate)

    @property
    def told(self) -> dict[str, object]:
        """For the audit log: nothing more."""
        return {}

    def require_cloud(self, cloud_id: str) -> None:
        """Raises Denied DELEGATION_INVALID for a machine of another cloud."""
        delegation.require_from(self.delegation, cloud_id)

    def require_vm(self, vm: str) -> None:
        """Raises Denied DELEGATION_INVALID for any other machine, and for a name: what a name
        stands for may change.
        """
        if vm != self.vm_id:
            raise invalid(
                f"it is for machine {self.vm_id}, not for {vm}",
                "name the machine by the UUID that was delegated",
            )

    def require_migration(self, migration_id: str) -> None:
        """Raises Denied DELEGATION_INVALID for any other migration."""
        delegation.require_migration(self.delegation, migration_id)

    def require_destination(self, cloud_id: str) -> None:
        """Raises Denied DELEGATION_INVALID for a cloud that the machine may not go to."""
        allowed = self.delegation.to_clouds
        if allowed and cloud_id not in allowed:
            raise invalid(
                f"it lets the machine go to {', '.join(allowed)}, not to {cloud_id}",
                "have it signed for that cloud, or for none in particular",
            )

    def require_alive(self, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID when it is over, or good for longer than may be."""
        expires_at = _moment(self.delegation)
        if expires_at <= now:
            raise invalid(
                f"it expired at {expires_at.isoformat(timespec='seconds')}",
                "have a new one signed; clocks must agree",
            )
        if expires_at > now + timedelta(seconds=LIFE_SECONDS_MAX):
            raise invalid(
                f"it is good until {expires_at.isoformat(timespec='seconds')}",
                f"at most {LIFE_SECONDS_MAX} seconds from now",
            )

    def require_move(self, _connection: Connection, _vm_id: str, _now: datetime) -> None:
        """It is good for one migration, whose id is used once."""

    def covers(self, vm_id: str) -> bool:
        """Whether it is about this machine, of those in the view."""
        return vm_id == self.vm_id

    def began(self, record: Record) -> bool:
        """The one migration is known by its id, whoever began it."""
        return record.migration_id == self.delegation.migration_id


def _moment(signed: common_pb2.Delegation) -> datetime:
    try:
        return signed.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise invalid("expires_at is no moment", "say until when it is good") from error


def unwanted() -> errors.InvalidArgument:
    """The error for a person who shows a delegation."""
    return errors.InvalidArgument(
        "INVALID_FIELD",
        "delegation: only a broker shows one",
        hint="leave it out: who may move the machine needs none",
        field="delegation",
    )
