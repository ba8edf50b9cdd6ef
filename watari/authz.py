"""Who may call what: one table, deny by default.

A rule names the caller's role and where it comes from: its own provider (the server's domain) or
another provider of the federation. Which *objects* a permitted caller may touch (a tenant's own
machines, what was delegated to a broker, a manager's own records and reservations) is the service's
business. docs/access.md shows the table; tools/access_table.py makes it from this one.
"""

import enum
from dataclasses import dataclass
from types import MappingProxyType

from watari import errors
from watari.identity.spiffe import Role, SpiffeId


class Scope(enum.Enum):
    """Where a caller comes from, seen from the server."""

    OWN = "own"
    FOREIGN = "foreign"
    ANY = "any"


@dataclass(frozen=True)
class Party:
    """A kind of caller."""

    role: Role
    scope: Scope

    def matches(self, peer: SpiffeId, own_domain: str) -> bool:
        """Whether `peer` is such a caller at a server of `own_domain`."""
        scope = Scope.OWN if peer.domain == own_domain else Scope.FOREIGN
        return self.role == peer.role and self.scope in (Scope.ANY, scope)


_Parties = frozenset[Party]

ANYONE: _Parties = frozenset(Party(role, Scope.ANY) for role in Role if role is not Role.INVITEE)
"""Every authenticated party of the federation."""

_OWN_PARTIES: _Parties = frozenset(
    Party(role, Scope.OWN) for role in Role if role is not Role.INVITEE
)
_INVITEES: _Parties = frozenset({Party(Role.INVITEE, Scope.OWN)})
_OPERATORS: _Parties = frozenset({Party(Role.OPERATOR, Scope.OWN)})
_ANY_OPERATORS: _Parties = frozenset({Party(Role.OPERATOR, Scope.ANY)})
_TENANTS: _Parties = frozenset({Party(Role.USER, Scope.ANY)})
_BROKERS: _Parties = frozenset({Party(Role.BROKER, Scope.ANY)})
_MANAGERS: _Parties = frozenset({Party(Role.MANAGER, Scope.ANY)})
_OWN_MANAGERS: _Parties = frozenset({Party(Role.MANAGER, Scope.OWN)})
_FOREIGN_MANAGERS: _Parties = frozenset({Party(Role.MANAGER, Scope.FOREIGN)})
_AGENTS: _Parties = frozenset({Party(Role.AGENT, Scope.ANY)})


def _rules(service: str, parties: _Parties, *methods: str) -> dict[str, _Parties]:
    return {f"/{service}/{method}": parties for method in methods}


TABLE = MappingProxyType(
    # Managers write their own cloud's records; everyone of the federation reads.
    _rules(
        "watari.v1.DirectoryService",
        _MANAGERS,
        *("GrantLease", "RenewLease", "RevokeLease", "Publish"),
    )
    | _rules("watari.v1.DirectoryService", ANYONE, *("GetRecord", "QueryRecords", "WatchRecords"))
    # Tenants, wherever they come from, for what is theirs: a machine that went to another provider
    # is seen and moved there by the tenant that it had at home. Operators for all of it.
    | _rules(
        "watari.v1.ManagerService",
        _TENANTS | _OPERATORS,
        *("GetCloudStatus", "StartVm", "StopVm"),
        *("ListMigrations", "WatchMigration", "CancelMigration", "SetMigrationLimit"),
        *("RevokeDelegation", "ListDelegations"),
    )
    # A broker does what a tenant's delegation covers: the one migration that it names, or, under a
    # standing one, to look at the tenant's machines and to move them.
    | _rules(
        "watari.v1.ManagerService",
        _TENANTS | _OPERATORS | _BROKERS,
        *("GetVm", "MigrateVm", "GetMigration", "ListVms", "EstimateMigration"),
    )
    # Hosts, and what overrules a tenant, are the operator's.
    | _rules(
        "watari.v1.ManagerService",
        _OPERATORS,
        *("ListInventories", "AuditAllocations", "ReshapeInventory"),
        *("ResolveMigration", "ListRetainedVms", "PurgeVm"),
        *("StartEvacuation", "GetEvacuation", "WatchEvacuation", "CancelEvacuation"),
    )
    # Manager to manager. An operator books in advance, for a machine that its provider's manager or
    # its own cloud is to see arrive; the own one may look at all of it and give it back.
    | _rules(
        "watari.v1.ReservationService",
        _MANAGERS,
        *("ExtendReservation", "ConfirmReservation", "HandOverVm"),
        "GrantEstimate",
    )
    | _rules(
        "watari.v1.ReservationService",
        _MANAGERS | _ANY_OPERATORS,
        *("Reserve", "GetReservation"),
    )
    # A broker holds what a tenant's mandate names, and gives back what it holds.
    | _rules("watari.v1.ReservationService", _BROKERS, "HoldForMigration")
    | _rules(
        "watari.v1.ReservationService", _MANAGERS | _ANY_OPERATORS | _BROKERS, "ReleaseReservation"
    )
    | _rules("watari.v1.ReservationService", _OPERATORS, "ListReservations")
    # A tenant sees its own usage, quota and invoices; limits and books are the operator's.
    | _rules(
        "watari.v1.AccountingService",
        _TENANTS | _OPERATORS,
        *("ListUsageRecords", "ListUsageEvents", "ListQuotas", "ListBalances"),
    )
    | _rules(
        "watari.v1.AccountingService",
        _OPERATORS,
        *("PutQuota", "DeleteQuota", "PutPriceSheet", "ListLedgerEntries", "VerifyLedger"),
        *("IssueInvoices", "CorrectMonth", "DecideDispute", "RecordPayment", "NetSettlement"),
        "DisputeBilledCharge",
    )
    # What a provider's tenants use here is billed to the provider, whose manager may read that.
    | _rules(
        "watari.v1.AccountingService",
        _TENANTS | _OPERATORS | _FOREIGN_MANAGERS,
        *("ListInvoices", "GetInvoice", "ExportInvoice", "ListDisputes"),
    )
    # Who pays disputes, and who runs the cloud decides.
    | _rules("watari.v1.AccountingService", _TENANTS | _FOREIGN_MANAGERS, "OpenDispute")
    # Prices are no secret among those who may buy, place or compare.
    | _rules(
        "watari.v1.AccountingService",
        _TENANTS | _ANY_OPERATORS | _MANAGERS | _BROKERS,
        *("ListPriceSheets", "GetPriceSheet"),
    )
    | _rules(
        "watari.v1.AccountingService",
        _FOREIGN_MANAGERS,
        *("ListBilledCharges", "ListBilledEvents", "ListExpectedCharges"),
    )
    # Who may come asks for a price: the tenant, or the manager of the cloud that it leaves.
    | _rules("watari.v1.AccountingService", _TENANTS | _OPERATORS | _MANAGERS, "IssueQuote")
    | _rules("watari.v1.AccountingService", _OPERATORS | _FOREIGN_MANAGERS, "GetSettlement")
    # Anyone's people may ask where to go, have a machine placed that they may move, and have
    # policies for their own machines.
    | _rules(
        "watari.v1.BrokerService", _TENANTS | _ANY_OPERATORS | _MANAGERS, "Place", "PlaceBatch"
    )
    | _rules(
        "watari.v1.BrokerService",
        _TENANTS | _ANY_OPERATORS,
        *("Migrate", "PutPolicy", "ListPolicies", "DeletePolicy"),
        *("ListPlans", "GetPlan", "WatchPlan", "ApprovePlan", "CancelPlan"),
    )
    # A host obeys its own provider only.
    | _rules(
        "watari.v1.AgentService",
        _OWN_MANAGERS | _OPERATORS,
        *("GetHost", "ListGuests", "GetGuest", "ListRetained", "ListIncoming"),
        *("HoldGuest", "UnholdGuest", "RetireGuest", "PurgeRetained"),
        *("StartGuest", "StopGuest"),
        *("StartTransfer", "GetTransfer", "WatchTransfer", "CancelTransfer"),
        *("SetTransferLimit", "EstimateTransfer"),
        *("ActivateIncoming", "DiscardIncoming"),
    )
    # Who reads events says which ones may be dropped; who measures says where a host connects to.
    | _rules("watari.v1.AgentService", _OWN_MANAGERS, "ListEvents", "MeasureRoundTrip")
    # Agent to agent; the grant that is shown decides the rest.
    | _rules(
        "watari.v1.TransferService",
        _AGENTS,
        *("OpenSession", "CompleteSession", "AbortSession"),
    )
    # Each of the provider's own parties gets what it needs to stay itself.
    | _rules("watari.v1.IdentityService", _OWN_PARTIES, *("RenewCertificate", "GetTrust"))
    | _rules("watari.v1.IdentityService", _OPERATORS, *("RevokeParty", "RotateAuthority"))
    # Operators decide who belongs to the federation. An invited party is of the inviting provider's
    # domain, and may do one thing.
    | _rules(
        "watari.v1.FederationService",
        _OPERATORS,
        *("CreateInvitation", "AcceptInvitation", "ConfirmProvider"),
        *("ListProviders", "GetProvider", "RemoveProvider"),
    )
    | _rules("watari.v1.FederationService", _INVITEES, "ExchangeBundles")
    | _rules("watari.v1.FederationService", _FOREIGN_MANAGERS, "PutBundle")
    | _rules("watari.v1.AuditService", _OPERATORS, "ListAuditEntries")
    # Whether a server is up, and what it speaks, is no secret among those who may connect.
    | _rules("grpc.health.v1.Health", ANYONE, *("Check", "List", "Watch"))
    | _rules("grpc.reflection.v1alpha.ServerReflection", ANYONE, "ServerReflectionInfo")
    | _rules("grpc.reflection.v1.ServerReflection", ANYONE, "ServerReflectionInfo")
)
"""Full method name to the parties that may call it."""


def allows(method: str, peer: SpiffeId, own_domain: str) -> bool:
    """Whether the table lets `peer` call `method` at `own_domain`; what it has not, it denies."""
    return any(party.matches(peer, own_domain) for party in TABLE.get(method, frozenset()))


def check(method: str, peer: SpiffeId, own_domain: str) -> None:
    """Raises Denied NOT_ALLOWED unless the table lets `peer` call `method` at `own_domain`."""
    if allows(method, peer, own_domain):
        return
    parties = TABLE.get(method, frozenset())
    may = sorted(f"{party.scope.value} {party.role}" for party in parties) or ["nobody"]
    raise errors.Denied(
        "NOT_ALLOWED",
        f"{peer} may not call {method} at {own_domain}",
        hint=f"callers: {', '.join(may)}",
        method=method,
    )
