"""A machine with UEFI firmware that libvirt chose and an emulated TPM keeps both when it moves."""

from pathlib import Path

import pytest

from tests.lab import console, drivers, guests
from tests.lab.conftest import MakeGuest
from tests.lab.drivers import COLD, STOP_SECONDS_MAX, SUSPEND, Agent
from tests.lab.image import Image
from tests.lab.link import Lab
from watari.v1 import agent_pb2, common_pb2

TPM = '<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm></devices>'


@pytest.mark.parametrize("mode", [COLD, SUSPEND])
def test_firmware_variables_and_tpm_come_along(
    lab: Lab, make_guest: MakeGuest, lab_image: Image, tmp_path: Path, mode: int
) -> None:
    tokyo = Agent(lab.tokyo, tmp_path / "a", lab_image)
    osaka = Agent(lab.osaka, tmp_path / "b", lab_image)
    guest = make_guest(lab.tokyo, machine="q35", disks={"vda": "raw"}, memory_mib=256)
    migration = drivers.new_id()
    vm_id = guest.spec.vm_id
    xml = guests.definition_xml(guest).replace("<os>", '<os firmware="efi">')
    definition = tmp_path / "uefi.xml"
    definition.write_text(xml.replace("</devices>", TPM))
    lab.tokyo.virsh("undefine", guest.spec.name)
    lab.tokyo.virsh("define", definition)
    guest.boot()
    tokyo.driver.hold(vm_id, migration, mode)
    found = tokyo.driver.quiesce(vm_id, migration, STOP_SECONDS_MAX)
    kinds = {each.kind for each in found.disks}
    assert {common_pb2.DISK_KIND_NVRAM, common_pb2.DISK_KIND_TPM} < kinds
    copies: dict[str, bytearray] = {}
    with tokyo.driver.still_view(vm_id, migration) as view:
        drivers.copy_round(view, copies)
    specs = [common_pb2.DiskSpec(disk_id=each.disk_id, kind=each.kind) for each in found.disks]
    told = osaka.driver.findings(found.definition_xml, specs, mode)
    assert [each for each in told if each.severity == agent_pb2.SEVERITY_ERROR] == []
    staging = osaka.stage(migration)
    drivers.stage_copies(staging, found.disks, copies)
    osaka.driver.activate(drivers.arrived(staging, vm_id, found.definition_xml), provisional=True)
    variables = lab.osaka.folder / "lib/qemu/nvram" / f"{guest.spec.name}_VARS.fd"
    assert variables.read_bytes() == bytes(copies["nvram"])
    state = next((lab.osaka.folder / "lib/swtpm" / vm_id).rglob("*.permall"))
    assert state.read_bytes() in bytes(copies["tpm"])
    osaka.driver.prepare(vm_id)
    osaka.driver.start(vm_id, migration)
    osaka.console(migration).wait_ack()
    said = [*guest.console.events(), *osaka.console(migration).events()]
    assert console.problems(said) == []
    assert len([e for e in said if isinstance(e, console.Boot)]) == (1 if mode == SUSPEND else 2)
    osaka.driver.stop(vm_id, STOP_SECONDS_MAX)
    lab.osaka.virsh("undefine", guest.spec.name, "--nvram")
    tokyo.driver.unhold(vm_id, migration)
    guest.console.wait_ack()
    lab.tokyo.virsh("destroy", guest.spec.name)
    lab.tokyo.virsh("undefine", guest.spec.name, "--nvram")
    for agent in (tokyo, osaka):
        agent.driver.close()
