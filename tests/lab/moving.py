"""A guest that moves between the lab's clouds, seen from inside it and from both hosts."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import console
from tests.lab.clouds import Cloud, Clouds
from tests.lab.console import Ack, Console, Event
from tests.lab.guests import Guest
from tests.lab.hosts import Host
from watari.v1 import manager_pb2

LOG = Path("/var/log/libvirt")
"""Of every host its own; `Host.log` outside."""


@dataclass
class Traveller:
    """A guest, whichever cloud it is in. Its consoles are kept in the order of its stays."""

    clouds: Clouds
    guest: Guest
    at: Cloud
    stays: list[Console] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stays.append(self.guest.console)

    @property
    def vm_id(self) -> str:
        """Its UUID."""
        return self.guest.spec.vm_id

    @property
    def console(self) -> Console:
        """Where it writes now."""
        return self.stays[-1]

    def arrived(self) -> None:
        """It is in the other cloud now."""
        self.at = self.clouds.other(self.at)
        self.stays.append(console_of(self.at.host, self.guest.spec.name))

    def stayed(self) -> None:
        """It is where it was; it may have been started anew, by a definition that was kept."""
        found = console_of(self.at.host, self.guest.spec.name)
        if found.path != self.console.path:
            self.stays.append(found)

    def move(self, mode: int, **options: int) -> manager_pb2.Migration:
        """Migrates it to the other cloud, and waits until it counts there."""
        migration_id = self.at.migrate(self.vm_id, mode, **options)
        ended = self.at.wait_ended(migration_id)
        assert ended.state == manager_pb2.MIGRATION_STATE_SUCCEEDED, ended
        self.arrived()
        self.console.wait_ack(more_than=self.last_n)
        return ended

    @property
    def last_n(self) -> int:
        """The last number that it acknowledged anywhere."""
        return max(stay.last_n for stay in self.stays)

    def said(self) -> list[Event]:
        """All that it ever said, in order of its stays."""
        return [event for stay in self.stays for event in stay.events()]

    def acks(self) -> list[Ack]:
        """All that it acknowledged."""
        return [event for event in self.said() if isinstance(event, Ack)]

    def check(self) -> None:
        """Nothing acknowledged is lost, and no two copies ran."""
        assert console.problems(self.said()) == []
        states = {cloud.cloud_id: state_on(cloud.host, self.guest) for cloud in self.clouds.both}
        assert states[self.at.cloud_id] == "running", states
        assert states[self.clouds.other(self.at).cloud_id] == "", states


def settle(clouds: Clouds, guest: Guest) -> Traveller:
    """A guest that was just created on a host of the clouds, running and known to its manager."""
    cloud = clouds.cloud(guest.host.name)
    guest.boot()
    cloud.wait_owns(guest.spec.vm_id, "running")
    return Traveller(clouds, guest, cloud)


def state_on(host: Host, guest: Guest) -> str:
    """What a host's libvirt says of a guest; nothing when it does not know it."""
    return guest.on(host).state()


def console_of(host: Host, name: str) -> Console:
    """Where a guest's serial port goes on a host."""
    root = ET.fromstring(host.virsh("dumpxml", name))  # noqa: S314 - our own libvirt's
    source = root.find("devices/serial/source")
    assert source is not None
    path = Path(source.get("path", ""))
    inside = path.is_relative_to(LOG)
    return Console(host.log / path.relative_to(LOG) if inside else path)
