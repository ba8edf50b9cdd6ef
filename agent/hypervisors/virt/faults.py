"""What libvirt's errors mean to a caller."""

import libvirt

from watari import errors

MESSAGE_CHARACTERS_MAX = 500


def unavailable(uri: str, why: str) -> errors.Unavailable:
    """The error of a libvirtd that does not answer; whether the call was done is unknown."""
    return errors.Unavailable(
        "HYPERVISOR_UNAVAILABLE",
        f"libvirt at {uri} does not answer: {why}",
        hint="see whether libvirtd runs; the call may be repeated",
    )


def not_found(vm_id: str) -> errors.NotFound:
    """The error of a machine that this host has not."""
    return errors.NotFound(
        "VM_NOT_FOUND", f"this host has no machine {vm_id}", hint="see `watari vm list`", vm=vm_id
    )


def failed(what: str, why: str, hint: str = "") -> errors.FailedPrecondition:
    """The error of a hypervisor that did not do something, with its own words."""
    return errors.FailedPrecondition(
        "VM_LIFECYCLE_FAILED",
        f"{what}: {why}",
        hint=hint or "see the host's log of libvirtd and of the machine, then try again",
        retryable=False,
    )


def mapped(error: libvirt.libvirtError, what: str, vm_id: str) -> errors.WatariError:
    """The error of a call that libvirtd answered with one."""
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN and vm_id:
        return not_found(vm_id)
    return failed(what, text(error))


def text(error: libvirt.libvirtError) -> str:
    """Libvirt's message, fit to be shown."""
    said = str(error.get_error_message() or error)[:MESSAGE_CHARACTERS_MAX]
    return "".join(each if each.isprintable() else " " for each in said)
