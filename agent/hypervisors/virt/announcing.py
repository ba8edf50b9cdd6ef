"""Tells the network where a machine is now, as soon as it runs.

QEMU sends a RARP frame from each of the machine's cards, by its monitor command `announce-self`
(docs/about/emulation, since QEMU 4.0); after a restore it does so by itself, too. Switches learn
the port from it. IP addresses are the guest's own affair: QEMU does not know them.
"""

import json
from typing import Any

import libvirt
import libvirt_qemu

from agent.hypervisors.virt import faults
from watari import logs

ROUNDS, INITIAL_MS, STEP_MS, MAX_MS = 5, 50, 100, 550
"""Frames of each card, and the time between two: 50 ms first, 100 ms more each time."""

_log = logs.get(__name__)


def announce(domain: Any) -> bool:
    """Whether the hypervisor was told to. What goes wrong is logged: the machine runs all the same,
    and is found with the first frame that it sends.
    """
    if "<interface " not in domain.XMLDesc(0) or domain.connect().getType() != "QEMU":
        return False
    arguments = {"initial": INITIAL_MS, "max": MAX_MS, "rounds": ROUNDS, "step": STEP_MS}
    command = json.dumps({"execute": "announce-self", "arguments": arguments})
    try:
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, command, 0))
    except libvirt.libvirtError as error:
        _log.warning("not announced", vm=domain.name(), error=faults.text(error))
        return False
    if "error" in answer:
        _log.warning("not announced", vm=domain.name(), error=str(answer["error"].get("desc")))
    return "error" not in answer
