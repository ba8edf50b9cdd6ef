"""What a migration from this cloud would take: asks the destination, has the agents compare.

Holds, reserves and records nothing. What would keep the migration from working is a finding, and
the estimate comes all the same where the agents can make one.
"""

import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manager import grants, movable, prices, vms
from manager.accounting.price_sheet import PriceSheet
from manager.agents import Agents
from manager.ownership import View
from manager.peers import Peer, Peers
from manager.saga import documents
from manager.settings import Settings
from manager.store import Store, micros
from manager.vms import VmRow
from watari import errors, identity, logs
from watari.clock import Clock
from watari.v1 import agent_pb2, common_pb2, manager_pb2

FINDINGS_MAX = 16
"""Findings of one estimate; the contract's number."""

WARNINGS_MAX = 16
"""Warnings of one estimate; the contract's number."""

PEER_FINDINGS_MAX = 8
"""Findings that are taken from the destination; the contract's number."""

_log = logs.get(__name__)


@dataclass(frozen=True)
class _Subject:
    """What is estimated."""

    vm: VmRow
    guest: agent_pb2.Guest
    request: manager_pb2.EstimateMigrationRequest
    peer: Peer


class Estimates:
    """Estimates for the machines of one cloud."""

    def __init__(
        self,
        settings: Settings,
        own: identity.Identity,
        store: Store,
        clock: Clock,
        agents: Agents,
        peers: Peers,
        sheet: Callable[[], PriceSheet],
    ) -> None:
        """`sheet` is the price sheet in effect."""
        self._sheet = sheet
        self._settings = settings
        self._own = own
        self._store = store
        self._clock = clock
        self._agents = agents
        self._peers = peers
        self._places = threading.BoundedSemaphore(settings.migrations.estimates_max)

    def estimate(
        self,
        request: manager_pb2.EstimateMigrationRequest,
        view: View,
        gone: Callable[[], bool],
    ) -> manager_pb2.EstimateMigrationResponse:
        """What the migration of a machine of the view would take. `gone` tells that nobody waits
        for it, or raises.

        Raises NotFound VM_NOT_FOUND and CLOUD_NOT_FOUND, FailedPrecondition VM_ALREADY_THERE and
        EPOCH_MISMATCH, Unavailable SERVER_UNAVAILABLE while as many estimates run as may.
        """
        settings = self._settings
        movable.require_elsewhere(request.vm, request.to_cloud, settings.cloud_id)
        if not self._places.acquire(blocking=False):
            raise _too_many(settings.migrations.estimates_max)
        try:
            return self._estimate(self._subject(request, view), gone)
        finally:
            self._places.release()

    def _subject(self, request: manager_pb2.EstimateMigrationRequest, view: View) -> _Subject:
        with self._store.read() as connection:
            vm = vms.find(connection, self._settings.cloud_id, request.vm, view)
        manager = self._peers.find(request.to_cloud)
        peer = Peer(request.to_cloud, identity.SpiffeId.parse(manager.spiffe_id))
        return _Subject(vm, self._agents.guest(vm.host_id, vm.vm_id), request, peer)

    def _estimate(
        self, subject: _Subject, gone: Callable[[], bool]
    ) -> manager_pb2.EstimateMigrationResponse:
        asked = self._reserve_request(subject)
        granted = self._peers.grant_estimate(
            subject.peer, manager_pb2.GrantEstimateRequest(reserve=asked)
        )
        answer = manager_pb2.EstimateMigrationResponse(
            findings=[*_own_findings(subject), *granted.findings[:PEER_FINDINGS_MAX]],
            total_bytes=sum(disk.size_bytes for disk in subject.guest.disks),
            destination_price=granted.migration_price
            if granted.HasField("migration_price")
            else None,
            machine_hour=granted.machine_hour if granted.HasField("machine_hour") else None,
            price_version=granted.price_version,
        )
        answer.warnings.extend(granted.warnings[:PEER_FINDINGS_MAX])
        if granted.HasField("grant"):
            with logs.context(migration_id=asked.migration_id):
                self._compare(answer, subject, asked, granted, gone)
        return answer

    def _compare(
        self,
        answer: manager_pb2.EstimateMigrationResponse,
        subject: _Subject,
        asked: manager_pb2.ReserveRequest,
        granted: manager_pb2.GrantEstimateResponse,
        gone: Callable[[], bool],
    ) -> None:
        grant = grants.accept(
            self._own,
            self._clock,
            asked,
            granted.grant,
            destination_manager=subject.peer.manager,
            estimate_only=True,
        )
        documents.require_endpoint(grant, granted.agent_control)
        with self._store.write() as connection:
            grants.note_countersigned(connection, micros(self._clock.now()), grant)
        order = agent_pb2.EstimateTransferRequest(
            vm_id=subject.vm.vm_id,
            grant=grant,
            destination_control=granted.agent_control,
            options=subject.request.options,
            mode=subject.request.mode or common_pb2.MIGRATION_MODE_COLD,
        )
        seconds_max = self._settings.migrations.estimate_seconds_max
        try:
            found = self._agents.estimate_transfer(subject.vm.host_id, order, seconds_max, gone)
        except (errors.Cancelled, errors.DeadlineExceeded, errors.Unimplemented):
            raise  # They say nothing of how the migration would fare.
        except errors.WatariError as error:
            _log.info("not compared", reason=error.reason, problem=error.message)
            answer.findings.append(errors.to_problem(error))
            del answer.findings[FINDINGS_MAX:]
            return
        _fill(answer, found)
        if answer.compared:
            answer.price.CopyFrom(prices.departure(self._sheet(), found.wire_bytes))

    def _reserve_request(self, subject: _Subject) -> manager_pb2.ReserveRequest:
        """The reservation that the migration would ask for, under an id of the estimate's own."""
        return manager_pb2.ReserveRequest(
            migration_id=str(uuid.uuid4()),
            from_cloud=self._settings.cloud_id,
            vm_id=subject.vm.vm_id,
            vm_name=subject.vm.name,
            tenant_domain=subject.vm.tenant_domain,
            tenant=subject.vm.tenant,
            source_epoch=subject.vm.epoch,
            resources=subject.guest.resources,
            disks=subject.guest.disks,
            source_agent=self._agents.spiffe_id(subject.vm.host_id),
        )


def _own_findings(subject: _Subject) -> list[common_pb2.Problem]:
    vm, guest = subject.vm, subject.guest
    checks: list[Callable[[], None]] = [
        lambda: movable.require_free(vm),
        lambda: movable.require_sound(vm.name, guest.problem),
    ]
    found = []
    for check in checks:
        try:
            check()
        except errors.WatariError as error:
            found.append(errors.to_problem(error))
    return found


def _fill(
    answer: manager_pb2.EstimateMigrationResponse, found: agent_pb2.EstimateTransferResponse
) -> None:
    answer.compared = found.compared
    _merge(answer, found.findings)
    answer.unique_bytes = found.unique_bytes
    answer.wire_bytes = found.wire_bytes
    answer.duration_seconds = found.duration_seconds
    answer.downtime_seconds = found.downtime_seconds
    answer.total_bytes = found.total_bytes or answer.total_bytes
    answer.zero_bytes = found.zero_bytes
    answer.deduplicated_bytes = found.deduplicated_bytes
    answer.rate_bytes_per_second = found.rate_bytes_per_second
    answer.round_trip_seconds = found.round_trip_seconds


def _merge(
    answer: manager_pb2.EstimateMigrationResponse, findings: Iterable[agent_pb2.Finding]
) -> None:
    """Add what the agents noticed: errors to the findings, warnings apart. What is there already,
    as the machine's own problem, does not come twice.
    """
    for finding in findings:
        bad = finding.severity == agent_pb2.SEVERITY_ERROR
        to, most = (answer.findings, FINDINGS_MAX) if bad else (answer.warnings, WARNINGS_MAX)
        problem = finding.problem
        known = any(
            each.reason == problem.reason and problem.message in each.message for each in to
        )
        if not known and len(to) < most:
            to.append(problem)


def _too_many(limit: int) -> errors.Unavailable:
    return errors.Unavailable(
        "SERVER_UNAVAILABLE",
        f"{limit} estimates run already",
        hint="repeat when one has ended; or raise migrations.estimates_max",
    )
