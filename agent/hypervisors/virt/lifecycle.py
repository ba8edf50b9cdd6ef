"""Starting and stopping through libvirt: what each takes, and nothing about why."""

import contextlib
from pathlib import Path
from typing import Any

import libvirt

from agent import files
from agent.hypervisors.virt import faults
from agent.hypervisors.virt.machines import Machines
from watari import errors

FORCED_SECONDS_MAX = 60.0
"""How long a machine may take to be gone after it was forced."""

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def shut_down(found: Machines, vm_id: str, stop_seconds_max: float) -> None:
    """Asks the guest, and forces it when its time is over. Raises VM_LIFECYCLE_FAILED."""

    def off() -> bool:
        return not active(found, vm_id)

    if not off():
        with (
            contextlib.suppress(errors.FailedPrecondition),  # a guest that cannot be asked
            found.domain(vm_id, "the guest cannot be asked to shut down") as domain,
        ):
            domain.shutdown()
        if not found.connection.wait_until(off, stop_seconds_max):
            force_off(found, vm_id)
        if not found.connection.wait_until(off, FORCED_SECONDS_MAX):
            raise faults.failed("the machine did not stop", "its process is still there")


def force_off(found: Machines, vm_id: str) -> None:
    """Ends a machine's process; its disks are closed in order where that is possible."""
    for flags in (libvirt.VIR_DOMAIN_DESTROY_GRACEFUL, 0):
        try:
            with found.domain(vm_id, "the machine cannot be forced off") as domain:
                domain.destroyFlags(flags)
        except errors.FailedPrecondition:
            if not active(found, vm_id):
                return
            if not flags:
                raise
        else:
            return


def undefine(found: Machines, vm_id: str) -> None:
    """Takes a machine that is off out of libvirt; what it has on disk stays."""
    if found.seen(vm_id) is not None:
        with (
            contextlib.suppress(errors.NotFound),
            found.domain(vm_id, "the machine cannot be taken out of libvirt") as domain,
        ):
            if domain.isPersistent():
                _undefine(domain)


def define(opened: Any, xml: str) -> Any:
    """Tells libvirt of a machine, or once more."""
    return opened.defineXML(xml)


def release(found: Any, memory: Path | None) -> bool:
    """Lets a machine run; whether it did not before. Its saved memory is deleted first: it can be
    loaded once only.
    """
    state = found.state()[0]
    loaded = state not in {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED}
    if memory is not None and loaded:
        files.remove(memory)
    if state == libvirt.VIR_DOMAIN_PAUSED:
        found.resume()
    elif not found.isActive():
        found.create()
    else:
        return False
    return True


def active(found: Machines, vm_id: str) -> bool:
    """Whether it has a process, as far as anybody knows."""
    try:
        seen = found.seen(vm_id)
    except errors.Unavailable:  # libvirtd is away: the guest may run on
        return True
    return seen is not None and seen.active


def _undefine(domain: Any) -> None:
    try:
        domain.undefineFlags(UNDEFINE)
    except libvirt.libvirtError as error:
        unknown = {libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_NO_SUPPORT}
        if error.get_error_code() not in unknown:
            raise
        domain.undefineFlags(0)  # Xen knows no flags
