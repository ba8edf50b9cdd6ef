"""Grants for estimates: what Reserve would say, and leave to compare. Reserves nothing, and records
nothing but an entry of the audit log.

The machine's own cloud is told what would keep a reservation from being made, instead of being
refused: an estimate is worth having while a host is full.
"""

from collections.abc import Callable, Mapping

from sqlalchemy.engine import Connection

from manager import (
    admission,
    capacity,
    grants,
    inventory,
    ownership,
    prices,
    reservation_rows,
    shape_rows,
    traits,
    vms,
)
from manager.accounting.price_sheet import PriceSheet
from manager.inventory import Amounts, HostView
from manager.quotas.book import Quotas
from manager.settings import Settings
from manager.settings.hosts import AgentSettings
from manager.store import Store, micros
from watari import errors
from watari.clock import Clock
from watari.identity import Identity, SpiffeId
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2


class EstimateGrants:
    """Answers for the cloud that a machine might come to."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        identity: Identity,
        settings: Settings,
        manager_of: Callable[[str], EndpointSettings | None],
        quotas: Quotas,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._quotas = quotas
        self._store = store
        self._clock = clock
        self._identity = identity
        self._manager_of = manager_of
        self._cloud_id = settings.cloud_id
        self._limits = settings.reservations
        self._sheet = sheet
        self._pool = settings.pool
        self._agents: Mapping[str, AgentSettings] = settings.agents

    def grant(
        self, request: manager_pb2.ReserveRequest, caller: SpiffeId
    ) -> manager_pb2.GrantEstimateResponse:
        """A grant for the host that Reserve would choose, else for the one that lacks the least.

        Raises Denied NOT_ALLOWED for who asks in another cloud's name, FailedPrecondition
        VM_ALREADY_THERE and EPOCH_MISMATCH.
        """
        admission.require_speaks_for(
            request, caller, own_cloud=self._cloud_id, known=self._manager_of(request.from_cloud)
        )
        told = inventory.of_machine(request.resources, request.disks)
        with self._store.read() as connection:
            asked = shape_rows.of(connection, inventory.POOL).named(told)
            known = vms.get(connection, request.vm_id)
            admission.require_foreign(request, known, self._cloud_id)
            hosts = capacity.views(connection, self._agents)
            pool = capacity.pool(connection, self._pool)
            tenant = ownership.tenant_of_arrival(request, caller)
            refused, warnings = self._quotas.look(connection, tenant, asked)
            findings = [*refused, *self._findings(connection)]
        own, pooled = inventory.split(asked, pool.total)
        host = _host(hosts, own, request, findings)
        if pooled:
            findings += _problem(lambda: inventory.choose([pool], pooled))
        sheet = self._sheet()
        answer = manager_pb2.GrantEstimateResponse(
            findings=findings,
            warnings=warnings,
            migration_price=prices.arrival(sheet),
            machine_hour=prices.hourly(sheet, request.resources),
            price_version=sheet.version,
        )
        if host is not None:
            self._add_grant(answer, request, caller, self._agents[host.host_id])
            with self._store.write() as connection:
                grants.note_issued(connection, micros(self._clock.now()), answer.grant)
        return answer

    def _findings(self, connection: Connection) -> list[common_pb2.Problem]:
        try:
            live = reservation_rows.live_count(connection)
            admission.require_below(self._limits.pending_max, live)
        except errors.WatariError as error:
            return [errors.to_problem(error)]
        return []

    def _add_grant(
        self,
        answer: manager_pb2.GrantEstimateResponse,
        request: manager_pb2.ReserveRequest,
        caller: SpiffeId,
        agent: AgentSettings,
    ) -> None:
        signed = grants.issue(
            self._identity,
            self._clock,
            self._limits,
            request,
            source_manager=str(caller),
            destination_agent=agent.spiffe_id,
            estimate_only=True,
        )
        answer.grant.CopyFrom(signed)
        answer.agent_control.address = agent.address
        answer.agent_control.spiffe_id = agent.spiffe_id


def _host(
    hosts: list[HostView],
    asked: Amounts,
    request: manager_pb2.ReserveRequest,
    findings: list[common_pb2.Problem],
) -> HostView | None:
    """The host to compare with; what keeps the machine from it is added to the findings."""
    try:
        hosts = traits.suitable(hosts, request.required_traits, request.forbidden_traits)
        return inventory.choose(hosts, asked)
    except errors.WatariError as error:
        findings.append(errors.to_problem(error))
        return inventory.closest(hosts, asked)


def _problem(check: Callable[[], object]) -> list[common_pb2.Problem]:
    try:
        check()
    except errors.WatariError as error:
        return [errors.to_problem(error)]
    return []
