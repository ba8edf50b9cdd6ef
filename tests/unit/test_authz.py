import contextlib
import itertools

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


def callers(method: str) -> set[str]:
    """Who may call: "own manager", "foreign user" and so on."""
    allowed = set()
    for role, (scope, domain) in itertools.product(Role, [("own", OWN), ("foreign", FOREIGN)]):
        with contextlib.suppress(errors.Denied):
            authz.check(method, SpiffeId(domain, role, "x"), OWN)
            allowed.add(f"{scope} {role}")
    return allowed


PARTIES = [role for role in Role if role is not Role.INVITEE]
EVERYONE = {f"{scope} {role}" for scope in ("own", "foreign") for role in PARTIES}
MANAGERS = {"own manager", "foreign manager"}
BROKERS = {"own broker", "foreign broker"}
USERS = {"own user", "foreign user", "own operator", "foreign operator"}
HOST = {"own manager", "own user", "own operator"}

EXPECTED = {
    "IdentityService": {
        "RenewCertificate GetTrust": {f"own {role}" for role in PARTIES},
        "RevokeParty RotateAuthority": {"own operator"},
    },
    "FederationService": {
        "CreateInvitation AcceptInvitation ConfirmProvider ListProviders GetProvider"
        " RemoveProvider": {"own operator"},
        "ExchangeBundles": {"own invitee"},
        "PutBundle": {"foreign manager"},
    },
    "AuditService": {"ListAuditEntries": {"own operator"}},
    "DirectoryService": {
        "GrantLease RenewLease RevokeLease Publish": MANAGERS,
        "GetRecord QueryRecords WatchRecords": EVERYONE,
    },
    "ManagerService": {
        "GetCloudStatus ListVms GetVm ListInventories MigrateVm EstimateMigration GetMigration"
        " ListMigrations WatchMigration GetEvacuation WatchEvacuation": {
            "own user",
            "own operator",
            *BROKERS,
        },
        "CancelMigration SetMigrationLimit ResolveMigration StartEvacuation CancelEvacuation": {
            "own user",
            "own operator",
        },
    },
    "ReservationService": {
        "Reserve GrantEstimate ExtendReservation ConfirmReservation HandOverVm": MANAGERS,
        "GetReservation ReleaseReservation": {"own user", "own operator", *MANAGERS},
        "ListReservations": {"own user", "own operator"},
    },
    "AccountingService": {
        "ListUsageRecords ListQuotas PutQuota ListLedgerEntries ListInvoices GetInvoice": {
            "own user",
            "own operator",
        },
        "GetSettlement": {"own user", "own operator", *MANAGERS},
        "IssueQuote": {"own user", "own operator", *MANAGERS, *BROKERS},
    },
    "BrokerService": {
        "Place Migrate": {*USERS, *MANAGERS},
        "PutPolicy ListPolicies DeletePolicy ListPlans GetPlan WatchPlan ApprovePlan CancelPlan": (
            HOST
        ),
    },
    "AgentService": {
        "GetHost ListGuests GetGuest HoldGuest UnholdGuest RetireGuest ListRetained PurgeRetained"
        " StartGuest StopGuest StartTransfer GetTransfer WatchTransfer CancelTransfer"
        " SetTransferLimit EstimateTransfer ListIncoming ActivateIncoming DiscardIncoming"
        " ListEvents": HOST,
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
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_open_to_exactly_these_callers(method):
    assert callers(method) == LINES[method]


def test_the_table_has_no_line_for_a_method_that_does_not_exist():
    assert {method for method in authz.TABLE if "watari" in method} == set(METHODS)


@pytest.mark.parametrize(
    "method", ["/watari.v1.ManagerService/Nothing", "", "/watari.v1.managerservice/GetVm"]
)
def test_what_is_not_in_the_table_is_denied_to_everyone(method):
    assert callers(method) == set()


def test_health_and_reflection_are_open_to_every_authenticated_party():
    assert callers("/grpc.health.v1.Health/Check") == EVERYONE
    assert callers("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") == EVERYONE


def test_a_refusal_says_who_may():
    with pytest.raises(errors.Denied) as caught:
        authz.check("/watari.v1.AgentService/GetHost", SpiffeId(FOREIGN, Role.USER, "x"), OWN)
    assert caught.value.reason == "NOT_ALLOWED"
    assert caught.value.hint == "callers: own manager, own operator, own user"
