"""What managers tell of a tenant's machines, under its standing delegation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from broker import endpoints
from broker.automation.policy_rows import Held
from broker.automation.rests import Rests
from broker.snapshot import Snapshot
from watari import errors, logs, validate
from watari.settings import EndpointSettings
from watari.v1 import common_pb2, manager_pb2

PAGE_SIZE = 500
"""Machines that are asked for at a time."""

PAGES_MAX = 1000
"""Pages of one list: a manager that goes on for ever is not listened to for ever."""

NAME_BYTES_MAX = 256
"""Longest name of a machine."""

_log = logs.get(__name__)


class Manager(Protocol):
    """What is asked of a manager. Each call raises WatariError."""

    def list_vms(
        self, delegation: common_pb2.SignedDocument, page_size: int, page_token: str
    ) -> manager_pb2.ListVmsResponse:
        """ManagerService.ListVms."""
        ...

    def estimate(
        self, request: manager_pb2.EstimateMigrationRequest, seconds_max: float
    ) -> manager_pb2.EstimateMigrationResponse:
        """ManagerService.EstimateMigration."""
        ...

    def get_migration(
        self, migration_id: str, delegation: common_pb2.SignedDocument
    ) -> manager_pb2.Migration:
        """ManagerService.GetMigration."""
        ...


@dataclass
class Fleet:
    """The managers during one evaluation: one that does not answer is asked no second time."""

    managers: Callable[[EndpointSettings], Manager]
    snapshot: Snapshot
    rests: Rests
    silent: dict[str, str] = field(default_factory=dict)
    """Clouds whose managers did not answer, and how that was, in words."""

    def machines(
        self, held: Held, machines_max: int
    ) -> tuple[dict[str, manager_pb2.Vm], dict[str, str]]:
        """The policy's machines by id, and clouds of which nothing is known, with why; under ""
        that there are too many, and under a machine's id why it is left out.
        """
        found: dict[str, manager_pb2.Vm] = {}
        missed: dict[str, str] = {}
        claimed: dict[str, str] = {}
        for cloud_id in sorted(set(held.delegation.from_clouds)):
            try:
                if not self._gather(held, cloud_id, machines_max, found, claimed):
                    missed[""] = f"more than {machines_max} machines: the rest is not looked at"
            except errors.WatariError as error:
                missed[cloud_id] = f"{cloud_id}: {error.reason}: {error.message}"
                _log.info(
                    "machines not seen",
                    policy=held.policy_id,
                    tenant=str(held.tenant),
                    cloud=cloud_id,
                    reason=error.reason,
                )
        for vm_id, problem in claimed.items():
            # Who is right is not for a broker to say; one that was just handed over is told of by
            # one of them the next time.
            del found[vm_id]
            missed[vm_id] = f"machine {vm_id}: {problem}"
        return found, missed

    def ask(self, cloud_id: str) -> Manager:
        """A cloud's manager. Raises NotFound CLOUD_NOT_FOUND, Unavailable for one that was silent,
        and the errors of a record that names none.
        """
        if cloud_id in self.silent:
            raise errors.Unavailable("PEER_UNAVAILABLE", self.silent[cloud_id])
        cloud = self.snapshot.clouds.get(cloud_id)
        if cloud is None:
            raise errors.NotFound(
                "CLOUD_NOT_FOUND", f"the directory has no cloud {cloud_id}", cloud=cloud_id
            )
        return self.managers(endpoints.manager_of(cloud))

    def heard(self, cloud_id: str, error: errors.WatariError) -> None:
        """Notes what came of asking."""
        if isinstance(error, errors.Unavailable | errors.DeadlineExceeded):
            self.silent[cloud_id] = error.message

    def _gather(
        self,
        held: Held,
        cloud_id: str,
        machines_max: int,
        found: dict[str, manager_pb2.Vm],
        claimed: dict[str, str],
    ) -> bool:
        """Adds the machines of a cloud, and those that another one has told of to `claimed`;
        whether there was room for all.
        """
        self.rests.require_none(held, cloud_id)
        manager, token = self.ask(cloud_id), ""
        for _ in range(PAGES_MAX):
            try:
                page = manager.list_vms(held.document, PAGE_SIZE, token)
            except errors.WatariError as error:
                self.heard(cloud_id, error)
                if isinstance(error, errors.Denied):
                    self.rests.note(held, cloud_id, error)
                raise
            for vm in filter(_makes_sense, page.vms):
                if len(found) >= machines_max:
                    return False
                present = found.get(vm.vm_id)
                if present is not None and present.cloud_id != cloud_id:
                    claimed[vm.vm_id] = f"both {present.cloud_id} and {cloud_id} say it is theirs"
                    continue
                # A manager speaks for its own cloud only.
                vm.cloud_id = cloud_id
                found[vm.vm_id] = vm
            token = page.next_page_token
            if not token:
                return True
        return False


def _makes_sense(vm: manager_pb2.Vm) -> bool:
    """Whether it can be spoken of: a manager of another provider chooses these words."""
    try:
        validate.require_uuid(vm.vm_id, "vm_id")
        validate.require_text(vm.name, "name", bytes_max=NAME_BYTES_MAX)
    except errors.InvalidArgument:
        return False
    return True
