"""What the host is: capacity, free space and traits, read from the machine or set by its operator.

Also turns the driver's machines into messages.
"""

import os
import shutil
from pathlib import Path

from agent.hypervisors import Guest, Hypervisor
from agent.settings import Settings
from watari import __version__, errors
from watari.identity import SpiffeId
from watari.v1 import agent_pb2, common_pb2


def describe(
    settings: Settings,
    hypervisor: Hypervisor,
    own: SpiffeId,
    control: str,
    data: common_pb2.Endpoint,
    capacity: common_pb2.Resources | None = None,
) -> agent_pb2.Host:
    """The host, with its free space at this moment. `capacity` is what the hypervisor tells; by
    default it is the machine's.
    """
    told = capacity or common_pb2.Resources()
    usage = shutil.disk_usage(settings.shelf)
    host = settings.host
    return agent_pb2.Host(
        host_id=settings.host_id,
        cloud_id=settings.cloud_id,
        driver=hypervisor.name,
        total=common_pb2.Resources(
            vcpus=host.vcpus or told.vcpus or os.cpu_count() or 1,
            memory_bytes=host.memory_bytes or told.memory_bytes or _memory_bytes(),
            disk_bytes=host.disk_bytes or usage.total,
        ),
        storage_free_bytes=usage.free,
        control=common_pb2.Endpoint(address=control, spiffe_id=str(own)),
        data=data,
        traits=[f"driver:{hypervisor.name}", *host.traits],
        version=__version__,
        spiffe_id=str(own),
    )


def message(guest: Guest) -> agent_pb2.Guest:
    """A machine as the contract has it."""
    found = agent_pb2.Guest(
        vm_id=guest.vm_id,
        name=guest.name,
        state=guest.state,
        tenant=guest.tenant,
        held_by=guest.held_by,
        epoch=guest.epoch,
        resources=common_pb2.Resources(
            vcpus=guest.vcpus,
            memory_bytes=guest.memory_bytes,
            disk_bytes=sum(disk.size_bytes for disk in guest.disks if not disk.kind),
        ),
        disks=[
            common_pb2.DiskSpec(
                disk_id=disk.disk_id,
                size_bytes=disk.size_bytes,
                allocated_bytes=disk.allocated_bytes,
                format=disk.format,
                kind=disk.kind,
            )
            for disk in guest.disks
        ],
        stopped_by_hold=guest.stopped_by_hold,
    )
    if guest.problem is not None:
        found.problem.CopyFrom(errors.to_problem(guest.problem))
    return found


def _memory_bytes() -> int:
    """MemTotal of proc(5), whose unit is KiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise errors.FailedPrecondition(
        "CONFIG_INVALID", "the machine's memory is not known", hint="set [agent.host] memory_bytes"
    )
