"""An agent or a manager of the bench: the product's own, whose steps tell how long they took.

    python -m bench.running.traced --config FOLDER/agent.toml

Which of the two it is, the file's name says. Each step is a JSON line of FOLDER/agent.spans, with
seconds since 1970; a step costs some microseconds more than without.
"""

import watari.tls  # noqa: F401, I001 - before grpc

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUFFIX = ".spans"

STEPS = {
    "agent": (
        "agent.transfer.line:Line.open",
        "agent.transfer.line:Line.complete",
        "agent.transfer.sending:Sending.run",
        "agent.transfer.sessions:Sessions.open",
        "agent.transfer.sessions:Sessions.complete",
        "agent.transfer.receiving:Receiving.await_manifest",
        "agent.transfer.receiving:Receiving.complete",
        "agent.transfer.sessions:Sessions._finish",
        "agent.transfer.sessions:Sessions.activate",
        "agent.transfer.sessions:Sessions.prepare",
        "agent.hypervisors.virt.driver:Libvirt.running_view",
        "agent.hypervisors.virt.driver:Libvirt.quiesce",
        "agent.hypervisors.virt.driver:Libvirt.still_view",
        "agent.hypervisors.virt.driver:Libvirt.activate",
        "agent.hypervisors.virt.driver:Libvirt.prepare",
        "agent.hypervisors.virt.driver:Libvirt.start",
        "agent.hypervisors.virt.driver:Libvirt.retire",
        "agent.hypervisors.virt.saving:Saving.save",
        "agent.hypervisors.virt.views:Views.end_jobs",
        "agent.hypervisors.virt.lifecycle:shut_down",
        "agent.hypervisors.virt.lifecycle:undefine",
        "agent.hypervisors.virt.lifecycle:define",
        "agent.hypervisors.virt.lifecycle:release",
        "agent.hypervisors.virt.arrival:Arrival._load",
        "agent.hypervisors.virt.announcing:announce",
        "agent.disks.nbd.server:start",
    ),
    "manager": (
        "manager.saga.copying:Copier.run",
        "manager.saga.copying:Copier.checked_receipt",
        "manager.saga.recording:Recorder.advance",
        "manager.saga.handing:HandingOver.commit",
        "manager.saga.handing:HandingOver.hand_over",
        "manager.saga.handing:HandingOver.retire",
        "manager.peers:Peers.confirm",
        "manager.peers:Peers.hand_over",
        "manager.handover:HandOvers.accept",
        "manager.arriving:Arriving.finish",
        "manager.arriving:Arriving._own_it",
        "manager.agents:Agents.activate",
        "manager.agents:Agents.start",
        "manager.agents:Agents.retire",
    ),
}
"""What is traced, as module:name. A name that is gone ends the program: say the new one here."""


def main() -> None:
    """Traces, and runs the service."""
    config = Path(sys.argv[sys.argv.index("--config") + 1])
    service = config.stem
    descriptor = os.open(
        config.with_suffix(SUFFIX), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    for step in STEPS[service]:
        _trace(step, descriptor)
    importlib.import_module(f"{service}.__main__").main()


def _trace(step: str, descriptor: int) -> None:
    """Wraps a method of a class, or a function that is called by its module's name."""
    module, _, name = step.partition(":")
    *owners, last = name.split(".")
    shown = name if owners else f"{module.rpartition('.')[2]}.{last}"
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    setattr(owner, last, _timed(getattr(owner, last), shown, descriptor))


def _timed(function: Callable[..., Any], name: str, descriptor: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.time()
        try:
            return function(*arguments, **named)
        finally:
            line = json.dumps({"name": name, "began": began, "ended": time.time()})
            os.write(descriptor, line.encode() + b"\n")  # one write for a line

    return timed


if __name__ == "__main__":
    main()
