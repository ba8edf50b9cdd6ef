import pytest

from watari import authz, errors
from watari.identity import Role, SpiffeId
from watari.v1 import (
    agent_pb2,
    audit_pb2,
    broker_pb2,
    directory_pb2,
    federation_pb2,
    manager_pb2,
)

OWN, FOREIGN = "tokyo.example", "osaka.example"
METHODS = [
    f"/{service.full_name}/{method.name}"
    for module in (agent_pb2, audit_pb2, broker_pb2, directory_pb2, federation_pb2, manager_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


PARTIES = [role for role in Role if role is not Role.INVITEE]
ALL_CALLERS = {f"{scope} {role}" for scope in ("own", "foreign") for role in Role}
EVERYONE = {f"{scope} {role}" for scope in ("own", "foreign") for role in PARTIES}
MANAGERS = {"own manager", "foreign manager"}
BROKERS = {"own broker", "foreign broker"}
USERS = {"own user", "foreign user"}
OPERATORS = {"own operator", "foreign operator"}
OPERATOR = {"own operator"}
HOST = {"own manager", "own operator"}

EXPECTED = {
    "IdentityService": {
        "RenewCertificate GetTrust": {f"own {role}" for role in PARTIES},
        "RevokeParty RotateAuthority": OPERATOR,
    },
    "FederationService": {
        "CreateInvitation AcceptInvitation ConfirmProvider ListProviders GetProvider"
        " RemoveProvider": OPERATOR,
        "ExchangeBundles": {"own invitee"},
        "PutBundle": {"foreign manager"},
    },
    "AuditService": {"ListAuditEntries": OPERATOR},
    "DirectoryService": {
        "GrantLease RenewLease RevokeLease Publish": MANAGERS,
        "GetRecord QueryRecords WatchRecords": EVERYONE,
    },
    "ManagerService": {
        "GetCloudStatus ListMigrations WatchMigration CancelMigration"
        " SetMigrationLimit StartVm StopVm RevokeDelegation ListDelegations": {*USERS, *OPERATOR},
        "GetVm ListVms MigrateVm GetMigration EstimateMigration": {*USERS, *OPERATOR, *BROKERS},
        "ListInventories AuditAllocations ReshapeInventory ResolveMigration"
        " StartEvacuation GetEvacuation WatchEvacuation CancelEvacuation"
        " ListRetainedVms PurgeVm": OPERATOR,
    },
    "ReservationService": {
        "GrantEstimate ExtendReservation ConfirmReservation HandOverVm": MANAGERS,
        "Reserve GetReservation": {*OPERATORS, *MANAGERS},
        "HoldForMigration": BROKERS,
        "ReleaseReservation": {*OPERATORS, *MANAGERS, *BROKERS},
        "ListReservations": OPERATOR,
    },
    "AccountingService": {
        "ListUsageRecords ListUsageEvents ListQuotas ListBalances": {*USERS, *OPERATOR},
        "PutQuota DeleteQuota PutPriceSheet ListLedgerEntries VerifyLedger IssueInvoices"
        " CorrectMonth DecideDispute RecordPayment NetSettlement DisputeBilledCharge": OPERATOR,
        "ListInvoices GetInvoice ExportInvoice ListDisputes": {
            *USERS,
            *OPERATOR,
            "foreign manager",
        },
        "OpenDispute": {*USERS, "foreign manager"},
        "ListPriceSheets GetPriceSheet": {*USERS, *OPERATORS, *MANAGERS, *BROKERS},
        "ListBilledCharges ListBilledEvents ListExpectedCharges": {"foreign manager"},
        "GetSettlement": {*OPERATOR, "foreign manager"},
        "IssueQuote": {*USERS, *OPERATOR, *MANAGERS},
    },
    "BrokerService": {
        "Place PlaceBatch": {*USERS, *OPERATORS, *MANAGERS},
        "Migrate PutPolicy ListPolicies DeletePolicy ListPlans GetPlan WatchPlan ApprovePlan"
        " CancelPlan": {*USERS, *OPERATORS},
    },
    "AgentService": {
        "GetHost ListGuests GetGuest HoldGuest UnholdGuest RetireGuest ListRetained PurgeRetained"
        " StartGuest StopGuest StartTransfer GetTransfer WatchTransfer CancelTransfer"
        " SetTransferLimit EstimateTransfer ListIncoming ActivateIncoming"
        " DiscardIncoming": HOST,
        "ListEvents MeasureRoundTrip": {"own manager"},
    },
    "TransferService": {
        "OpenSession CompleteSession AbortSession": {"own agent", "foreign agent"},
    },
}
LINES = {
    f"/watari.v1.{service}/{method}": allowed
    for service, rules in EXPECTED.items()
    for methods, allowed in rules.items()
    for method in methods.split()
} | {
    "/grpc.health.v1.Health/Check": EVERYONE,
    "/grpc.health.v1.Health/List": EVERYONE,
    "/grpc.health.v1.Health/Watch": EVERYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": EVERYONE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": EVERYONE,
}


def may(method: str, caller: str) -> bool:
    """Whether "own manager", "foreign user" and so on may call."""
    scope, role = caller.split()
    try:
        authz.check(method, SpiffeId(OWN if scope == "own" else FOREIGN, role, "x"), OWN)
    except errors.Denied:
        return False
    return True


@pytest.mark.parametrize("caller", sorted(ALL_CALLERS))
@pytest.mark.parametrize("method", LINES)
def test_each_cell_of_the_table_is_as_decided(method, caller):
    assert may(method, caller) == (caller in LINES[method])


def test_every_method_of_the_contract_has_a_line_and_no_line_is_without_one():
    assert {method for method in authz.TABLE if "watari" in method} == set(METHODS)
    assert set(authz.TABLE) == set(LINES)


@pytest.mark.parametrize("caller", sorted(ALL_CALLERS))
@pytest.mark.parametrize(
    "method", ["/watari.v1.ManagerService/Nothing", "", "/watari.v1.managerservice/GetVm"]
)
def test_what_is_not_in_the_table_is_denied_to_everyone(method, caller):
    assert not may(method, caller)


def test_a_provider_whose_name_begins_like_ours_is_foreign():
    with pytest.raises(errors.Denied):
        authz.check(
            "/watari.v1.AgentService/GetHost", SpiffeId(f"x.{OWN}", Role.OPERATOR, "x"), OWN
        )


def test_a_refusal_says_who_may():
    with pytest.raises(errors.Denied) as caught:
        authz.check("/watari.v1.AgentService/GetHost", SpiffeId(FOREIGN, Role.USER, "x"), OWN)
    assert caught.value.reason == "NOT_ALLOWED"
    assert caught.value.hint == "callers: own manager, own operator"
