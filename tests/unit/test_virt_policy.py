"""Definitions from elsewhere: what is kept, replaced, dropped and refused; hostile ones too."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent.hypervisors import domain
from agent.hypervisors.virt import definition, policy
from agent.hypervisors.virt.policy import Adapted, Target
from watari import errors

VM_ID = "5c2f2a3e-4bb5-4a5e-8d38-0d7b45f0a6c1"
FOLDER = Path("/srv/watari/machines/0")
TARGET = Target(
    folder=FOLDER,
    disks={"vda": domain.DiskFile(FOLDER / "vda.raw", "raw")},
    networks={"lan": "bridge:br7", "wan": "network:outside"},
    boot_files={"vmlinuz": Path("/srv/boot/vmlinuz")},
    loaders=frozenset({"/usr/share/OVMF/OVMF_CODE_4M.fd"}),
    emulator="",
    virt_types=("kvm", "qemu"),
)

TYPICAL = """
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>VM_ID</uuid><genid>f2a7b3b0-3f36-4f0c-9d1e-2f6f3a0f6e11</genid>
  <title>/not/a/path</title><description>see /etc/motd</description>
  <metadata><watari:vm xmlns:watari='https://watari.dev/ns/domain/1' tenant='acme'/>
    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://debian.org/debian/12'/></libosinfo:libosinfo></metadata>
  <memory unit='KiB'>2097152</memory><currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>4</vcpu>
  <resource><partition>/machine</partition></resource>
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web.fd</nvram>
    <boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='partial'><model fallback='allow'>Haswell</model></cpu>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/var/lib/libvirt/images/web.qcow2' index='1'/><backingStore/>
      <target dev='vda' bus='virtio'/><serial>abc</serial>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
      <source file='/etc/shadow'/><target dev='sda' bus='sata'/><readonly/></disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <interface type='network'><mac address='52:54:00:aa:bb:cc'/>
      <source network='lan' portid='1' bridge='virbr0'/><target dev='vnet3'/>
      <script path='/tmp/up.sh'/><model type='virtio'/><filterref filter='clean-traffic'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>
    <serial type='file'><source path='/etc/cron.d/x' append='off'/><log file='/etc/profile.d/x.sh'/>
      <target type='isa-serial' port='0'/></serial>
    <console type='file'><source path='/etc/cron.d/x'/><target type='serial' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/run/libvirt/qemu/x.agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='5900' listen='0.0.0.0' passwd='secret' socket='/tmp/vnc'>
      <listen type='socket' socket='/tmp/vnc'/></graphics>
    <video><model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1'/></video>
    <rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <memballoon model='virtio'/>
  </devices>
  <seclabel type='none'/>
</domain>
""".replace("VM_ID", VM_ID)


def adapt(xml: str, target: Target = TARGET) -> Adapted:
    return policy.adapted(xml, target)


def fatal(found: Adapted) -> list[tuple[str, str]]:
    """(reason, message) of what is in the way."""
    return [(each.error.reason, each.error.message) for each in found.notes if each.fatal]


def device(text: str) -> str:
    """The typical machine with another device."""
    return TYPICAL.replace("</devices>", f"{text}</devices>")


def test_a_typical_machine_comes_along_and_names_nothing_of_its_host() -> None:
    found = adapt(TYPICAL.replace("<os firmware='efi'>", "<os>"), replace(TARGET, nvram=True))
    assert fatal(found) == []
    for strange in ("/etc", "/root", "/tmp", "/var/lib", "/run", "secret", "0.0.0", "hwrng"):
        plain = found.xml.replace("see /etc/motd", "")
        assert strange not in plain, strange
    root = domain.tree(found.xml)
    assert root.attrib == {"type": "kvm"}
    assert root.findtext("os/nvram") == str(FOLDER / policy.VARIABLES)
    assert root.find("os/nvram").attrib == {}  # type: ignore[union-attr]
    assert root.findtext("os/loader") == "/usr/share/OVMF/OVMF_CODE_4M.fd"
    assert root.find("devices/emulator") is None
    assert root.find("devices/serial/source").get("path") == str(FOLDER / "console.log")  # type: ignore[union-attr]
    assert root.find("devices/console/source").get("path") == str(FOLDER / "console.log")  # type: ignore[union-attr]
    interface = root.find("devices/interface")
    assert interface is not None
    assert interface.get("type") == "bridge"
    assert interface.find("source").attrib == {"bridge": "br7"}  # type: ignore[union-attr]
    assert interface.find("mac").get("address") == "52:54:00:aa:bb:cc"  # type: ignore[union-attr]
    assert interface.find("script") is None
    parsed = domain.parse(found.xml)
    assert (parsed.vm_id, parsed.name, parsed.tenant) == (VM_ID, "web", "acme")
    assert parsed.disks == (domain.DomainDisk("vda", str(FOLDER / "vda.raw"), "raw"),)
    for kept in ("Haswell", "pc-q35-7.2", "abc", "libosinfo", "genid", 'discard="unmap"', "qxl"):
        assert kept in found.xml
    again = adapt(found.xml, replace(TARGET, nvram=True, networks={"br7": "bridge:br7"}))
    assert fatal(again) == []
    assert again.xml == found.xml


def test_what_is_left_out_is_told() -> None:
    said = " ".join(each.error.message for each in adapt(TYPICAL).notes)
    for what in ("medium in disk sda", "filterref", "log of a serial", "password", "script"):
        assert what in said
    assert all(each.error.hint for each in adapt(TYPICAL).notes)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<hostdev mode='subsystem' type='pci'><source/></hostdev>", "hostdev pci"),
        ("<hostdev mode='subsystem' type='usb'><source/></hostdev>", "hostdev usb"),
        ("<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>", "filesystem"),
        ("<shmem name='x'><model type='ivshmem-plain'/></shmem>", "shmem"),
        ("<lease><lockspace>a</lockspace><key>b</key></lease>", "lease"),
        ("<input type='passthrough' bus='virtio'><source evdev='/dev/input/event1'/></input>", ""),
        ("<input type='evdev'><source dev='/dev/input/event1'/></input>", "input"),
        ("<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", "tpm"),
        ("<tpm><backend type='external'><source type='unix' path='/x'/></backend></tpm>", "tpm"),
        ("<tpm><backend type='emulator'><encryption secret='x'/></backend></tpm>", "tpm"),
        ("<memory model='nvdimm'><source><path>/dev/pmem0</path></source></memory>", "nvdimm"),
        ("<interface type='hostdev'><source><address/></source></interface>", "hostdev"),
        ("<interface type='vhostuser'><source type='unix' path='/x'/></interface>", "vhostuser"),
        ("<interface type='ethernet'><target dev='eth0'/></interface>", "ethernet"),
        ("<sound model='/etc/passwd'/>", "/etc/passwd"),
        ("<watchdog model='x'><driver iommu='~/x/y'/></watchdog>", "~/x/y"),
        ("<controller type='usb' model='../x'/>", "../x"),
    ],
)
def test_devices_of_a_host_keep_the_machine_there(text: str, named: str) -> None:
    found = fatal(adapt(device(text)))
    assert {reason for reason, _ in found} == {"VM_NOT_MOVABLE"}
    assert named in found[0][1]


@pytest.mark.parametrize(
    "text",
    [
        "<serial type='unix'><source mode='bind' path='/etc/x'/><target port='1'/></serial>",
        "<serial type='tcp'><source mode='connect' host='10.0.0.1' service='22'/></serial>",
        "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
        "<serial type='pipe'><source path='/run/x'/></serial>",
        "<parallel type='dev'><source path='/dev/parport0'/></parallel>",
        "<console type='stdio'><target type='virtio'/></console>",
        "<channel type='unix'><source path='/run/x'/><target type='guestfwd' port='1'/></channel>",
        "<rng model='virtio'><backend model='egd' type='unix'><source path='/x'/></backend></rng>",
        "<smartcard mode='host'/>",
        "<redirdev bus='usb' type='tcp'><source mode='connect' host='x' service='1'/></redirdev>",
        "<audio id='1' type='file' path='/etc/x'/>",
        "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
        "<pstore backend='acpi-erst'><path>/etc/x</path></pstore>",
        "<crypto model='virtio'><backend model='lkcf'/></crypto>",
        "<newdevice path='/etc/x'/>",
        "<disk type='file' device='floppy'><source file='/etc/x'/><target dev='fda'/></disk>",
        "<disk type='network' device='cdrom'><source name='x'/><target dev='sdb'/></disk>",
    ],
)
def test_what_leads_to_a_host_is_cut_off_with_a_word(text: str) -> None:
    base, found = adapt(TYPICAL), adapt(device(text))
    assert fatal(found) == []
    assert len(found.notes) > len(base.notes) or "audio" in text
    plain = found.xml.replace("see /etc/motd", "").replace("/not/a/path", "")
    allowed = {str(FOLDER), "/usr/share/OVMF", "/dev/urandom", "http:", "https:"}
    for path in re.findall(r"[\"'>](/[^\"'<]*)", plain):
        assert any(path.startswith(each) for each in allowed), path


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "<devices>",
            "<qemu:commandline><qemu:arg value='-x'/></qemu:commandline><devices>",
            "com",
        ),
        ("<devices>", "<qemu:override><qemu:device/></qemu:override><devices>", "override"),
        ("<devices>", "<launchSecurity type='sev'/><devices>", "launchSecurity"),
        ("<devices>", "<bootloader>/bin/sh</bootloader><devices>", "bootloader"),
        (
            "<devices>",
            "<memoryBacking><source type='file'/></memoryBacking><devices>",
            "memoryBacking",
        ),
        ("<serial>abc</serial>", "<shareable/>", "vda"),
        ("<serial>abc</serial>", "<transient/>", "vda"),
        ("<serial>abc</serial>", "<encryption format='luks'><secret/></encryption>", "vda"),
    ],
)
def test_what_cannot_be_made_here_is_refused(old: str, new: str, named: str) -> None:
    found = fatal(adapt(TYPICAL.replace(old, new, 1)))
    assert [reason for reason, _ in found] == ["VM_NOT_MOVABLE"]
    assert named in found[0][1]


@pytest.mark.parametrize("part", ["kernel", "initrd", "dtb"])
@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/boot/vmlinuz", True),
        ("/elsewhere/vmlinuz", True),
        ("vmlinuz", True),
        ("/etc/shadow", False),
        ("/srv/boot/..", False),
        ("..", False),
        ("", False),
        ("/srv/boot/vmlinuz/", True),
    ],
)
def test_a_machine_boots_only_files_that_the_host_offers(part: str, path: str, good: bool) -> None:
    xml = TYPICAL.replace("<boot dev", f"<{part}>{path}</{part}><boot dev")
    found = adapt(xml)
    assert bool(fatal(found)) != good
    if good:
        assert domain.tree(found.xml).findtext(f"os/{part}") == "/srv/boot/vmlinuz"
    else:
        assert fatal(found)[0][0] == "HOST_INCOMPATIBLE"


def test_firmware_is_the_hosts_own() -> None:
    xml = TYPICAL.replace("/usr/share/OVMF/OVMF_CODE_4M.fd", "/home/me/evil.fd")
    assert fatal(adapt(xml))[0][0] == "HOST_INCOMPATIBLE"
    assert "evil" not in adapt(xml).xml
    root = domain.tree(adapt(TYPICAL, replace(TARGET, nvram=True)).xml)
    assert root.find("os/nvram") is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<interface type='network'><source network='wan'/></interface>", ("network", "outside")),
        ("<interface type='bridge'><source bridge='lan'/></interface>", ("bridge", "br7")),
        ("<interface type='direct'><source dev='lan' mode='vepa'/></interface>", ("bridge", "br7")),
        ("<interface type='bridge'><source bridge='br7'/></interface>", None),
        ("<interface type='user'/>", None),
        ("<interface type='network'><source network='../x'/></interface>", None),
    ],
)
def test_a_network_has_the_counterpart_that_the_operator_named(
    source: str, expected: tuple[str, str] | None
) -> None:
    found = adapt(device(source))
    if expected is None:
        assert [reason for reason, _ in fatal(found)] == ["NETWORK_UNKNOWN"]
        anywhere = replace(TARGET, networks={"*": "network:guests", "lan": "bridge:br7"})
        assert fatal(adapt(device(source), anywhere)) == []
        return
    assert fatal(found) == []
    interface = domain.tree(found.xml).findall("devices/interface")[-1]
    assert interface.get("type") == expected[0]
    assert interface.find("source").attrib == dict([expected])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "offered", "memory", "becomes"),
    [
        ("kvm", ("kvm", "qemu"), True, "kvm"),
        ("qemu", ("kvm", "qemu"), True, "qemu"),
        ("kvm", ("qemu",), False, "qemu"),
        ("kvm", ("qemu",), True, None),
        ("xen", ("kvm", "qemu"), False, None),
        ("kvm", ("xen",), False, None),
        ("lxc", ("kvm", "qemu"), False, None),
        ("xen", ("xen",), False, "xen"),
    ],
)
def test_the_hypervisor_must_be_of_the_same_kind(
    kind: str, offered: tuple[str, ...], memory: bool, becomes: str | None
) -> None:
    xml = TYPICAL.replace("type='kvm'", f"type='{kind}'", 1)
    found = adapt(xml, replace(TARGET, virt_types=offered, memory=memory))
    if becomes is None:
        assert fatal(found)[0][0] == "HOST_INCOMPATIBLE"
    else:
        assert fatal(found) == []
        assert domain.tree(found.xml).get("type") == becomes


def test_an_emulator_is_named_only_by_the_operator() -> None:
    found = adapt(TYPICAL, replace(TARGET, emulator="/opt/qemu"))
    assert fatal(found) == []
    assert domain.tree(found.xml).findtext("devices/emulator") == "/opt/qemu"


@pytest.mark.parametrize("bad", ["", "<x/>", "<domain/>", "<!DOCTYPE d [<!ENTITY a SYSTEM '/x'>]>"])
def test_what_is_no_definition_is_refused(bad: str) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        adapt(bad)
    assert caught.value.reason == "VM_DEFINITION_INVALID"


def test_the_source_looks_at_devices_and_not_at_hosts() -> None:
    typical = TYPICAL.replace("<loader", "<kernel>/boot/x</kernel><loader")
    assert definition.obstacles(typical) == []
    moved = typical.replace("type='file' device='disk'", "type='network' device='disk'")
    assert [each.error.reason for each in definition.obstacles(moved)] == ["VM_NOT_MOVABLE"]
    assert definition.obstacles(device("<hostdev type='pci'/>"))
    notes = definition.in_the_way(snapshots=2, managed_save=True)
    assert [each.error.reason for each in notes] == ["VM_NOT_MOVABLE", "VM_NOT_MOVABLE"]
    assert definition.in_the_way(snapshots=0, managed_save=False) == []


def test_saved_state_is_read_from_the_definition() -> None:
    state = definition.state(TYPICAL, FOLDER)
    assert state.nvram == Path("/var/lib/libvirt/qemu/nvram/web.fd")
    assert state.tpm
    mib = 1 << 20
    assert state.memory_bytes == 2048 * mib + (64 + 64 + 16) * mib + 256 * mib
    bare = definition.state(TYPICAL.replace("emulator' version", "passthrough' version"), FOLDER)
    assert not bare.tpm
    chosen = re.sub("<nvram.*</nvram>", "", TYPICAL)
    assert definition.state(chosen, FOLDER).nvram == FOLDER / "web_VARS.fd"
    manual = chosen.replace("<os firmware='efi'>", "<os>")
    assert definition.state(manual, FOLDER).nvram is None


HOSTILE = {
    "text beside elements in a loader": (
        "<os><type>hvm</type><loader type='rom'><x/>/etc/shadow</loader></os>",
        "",
    ),
    "text after an element": ("<os><type>hvm</type></os><vcpu>1<x/>28</vcpu>", ""),
    "two sources of a medium": (
        "<os><type>hvm</type></os>",
        (
            "<disk type='file' device='cdrom'><source/><source file='etc/shadow'/>"
            "<target dev='sda' bus='sata'/></disk>"
        ),
    ),
    "two memories": ("<os><type>hvm</type></os><memory>1</memory>", ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_definition_that_two_readers_could_take_for_two_machines_is_refused(name: str) -> None:
    outside, inside = HOSTILE[name]
    xml = (
        "<domain type='qemu'><name>web</name><uuid>6f1f2d2e-0000-4000-8000-000000000001</uuid>"
        f"<memory>1048576</memory>{outside}<devices>{inside}</devices></domain>"
    )
    with pytest.raises(errors.FailedPrecondition, match="VM_DEFINITION_INVALID"):
        domain.parse(xml)


def test_memory_is_all_that_a_machine_can_come_to() -> None:
    xml = (
        "<domain type='qemu'><name>web</name><uuid>6f1f2d2e-0000-4000-8000-000000000001</uuid>"
        "<memory>1048576</memory><vcpu>1</vcpu><os><type>hvm</type></os>"
        "<cpu><numa><cell id='0' cpus='0' memory='1' unit='TiB'/></numa></cpu>"
        "<devices><memory model='dimm'><target><size unit='GiB'>2</size></target></memory>"
        "</devices></domain>"
    )
    assert domain.parse(xml).memory_bytes == (1 << 40) + (2 << 30)
    with pytest.raises(errors.FailedPrecondition, match="VM_DEFINITION_INVALID"):
        domain.parse(xml.replace("unit='TiB'", "unit='furlong'"))


def test_the_definition_inside_of_a_saved_memory_is_of_the_machine_that_was_admitted() -> None:
    xml = (
        "<domain type='qemu'><name>web</name><uuid>6f1f2d2e-0000-4000-8000-000000000001</uuid>"
        "<memory>1048576</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices/></domain>"
    )
    definition.require_same_machine(xml, xml)
    for larger in (
        xml.replace("<vcpu>1<", "<vcpu>64<"),
        xml.replace("1048576", "2097152"),
        xml.replace("<devices/>", "<devices><interface type='user'/></devices>"),
        xml.replace("000000000001", "000000000002"),
    ):
        with pytest.raises(errors.FailedPrecondition, match="VM_DEFINITION_INVALID"):
            definition.require_same_machine(larger, xml)
