"""A broker's calls at a manager under a standing delegation of acme's."""

import uuid

from tests.conftest import HUB, OSAKA, TOKYO
from tests.support.clouds import VM, Cloud, eventually
from watari import standing
from watari.identity import Identity
from watari.rpc import client
from watari.standing import Scope
from watari.v1 import common_pb2, manager_pb2

BROKER = f"spiffe://{HUB}/broker/main"
OTHER_BROKER = f"spiffe://{OSAKA}/broker/main"
ACME = f"spiffe://{TOKYO}/user/acme"
GLOBEX = f"spiffe://{TOKYO}/user/globex"
OPERATOR = f"spiffe://{TOKYO}/operator/main"
OTHER_VM = "6f1f2d2e-0000-4000-8000-000000000002"
GLOBEX_VM = "6f1f2d2e-0000-4000-8000-000000000003"
SCOPE = Scope(TOKYO, "acme", ["tokyo", "osaka"], ["osaka", "tokyo"], 2, 24 * 3600)


def admitting(clouds: tuple[Cloud, Cloud]) -> Cloud:
    """tokyo, which admits two brokers, with two machines of acme and one of globex."""
    for each in clouds:
        each.stop()
        each.change(brokers=(BROKER, OTHER_BROKER))
        each.start()
    cloud = clouds[0]
    cloud.agent.add(OTHER_VM, "web-2")
    cloud.agent.add(GLOBEX_VM, "db-1", tenant="globex")
    eventually(lambda: len(cloud.vms()) == 3, "all are seen")
    return cloud


def delegate(
    cloud: Cloud,
    signer: str | Identity = ACME,
    scope: Scope = SCOPE,
    *,
    delegate: str = BROKER,
    life_seconds: int = 3600,
) -> common_pb2.SignedDocument:
    """Machines of acme, delegated to the broker."""
    party = cloud.federation.party(signer) if isinstance(signer, str) else signer
    now = cloud.federation.clock.now()
    return standing.sign(party, now, scope, delegate=delegate, life_seconds=life_seconds)


def listed(
    cloud: Cloud, shown: common_pb2.SignedDocument | None, broker: str = BROKER
) -> list[str]:
    """Names of the machines that a broker sees, one a page."""
    stub, found = cloud.seen_by(broker).ListVms, []
    request = manager_pb2.ListVmsRequest(page_size=1, delegation=shown)
    while True:
        page = client.call(stub, request)
        found += [vm.name for vm in page.vms]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def get_vm(
    cloud: Cloud, shown: common_pb2.SignedDocument, vm: str = VM, broker: str = BROKER
) -> manager_pb2.Vm:
    request = manager_pb2.GetVmRequest(vm=vm, delegation=shown)
    return client.call(cloud.seen_by(broker).GetVm, request).vm


def migrate(
    cloud: Cloud,
    shown: common_pb2.SignedDocument,
    broker: str = BROKER,
    **changes: str,
) -> manager_pb2.Migration:
    fields = {"migration_id": str(uuid.uuid4()), "vm": VM, "to_cloud": "osaka"} | changes
    request = manager_pb2.MigrateVmRequest(delegation=shown, **fields)
    return client.call(cloud.seen_by(broker).MigrateVm, request).migration


def get_migration(
    cloud: Cloud, shown: common_pb2.SignedDocument, migration_id: str, broker: str = BROKER
) -> manager_pb2.Migration:
    request = manager_pb2.GetMigrationRequest(migration_id=migration_id, delegation=shown)
    return client.call(cloud.seen_by(broker).GetMigration, request).migration


def estimate(
    cloud: Cloud, shown: common_pb2.SignedDocument, vm: str = VM, to_cloud: str = "osaka"
) -> manager_pb2.EstimateMigrationResponse:
    request = manager_pb2.EstimateMigrationRequest(vm=vm, to_cloud=to_cloud, delegation=shown)
    return client.call(cloud.seen_by(BROKER).EstimateMigration, request)


def nothing_happened(cloud: Cloud) -> bool:
    stub = cloud.operator.ListMigrations
    return not client.call(stub, manager_pb2.ListMigrationsRequest()).migrations
