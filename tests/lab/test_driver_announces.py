"""A machine that runs is announced to the switches of its host."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.lab.conftest import MakeGuest
from tests.lab.drivers import Agent, new_id
from tests.lab.guests import definition_xml
from tests.lab.image import Image
from tests.lab.link import Lab
from watari.v1 import agent_pb2

MAC = "52:54:00:aa:bb:01"
LISTEN = """
import socket, sys
found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035))
found.bind(("br0", 0))
found.settimeout(30)
print("listening", flush=True)
print(found.recv(2000)[6:12].hex(":"), flush=True)
"""
"""The source of the first RARP frame (RFC 903) on the bridge."""


def test_switches_are_told_where_a_machine_is_once_it_runs(
    lab: Lab, lab_image: Image, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest(lab.tokyo)
    for command in ("ip link add br0 type bridge", "ip link set br0 up"):
        lab.tokyo.run(command.split())
    root = ET.fromstring(definition_xml(guest))  # noqa: S314 - our own
    devices = root.find("devices")
    assert devices is not None
    card = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(card, "mac", address=MAC)
    ET.SubElement(card, "source", bridge="br0")
    ET.SubElement(card, "model", type="virtio")
    changed = guest.host.work / f"{guest.spec.name}-card.xml"
    changed.write_text(ET.tostring(root, encoding="unicode"))
    guest.host.virsh("define", changed)
    agent = Agent(lab.tokyo, guest.host.work / f"agent-{new_id()[:8]}", lab_image)
    listener = lab.tokyo.popen([sys.executable, "-c", LISTEN], stdout=-1, text=True)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        started = agent.driver.start(guest.spec.vm_id)
        assert started.state == agent_pb2.GUEST_STATE_RUNNING
        assert listener.stdout.readline().strip() == MAC
    finally:
        listener.kill()
        agent.driver.close()
        lab.tokyo.run(["ip", "link", "delete", "br0"])
