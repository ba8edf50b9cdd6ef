"""On whose word a call is made, and what of the cloud it may touch.

A person speaks for itself. A broker speaks for whoever signed the delegation that it shows, about
the one machine and the one migration in it, and only where the operator has admitted the broker.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from manager import delegations, movable, ownership
from manager.delegations import Mandate
from manager.ownership import View
from watari import delegation, identity, logs
from watari.clock import Clock
from watari.identity import Role, SpiffeId
from watari.v1 import common_pb2, manager_pb2

_log = logs.get(__name__)


@dataclass(frozen=True)
class Caller:
    """Who wants something of the cloud."""

    principal: SpiffeId
    """The person whose word counts."""

    view: View
    """What that person may see."""

    mandate: Mandate | None = None
    """What a broker may do of that; None for the person itself."""

    def require_alive(self, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID when what a broker shows is not good any more."""
        if self.mandate is not None:
            self.mandate.require_alive(now)

    def concerns(self, vm_id: str) -> bool:
        """Whether it is about this machine, of those in the view."""
        return self.mandate is None or self.mandate.vm_id == vm_id


class Callers:
    """Tells who calls. Every method raises Denied NOT_ALLOWED for a broker that the operator has
    not admitted, DELEGATION_INVALID for one that shows nothing that covers the call, and
    InvalidArgument INVALID_FIELD for a person who shows something.
    """

    def __init__(
        self, own: identity.Identity, clock: Clock, cloud_id: str, brokers: Collection[str]
    ) -> None:
        self._own = own
        self._clock = clock
        self._cloud_id = cloud_id
        self._brokers = frozenset(brokers)

    def person(self, peer: SpiffeId) -> View:
        """What a person may see."""
        return ownership.view_of(peer, self._own.spiffe_id.domain)

    def of_get_vm(self, request: manager_pb2.GetVmRequest, peer: SpiffeId) -> Caller:
        """Who wants to look at a machine."""
        caller = self._caller(peer, _shown(request))
        if caller.mandate is not None:
            caller.mandate.require_vm(request.vm)
            caller.require_alive(self._clock.now())
        return caller

    def of_get_migration(self, request: manager_pb2.GetMigrationRequest, peer: SpiffeId) -> Caller:
        """Who wants to look at a migration: what has begun may be looked at for as long as it is
        there.
        """
        caller = self._caller(peer, _shown(request))
        if caller.mandate is not None:
            caller.mandate.require_migration(request.migration_id)
        return caller

    def of_migrate(self, request: manager_pb2.MigrateVmRequest, peer: SpiffeId) -> Caller:
        """Who wants to move a machine. Whether it is still time to begin is not looked at."""
        caller = self._caller(peer, _shown(request))
        if caller.mandate is not None:
            caller.mandate.require_vm(request.vm)
            caller.mandate.require_migration(request.migration_id)
            caller.mandate.require_destination(request.to_cloud)
            _log.info(
                "delegated",
                broker=str(peer),
                tenant=str(caller.principal),
                migration=request.migration_id,
            )
        return caller

    def _caller(self, peer: SpiffeId, shown: common_pb2.SignedDocument | None) -> Caller:
        if peer.role is not Role.BROKER:
            if shown is not None:
                raise delegations.unwanted()
            return Caller(peer, self.person(peer))
        movable.require_admitted(peer, self._brokers, self._cloud_id)
        if shown is None:
            raise delegation.missing(peer)
        signed, signer = delegation.read(shown, self._own.trust, self._clock.now(), delegate=peer)
        mandate = Mandate(signed)
        mandate.require_cloud(self._cloud_id)
        if signer.role is Role.OPERATOR and not ownership.is_operator(
            signer, self._own.spiffe_id.domain
        ):
            raise delegation.invalid(
                f"{signer} signed it, who runs another provider",
                "the machine's tenant or an operator of this provider signs it",
            )
        return Caller(signer, self.person(signer), mandate)


def _shown(
    request: manager_pb2.GetVmRequest
    | manager_pb2.GetMigrationRequest
    | manager_pb2.MigrateVmRequest,
) -> common_pb2.SignedDocument | None:
    return request.delegation if request.HasField("delegation") else None
