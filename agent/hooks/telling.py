"""What a hook is told: functions of values. docs/hooks.md describes it field by field."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from agent.hooks.stages import Stage
from agent.hypervisors import Guest, Mode, domain
from watari import errors
from watari.v1 import common_pb2

VERSION = 1
"""Grows when a field is taken away or changes its meaning; new fields do not change it."""

INTERFACES_MAX = 64
"""Network interfaces that a hook is told of."""

ADDRESSES_MAX = 256
"""Addresses that a hook is told of."""

_NETWORKS = ("network", "bridge", "dev", "portgroup")


@dataclass(frozen=True)
class Interface:
    """A network interface as the machine's definition has it."""

    mac: str
    """Empty when the definition leaves it to the hypervisor."""

    type: str
    """Such as "network", "bridge", "user"."""

    network: str
    """The network, bridge or device that it is connected to; empty where the type has none."""


@dataclass(frozen=True)
class Document:
    """What is known of a machine and of its migration. `Hooks.run` adds the stage."""

    migration_id: str
    vm_id: str
    vm_name: str
    tenant: str
    cloud: str
    host: str
    peer_cloud: str
    mode: str
    epoch: int
    interfaces: tuple[Interface, ...]
    addresses: tuple[str, ...]

    def to_json(self, stage: Stage) -> bytes:
        """What stands on the hook's standard input."""
        told = {"version": VERSION, "stage": str(stage)} | asdict(self)
        return json.dumps(told, ensure_ascii=True, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, text: bytes) -> "Document":
        """What `to_json` has written; what a later release added is left out."""
        told = json.loads(text)
        own = {field.name: told[field.name] for field in fields(cls)}
        interfaces = tuple(Interface(**each) for each in own.pop("interfaces"))
        return cls(**own | {"interfaces": interfaces, "addresses": tuple(own["addresses"])})


def document(
    guest: Guest,
    *,
    migration_id: str,
    cloud: str,
    host: str,
    mode: Mode = common_pb2.MIGRATION_MODE_UNSPECIFIED,
    peer_cloud: str = "",
    epoch: int | None = None,
    addresses: Sequence[str] = (),
) -> Document:
    """What a hook is told of a machine. `epoch` is the machine's own unless another is given;
    `addresses` are IP addresses that the hypervisor knows of.
    """
    return Document(
        migration_id=migration_id,
        vm_id=guest.vm_id,
        vm_name=guest.name,
        tenant=guest.tenant,
        cloud=cloud,
        host=host,
        peer_cloud=peer_cloud,
        mode=_mode(mode),
        epoch=guest.epoch if epoch is None else epoch,
        interfaces=tuple(_interfaces(guest.definition_xml)),
        addresses=tuple(addresses[:ADDRESSES_MAX]),
    )


def _mode(mode: Mode) -> str:
    if mode == common_pb2.MIGRATION_MODE_UNSPECIFIED:
        return ""
    return common_pb2.MigrationMode.Name(mode).removeprefix("MIGRATION_MODE_").lower()


def _interfaces(definition_xml: str) -> Iterator[Interface]:
    """Those of a definition; none of one that cannot be read, about which the driver complains."""
    try:
        domain.parse(definition_xml)  # size, nesting and document type, before anything else
    except errors.WatariError:
        return
    elements = ET.fromstring(definition_xml).findall("devices/interface")  # noqa: S314 - checked
    for element in elements[:INTERFACES_MAX]:
        mac, source = element.find("mac"), element.find("source")
        attributes = {} if source is None else source.attrib
        yield Interface(
            mac="" if mac is None else mac.get("address", "").lower(),
            type=element.get("type", ""),
            network=next((attributes[each] for each in _NETWORKS if each in attributes), ""),
        )
