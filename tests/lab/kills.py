"""An agent that is killed around one of the changes that it makes: in thought, or indeed.

`killed_at` raises an exception that nothing catches; what libvirt was asked for goes on, as it
would. `killed_in_process` has SIGKILL end a process that has the driver.
"""

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

import watari.tls  # noqa: F401 - before anything that imports grpc
from agent import files
from agent.hypervisors.virt.driver import Libvirt
from agent.hypervisors.virt.records import Folder
from tests.lab.drivers import Agent
from watari.clock import SystemClock

PROCESS_SECONDS_MAX = 120.0

CHANGES: tuple[tuple[Any, str], ...] = (
    (libvirt.virDomain, "create"),
    (libvirt.virDomain, "createWithFlags"),
    (libvirt.virDomain, "destroyFlags"),
    (libvirt.virDomain, "resume"),
    (libvirt.virDomain, "saveFlags"),
    (libvirt.virDomain, "setAutostart"),
    (libvirt.virDomain, "shutdown"),
    (libvirt.virDomain, "undefineFlags"),
    (libvirt.virConnect, "defineXML"),
    (libvirt.virConnect, "restoreFlags"),
    (Folder, "put_hold"),
    (Folder, "put_kept"),
    (Folder, "put_origin"),
    (files, "remove"),
    (files, "rename"),
    (shutil, "move"),
    (shutil, "rmtree"),
)


class Killed(BaseException):
    """Nobody handles it."""


def _raise() -> None:
    raise Killed


@contextlib.contextmanager
def killed_at(number: int, die: Callable[[], None] = _raise) -> Iterator[list[str]]:
    """Dies around change `number`, from 0: before it when even, after it when odd. Yields the
    changes that there were.
    """
    seen: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            at, after = divmod(number, 2)
            if len(seen) - 1 == at and not after:
                die()
            answer = original(*arguments, **options)
            if len(seen) - 1 == at:
                die()
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CHANGES:
            patch.setattr(owner, name, watched(name, getattr(owner, name)))
        yield seen


def killed_in_process(agent: Agent, number: int, call: str, *arguments: object) -> bool:
    """A call of the driver by a process that is killed as `killed_at` says; whether it was. The
    agent has another driver afterwards.
    """
    agent.driver.close()
    asked = (agent.host.uri, agent.folder, agent.options, number, call, arguments)
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.kills"],
        input=pickle.dumps(asked),
        cwd=Path(__file__).parents[2],
        timeout=PROCESS_SECONDS_MAX,
        check=False,
    )
    agent.driver = agent.new()
    assert done.returncode in {0, -signal.SIGKILL}, done
    return done.returncode != 0


def _main() -> None:
    uri, folder, options, number, call, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301
    driver = Libvirt(uri, folder, SystemClock(), options)
    with killed_at(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        getattr(driver, call)(*arguments)
    driver.close()


if __name__ == "__main__":
    _main()
