"""On whose word a call is made, and what of the cloud it may touch.

A person speaks for itself. A broker speaks for whoever signed the delegation that it shows, about
what is in it: one machine and one migration, or the machines of a standing one; and only where the
operator has admitted the broker.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from manager import delegations, movable, ownership
from manager.delegations import Mandate
from manager.ownership import View
from manager.saga.record import Record
from manager.standing import Seen, StandingMandate
from manager.store import Store
from watari import delegation, identity, logs, standing
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

    mandate: Mandate | StandingMandate | None = None
    """What a broker may do of that; None for the person itself."""

    def require_alive(self, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID and DELEGATION_REVOKED when what a broker shows is not
        good any more.
        """
        if self.mandate is not None:
            self.mandate.require_alive(now)

    def require_move(self, connection: Connection, vm_id: str, now: datetime) -> None:
        """Raises Denied DELEGATION_INVALID when a broker has moved the machine as often as it may,
        DELEGATION_REVOKED when it may not any more; in the transaction that records one more.
        """
        if self.mandate is not None:
            self.mandate.require_move(connection, vm_id, now)

    def concerns(self, record: Record) -> bool:
        """Whether it is about this migration, of those in the view."""
        mandate = self.mandate
        return mandate is None or (mandate.covers(record.vm_id) and mandate.began(record))

    @property
    def vm_ids(self) -> Sequence[str]:
        """Only these machines of the view; empty is all of them."""
        return self.mandate.vm_ids if isinstance(self.mandate, StandingMandate) else ()


class Callers:
    """Tells who calls. Every method raises Denied NOT_ALLOWED for a broker that the operator has
    not admitted, DELEGATION_INVALID for one that shows nothing that covers the call, and
    InvalidArgument INVALID_FIELD for a person who shows something.
    """

    def __init__(
        self,
        own: identity.Identity,
        clock: Clock,
        cloud_id: str,
        brokers: Collection[str],
        store: Store,
    ) -> None:
        self._seen = Seen(store)
        self._own = own
        self._clock = clock
        self._cloud_id = cloud_id
        self._brokers = frozenset(brokers)

    def person(self, peer: SpiffeId) -> View:
        """What a person may see."""
        return ownership.view_of(peer, self._own.spiffe_id.domain)

    def of_list_vms(self, request: manager_pb2.ListVmsRequest, peer: SpiffeId) -> Caller:
        """Who wants to see machines."""
        caller = self._caller(peer, _shown(request))
        self._require_standing(caller)
        caller.require_alive(self._clock.now())
        return caller

    def of_estimate(self, request: manager_pb2.EstimateMigrationRequest, peer: SpiffeId) -> Caller:
        """Who wants to know what moving a machine would take."""
        caller = self._caller(peer, _shown(request))
        self._require_standing(caller)
        if caller.mandate is not None:
            caller.mandate.require_vm(request.vm)
            caller.mandate.require_destination(request.to_cloud)
            caller.require_alive(self._clock.now())
        return caller

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
        mandate: Mandate | StandingMandate
        if standing.is_one(shown):
            mandate = self._seen.read(shown, self._own, self._clock.now(), peer)
            signer = mandate.standing.signer
        else:
            signed, signer = delegation.read(
                shown, self._own.trust, self._clock.now(), delegate=peer
            )
            mandate = Mandate(signed)
        mandate.require_cloud(self._cloud_id)
        if signer.role is Role.OPERATOR and not ownership.is_operator(
            signer, self._own.spiffe_id.domain
        ):
            raise delegation.invalid(
                f"{signer} signed it, who runs another provider",
                "the machine's tenant or an operator of this provider signs it",
            )
        if isinstance(mandate, StandingMandate):
            # Who signed sees as much or more: a tenant the same, an operator every tenant's.
            return Caller(signer, mandate.view, mandate)
        return Caller(signer, self.person(signer), mandate)

    @staticmethod
    def _require_standing(caller: Caller) -> None:
        if isinstance(caller.mandate, Mandate):
            raise delegation.invalid(
                "it is for one migration", "only a standing one lets a broker look around"
            )


def _shown(
    request: manager_pb2.GetVmRequest
    | manager_pb2.ListVmsRequest
    | manager_pb2.EstimateMigrationRequest
    | manager_pb2.GetMigrationRequest
    | manager_pb2.MigrateVmRequest,
) -> common_pb2.SignedDocument | None:
    return request.delegation if request.HasField("delegation") else None
