"""What the directory is told of this cloud: records as a function of settings and inventory.

Coarse on purpose: amounts are rounded down, so that a record changes when it matters to somebody
who chooses a cloud, and not with every machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manager import inventory, prices, tainting
from manager.accounting.price_sheet import PriceSheet
from manager.inventory import Amounts, HostView
from manager.settings import Settings
from watari.v1 import common_pb2, directory_pb2

MEMORY_STEP_BYTES = 256 * 1024 * 1024
DISK_STEP_BYTES = 1024 * 1024 * 1024

PUBLISH_RECORDS_MAX = 1000
PUBLISH_BYTES_MAX = 1000 * 1000
"""The directory's limits of one publish, with room for the rest of the request."""

PUT_OVERHEAD_BYTES = 16
"""Of a record in a request."""

_STEPS = {inventory.MEMORY: MEMORY_STEP_BYTES, inventory.DISK: DISK_STEP_BYTES}


def records(
    settings: Settings,
    provider_domain: str,
    manager: common_pb2.Endpoint,
    hosts: Sequence[HostView],
    traits: Mapping[str, Sequence[str]],
    authorities: Sequence[bytes] = (),
    *,
    sheet: PriceSheet,
) -> list[directory_pb2.Record]:
    """The cloud, its offer, its capacity and its hosts; `traits` are the hosts' own, `authorities`
    the provider's certificate authorities, DER, `sheet` the price sheet in effect.
    """
    common = sorted({*settings.traits, *(trait for each in traits.values() for trait in each)})
    found = [
        _record(settings, directory_pb2.RECORD_KIND_CLOUD, "main"),
        _record(settings, directory_pb2.RECORD_KIND_OFFER, settings.region),
        _record(settings, directory_pb2.RECORD_KIND_CAPACITY, settings.region),
    ]
    found[0].cloud.CopyFrom(_cloud(settings, provider_domain, manager, common))
    found[0].cloud.ca_certificates.extend(authorities)
    found[1].offer.CopyFrom(_offer(settings, hosts, common, sheet))
    found[2].capacity.CopyFrom(_capacity(settings, hosts))
    for host in hosts:
        record = _record(settings, directory_pb2.RECORD_KIND_HOST, host.host_id)
        fit = inventory.largest_fit([host])
        record.host.region = settings.region
        record.host.traits.extend(sorted(traits.get(host.host_id, ())))
        record.host.largest_fit.CopyFrom(_coarse(fit))
        found.append(record)
    return found


@dataclass(frozen=True)
class Batch:
    """What one publish may have."""

    puts: Sequence[directory_pb2.Record]
    deletes: Sequence[directory_pb2.RecordKey]


def batches(
    puts: Sequence[directory_pb2.Record], deletes: Sequence[directory_pb2.RecordKey]
) -> list[Batch]:
    """A change cut into publishes within the directory's limits; one, unless it is very large.

    Deletions come last, and the cloud's own record after all others that are put: without it nobody
    uses them, so that a cloud which is new appears as a whole.
    """
    ordered = sorted(puts, key=lambda record: record.key.kind == directory_pb2.RECORD_KIND_CLOUD)
    found: list[Batch] = []
    part: list[directory_pb2.Record] = []
    size = 0
    for record in ordered:
        size += record.ByteSize() + PUT_OVERHEAD_BYTES
        if part and (len(part) == PUBLISH_RECORDS_MAX or size > PUBLISH_BYTES_MAX):
            found.append(Batch(part, ()))
            part, size = [], record.ByteSize() + PUT_OVERHEAD_BYTES
        part.append(record)
    room = PUBLISH_RECORDS_MAX - len(part)
    small = sum(key.ByteSize() + PUT_OVERHEAD_BYTES for key in deletes[:room])
    first = deletes[:room] if size + small <= PUBLISH_BYTES_MAX else deletes[:0]
    found.append(Batch(part, first))
    rest = deletes[len(first) :]
    found += [
        Batch((), rest[at : at + PUBLISH_RECORDS_MAX])
        for at in range(0, len(rest), PUBLISH_RECORDS_MAX)
    ]
    return [batch for batch in found if batch.puts or batch.deletes]


def _record(
    settings: Settings, kind: directory_pb2.RecordKind.ValueType, name: str
) -> directory_pb2.Record:
    key = directory_pb2.RecordKey(kind=kind, cloud_id=settings.cloud_id, name=name)
    return directory_pb2.Record(key=key, labels=settings.labels)


def _cloud(
    settings: Settings,
    provider_domain: str,
    manager: common_pb2.Endpoint,
    traits: Sequence[str],
) -> directory_pb2.Cloud:
    drivers = [trait for trait in traits if trait.startswith("driver:")]
    cloud = directory_pb2.Cloud(
        provider_domain=provider_domain,
        display_name=settings.display_name or settings.cloud_id,
        jurisdiction=settings.jurisdiction,
        regions=[settings.region],
        manager=manager,
        capabilities=["mode:cold", *drivers],
        taints=settings.taints,
    )
    for taint, moment in tainting.ends(settings.taints, settings.taint_ends).items():
        cloud.taint_ends[taint].FromDatetime(moment)
    return cloud


def _offer(
    settings: Settings, hosts: Sequence[HostView], traits: Sequence[str], sheet: PriceSheet
) -> directory_pb2.Offer:
    capacities = [host.capacity for host in hosts]
    largest = max(capacities, key=lambda each: each.get(inventory.MEMORY, 0), default={})
    return directory_pb2.Offer(
        region=settings.region,
        prices=prices.message(sheet),
        vm_max=_coarse(largest),
        traits=traits,
    )


def _capacity(settings: Settings, hosts: Sequence[HostView]) -> directory_pb2.Capacity:
    reachable = [host for host in hosts if host.reachable]
    return directory_pb2.Capacity(
        region=settings.region,
        total=_coarse(inventory.total(host.capacity for host in hosts)),
        free=_coarse(inventory.total(host.free for host in reachable)),
        largest_fit=_coarse(inventory.largest_fit(reachable)),
        inventories=_inventories(hosts),
    )


def _inventories(hosts: Sequence[HostView]) -> list[directory_pb2.ResourceInventory]:
    """By resource class, over all hosts. The ratio is what follows from the hosts' own ones."""
    found = []
    for name in sorted({name for host in hosts for name in host.total}):
        total = sum(host.total.get(name, 0) for host in hosts)
        reserved = sum(min(host.reserved.get(name, 0), host.total.get(name, 0)) for host in hosts)
        capacities = [host.capacity.get(name, 0) for host in hosts]
        left = total - reserved
        found.append(
            directory_pb2.ResourceInventory(
                resource_class=name,
                total=total,
                reserved=reserved,
                min_unit=1,
                max_unit=max(capacities),
                step_size=1,
                allocation_ratio=round(sum(capacities) / left, 3) if sum(capacities) else 1.0,
            )
        )
    return found


def _coarse(amounts: Amounts) -> common_pb2.Resources:
    rounded = {
        name: amount - amount % _STEPS.get(name, 1)
        for name, amount in amounts.items()
        if name != inventory.STORAGE
    }
    return inventory.to_resources(rounded)
