"""A machine that a migration holds: made to stand still, and brought back to what it was.

```
            quiesce                                            unhold
held -> stopping -> (off or saved) -> not in libvirt -> still -> resuming -> (as before) -> no hold
```

Each stage is durable before what follows it begins, and every step looks at how things are before
it acts. So a call that is repeated after any crash goes on, and `unhold` may come at any stage.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libvirt

from agent.hypervisors import Guest, Mode
from agent.hypervisors.virt import faults, lifecycle, machines, notes, obstacles, tpm
from agent.hypervisors.virt.host import Host
from agent.hypervisors.virt.machines import Machines, Seen
from agent.hypervisors.virt.records import Folder, Hold
from agent.hypervisors.virt.saving import Saving
from agent.hypervisors.virt.views import Views
from watari import clock, errors, logs
from watari.v1 import agent_pb2, common_pb2

SUSPEND = common_pb2.MIGRATION_MODE_SUSPEND

TAKE_OUT_TRIES_MAX = 3
"""How often a machine is taken out of libvirt that somebody starts again."""

SHUTDOWN_SECONDS_MAX = 60.0
"""How long a guest that was asked to shut down, when the migration was called off, may still take
to do so; it runs again then. One that takes longer has not listened."""

_log = logs.get(__name__)


class Stopping:
    """Holds, quiesce and unhold."""

    def __init__(self, host: Host, found: Machines, views: Views, time: clock.Clock) -> None:
        self._clock = time
        self._host = host
        self._machines = found
        self._folder: Folder = found.folder
        self._views = views
        self._saving = Saving(found)

    def hold(self, vm_id: str, migration_id: str, mode: Mode) -> Guest:
        """See `Hypervisor.hold`."""
        with self._machines.alone(vm_id):
            guest = self._machines.guest(vm_id)
            if guest.problem:
                raise guest.problem
            if guest.held_by not in {"", migration_id}:
                raise machines.busy(guest.name, guest.held_by)
            if guest.held_by == migration_id:
                return guest
            origin = self._folder.origin(vm_id)
            if origin is not None and origin.provisional:
                raise machines.busy(guest.name, f"migration {origin.migration_id} brings it")
            obstacles.require_movable(self._machines, guest, mode)
            with self._machines.domain(vm_id, "the machine cannot be held") as found:
                record = Hold(
                    migration_id=migration_id,
                    mode=mode,
                    name=guest.name,
                    definition=machines.secret_xml(found),
                    shown=machines.shown_xml(found),
                    memory_bytes=self._machines.state(guest.definition_xml).memory_bytes,
                )
            self._folder.put_hold(vm_id, record)
            return self._machines.guest(vm_id)

    def quiesce(self, vm_id: str, migration_id: str, stop_seconds_max: float) -> Guest:
        """See `Hypervisor.quiesce`."""
        with self._machines.alone(vm_id):
            hold = self._machines.require_hold(vm_id, migration_id)
            if hold.stage == "resuming":
                raise machines.busy(hold.name, "its hold is being ended")
            if hold.stage != "still":
                seen = self._machines.seen(vm_id)
                self._views.end_jobs(vm_id)
                if hold.stage == "held":
                    hold = self._begin(vm_id, hold, seen)
                try:
                    self._stand_still(vm_id, hold, stop_seconds_max)
                except errors.WatariError as error:
                    self._back(vm_id, error)
                    raise
            return self._machines.guest(vm_id)

    def unhold(self, vm_id: str, migration_id: str, epoch: int) -> None:
        """See `Hypervisor.unhold`."""
        with self._machines.alone(vm_id):
            hold = self._folder.hold(vm_id)
            if hold is None or hold.migration_id != migration_id:
                return
            if epoch:
                self._folder.put_epoch(vm_id, epoch)
            if hold.stage == "held":
                self._views.clean(vm_id, hold)
            else:
                self._resume(vm_id, hold)
            self._folder.drop_hold(vm_id)

    def require_still(self, vm_id: str, migration_id: str) -> None:
        """Raises FailedPrecondition VM_BUSY without the hold, VM_RUNNING before `quiesce`,
        VM_LIFECYCLE_FAILED when it has run since.
        """
        hold = self._machines.require_hold(vm_id, migration_id)
        if hold.stage != "still" or self._machines.seen(vm_id) is not None:
            raise errors.FailedPrecondition(
                "VM_RUNNING",
                f"machine {hold.name} does not stand still yet",
                hint="this is a fault of the program: quiesce comes first",
                vm=vm_id,
            )
        self._saving.require_fit(hold)

    def _begin(self, vm_id: str, hold: Hold, seen: Seen | None) -> Hold:
        """Notes how the machine was, before anything changes."""
        if seen is None:
            raise faults.not_found(vm_id)
        if seen.state == agent_pb2.GUEST_STATE_PAUSED:
            raise obstacles.paused(hold.name)
        if hold.mode == SUSPEND and not seen.active:
            raise obstacles.off(hold.name)
        with self._machines.domain(vm_id, "the machine cannot be looked at") as found:
            notes.raise_first(obstacles.attached(found))  # since it was held
            hold = replace(
                hold,
                stage="stopping",
                was_running=seen.active,
                stopped_at=self._clock.now().timestamp(),
                autostart=bool(found.isPersistent() and found.autostart()),
                definition=machines.secret_xml(found),
                shown=machines.shown_xml(found),
                checkpoints=_foreign_checkpoints(found, hold.migration_id),
            )
        return self._folder.put_hold(vm_id, hold)

    def _stand_still(self, vm_id: str, hold: Hold, stop_seconds_max: float) -> None:
        if self._machines.seen(vm_id) is not None:
            with self._machines.domain(vm_id, "the machine cannot be stopped") as found:
                if found.isPersistent():
                    found.setAutostart(0)
            if hold.mode == SUSPEND:
                hold = self._saving.save(vm_id, hold)
            else:
                hold = self._folder.put_hold(vm_id, replace(hold, asked=hold.was_running))
                lifecycle.shut_down(self._machines, vm_id, stop_seconds_max)
            self._take_out(vm_id, hold)
        elif hold.mode == SUSPEND and not hold.memory:
            raise faults.failed("the machine's memory is lost", "nothing saved it")
        if hold.mode == SUSPEND:
            self._saving.require_fit(hold)
        if self._machines.state(hold.shown).tpm:
            tpm.pack(self._host.swtpm_folder(vm_id), self._folder.held / f"{vm_id}.tpm")
        self._folder.put_hold(vm_id, replace(hold, stage="still"))

    def _take_out(self, vm_id: str, hold: Hold) -> None:
        """Libvirt does not know the machine when this returns: one that somebody starts meanwhile
        would only become transient, and run on.
        """
        for _ in range(TAKE_OUT_TRIES_MAX):
            lifecycle.undefine(self._machines, vm_id)
            if self._machines.seen(vm_id) is None:
                return
            if hold.mode == SUSPEND:
                break  # its memory is that of before
            lifecycle.force_off(self._machines, vm_id)
        raise faults.failed(
            f"machine {hold.name} does not stay off", "something starts it while it is to be moved"
        )

    def _back(self, vm_id: str, first: errors.WatariError) -> None:
        """After a failure the machine runs as before, if that can be done; the first error counts.

        Not where libvirtd is away: what it did is unknown, and the call will be repeated.
        """
        hold = self._folder.hold(vm_id)
        if hold is None or isinstance(first, errors.Unavailable):
            return
        try:
            self._resume(vm_id, hold)
            self._folder.put_hold(vm_id, _untouched(hold))
        except errors.WatariError as error:
            _log.warning("a machine could not be brought back", vm=vm_id, error=str(error))

    def _resume(self, vm_id: str, hold: Hold) -> None:
        hold = self._folder.put_hold(vm_id, replace(hold, stage="resuming"))
        if self._machines.seen(vm_id) is not None:
            self._saving.await_job(vm_id)
        self._views.end_jobs(vm_id)
        what = f"machine {hold.name} could not be started again"
        seen = self._machines.seen(vm_id)
        if hold.asked and seen is not None and seen.active:
            self._machines.connection.wait_until(
                lambda: not lifecycle.active(self._machines, vm_id), SHUTDOWN_SECONDS_MAX
            )
        if not lifecycle.active(self._machines, vm_id):
            self._views.clean_images(vm_id, hold)
            hold = self._folder.put_hold(vm_id, replace(hold, asked=False))
        with self._machines.connection.asked(what, vm_id) as opened:
            found = lifecycle.define(opened, hold.definition)
            _redefine_checkpoints(found, hold)
            found.setAutostart(int(hold.autostart))
            if hold.was_running:
                self._run(vm_id, hold, opened, found)

    def _run(self, vm_id: str, hold: Hold, opened: Any, found: Any) -> None:
        if not found.isActive() and (memory := self._saving.loadable(hold)) is not None:
            opened.restoreFlags(str(memory), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            found = opened.lookupByUUIDString(vm_id)
        self._saving.drop(hold)  # before the machine runs
        lifecycle.release(found, None)
        if hold.serial:
            self._views.clean(vm_id, hold)


def _untouched(hold: Hold) -> Hold:
    return replace(
        hold,
        stage="held",
        asked=False,
        saves=(),
        saved="",
        stamps={},
        memory="",
        serial=0,
        checkpoint="",
    )


def _foreign_checkpoints(found: Any, migration_id: str) -> tuple[str, ...]:
    """XML of others' checkpoints, which libvirt forgets with the machine; parents first."""
    ask: Callable[[int], list[Any]] = found.listAllCheckpoints
    try:
        known = ask(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
    except libvirt.libvirtError:  # Xen has none
        return ()
    return tuple(
        str(each.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE))
        for each in known
        if not each.getName().startswith(f"watari-{migration_id}-")
    )


def _redefine_checkpoints(found: Any, hold: Hold) -> None:
    for each in hold.checkpoints:
        try:
            found.checkpointCreateXML(each, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
        except libvirt.libvirtError as error:  # its next backup is a full one
            _log.warning("a checkpoint is lost", vm=hold.name, error=faults.text(error))
