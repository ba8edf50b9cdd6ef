"""Which driver an agent has."""

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeAlias

from agent.hypervisors import Hypervisor
from agent.hypervisors.shelf import Shelf
from agent.settings import Settings
from watari import errors
from watari.clock import Clock
from watari.v1 import common_pb2

Capacity: TypeAlias = Callable[[], common_pb2.Resources | None]
"""What the hypervisor offers to machines; None where it does not tell."""


def opened(settings: Settings, time: Clock, stack: ExitStack) -> tuple[Hypervisor, Capacity]:
    """The driver of the settings; the stack closes it. Raises FailedPrecondition CONFIG_INVALID."""
    if settings.driver == "libvirt":
        return _libvirt(settings, time, stack)
    shelf = Shelf(settings.shelf, time, settings.retention_seconds, settings.disk_format)
    stack.callback(shelf.close)
    return shelf, lambda: None


def _libvirt(settings: Settings, time: Clock, stack: ExitStack) -> tuple[Hypervisor, Capacity]:
    if importlib.util.find_spec("libvirt") is None:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            'driver "libvirt" needs the package libvirt-python',
            hint="install watari[libvirt], or the distribution's python3-libvirt",
        )
    # Here, as it is an extra: everything else works without it.
    from agent.hypervisors.virt.driver import Libvirt  # noqa: PLC0415
    from agent.hypervisors.virt.host import Options  # noqa: PLC0415

    driver = Libvirt(
        settings.libvirt_uri,
        settings.shelf,
        time,
        Options(
            retention_seconds=settings.retention_seconds,
            disk_format=settings.disk_format,
            networks=settings.networks,
            boot_files=settings.boot_files,
            emulator=settings.emulator,
            swtpm_folder=settings.swtpm_folder,
            nvram_folder=settings.nvram_folder,
            announce=settings.announce,
        ),
    )
    stack.callback(driver.close)

    def capacity() -> common_pb2.Resources | None:
        try:
            known = driver.capabilities()
        except errors.Unavailable:  # a host whose libvirtd is away is still one
            return None
        return common_pb2.Resources(vcpus=known.vcpus, memory_bytes=known.memory_bytes)

    return driver, capacity
