"""What libvirt's lifecycle events say, in words (virDomainEventType and its details)."""

from collections.abc import Callable, Mapping

import libvirt

from agent.hypervisors import Change
from watari import clock

_STARTED: Mapping[int, str] = {
    libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED: "booted",
    libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED: "migrated by the hypervisor",
    libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED: "restored from saved memory",
    libvirt.VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT: "from a snapshot",
    libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP: "woken up",
}
_STOPPED: Mapping[int, str] = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "shut down",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "forced off",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "migrated by the hypervisor",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "memory saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "failed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT: "for a snapshot",
}
_TURNS: Mapping[int, tuple[bool, Mapping[int, str]]] = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: (True, _STARTED),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: (False, _STOPPED),
}


def teller(changed: Callable[[Change], None], time: clock.Clock) -> Callable[[str, int, int], None]:
    """Tells `changed` of events as `Connection.on_lifecycle` gets them. One that libvirt may know
    and this release does not is told without a reason.
    """

    def tell(vm_id: str, event: int, detail: int) -> None:
        runs, reasons = _TURNS.get(event, (None, {}))
        changed(Change(vm_id, time.now(), runs, reasons.get(detail, "")))

    return tell
