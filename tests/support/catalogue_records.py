"""Records of a catalogue as managers publish them, for tests of whoever reads them."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from watari import money
from watari.v1 import common_pb2, directory_pb2

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GIB = 1024**3


def resources(
    vcpus: int = 4, memory_gib: int = 8, disk_gib: int = 40, **other: int
) -> common_pb2.Resources:
    return common_pb2.Resources(
        vcpus=vcpus, memory_bytes=memory_gib * GIB, disk_bytes=disk_gib * GIB, other=other
    )


def cloud(
    cloud_id: str,
    *,
    domain: str = "",
    manager: str = "",
    address: str = "127.0.0.1:1",
    jurisdiction: str = "JP",
    taints: Iterable[str] = (),
    taint_ends: Mapping[str, datetime] | None = None,
    labels: Mapping[str, str] | None = None,
    stale: bool = False,
) -> directory_pb2.Record:
    domain = domain or f"{cloud_id}.internal"
    body = directory_pb2.Cloud(
        provider_domain=domain,
        display_name=cloud_id.title(),
        jurisdiction=jurisdiction,
        manager=common_pb2.Endpoint(
            address=address, spiffe_id=manager or f"spiffe://{domain}/manager/main"
        ),
        taints=taints,
    )
    for taint, end in (taint_ends or {}).items():
        body.taint_ends[taint].FromDatetime(end)
    return _record("CLOUD", cloud_id, "main", labels, stale, cloud=body)


def sheet(
    vcpu: str = "0.01", memory: str = "0.002", disk: str = "0.073", currency: str = "EUR"
) -> directory_pb2.PriceSheet:
    return directory_pb2.PriceSheet(
        version=3,
        vcpu_hour=money.from_decimal(Decimal(vcpu), currency),
        memory_gib_hour=money.from_decimal(Decimal(memory), currency),
        disk_gib_month=money.from_decimal(Decimal(disk), currency),
    )


def offer(
    cloud_id: str,
    name: str = "standard",
    *,
    region: str = "jp-east",
    prices: directory_pb2.PriceSheet | None = None,
    vm_max: common_pb2.Resources | None = None,
    traits: Iterable[str] = ("kvm", "ssd"),
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    stale: bool = False,
) -> directory_pb2.Record:
    body = directory_pb2.Offer(
        region=region, prices=prices or sheet(), vm_max=vm_max, traits=traits
    )
    if valid_from:
        body.valid_from.FromDatetime(valid_from)
    if valid_until:
        body.valid_until.FromDatetime(valid_until)
    return _record("OFFER", cloud_id, name, labels, stale, offer=body)


def capacity(
    cloud_id: str,
    *,
    region: str = "jp-east",
    total: common_pb2.Resources | None = None,
    free: common_pb2.Resources | None = None,
    largest_fit: common_pb2.Resources | None = None,
    stale: bool = False,
) -> directory_pb2.Record:
    total = total or resources(64, 256, 4000)
    free = free or total
    body = directory_pb2.Capacity(
        region=region, total=total, free=free, largest_fit=largest_fit or free
    )
    return _record("CAPACITY", cloud_id, region, None, stale, capacity=body)


def link(
    cloud_id: str,
    to_cloud_id: str,
    rtt_ms: float,
    *,
    measured_at: datetime = NOW,
    valid_until: datetime | None = None,
    stale: bool = False,
) -> directory_pb2.Record:
    body = directory_pb2.Link(to_cloud_id=to_cloud_id, rtt_ms=rtt_ms)
    body.measured_at.FromDatetime(measured_at)
    if valid_until:
        body.valid_until.FromDatetime(valid_until)
    return _record("LINK", cloud_id, to_cloud_id, None, stale, link=body)


def image(
    cloud_id: str, name: str, public_root: bytes = b"", *, stale: bool = False
) -> directory_pb2.Record:
    body = directory_pb2.ImageSummary(display_name=name, public_root=public_root)
    return _record("IMAGE", cloud_id, name, None, stale, image=body)


def _record(
    kind: str,
    cloud_id: str,
    name: str,
    labels: Mapping[str, str] | None,
    stale: bool,
    **body: object,
) -> directory_pb2.Record:
    key = directory_pb2.RecordKey(
        kind=directory_pb2.RecordKind.Value(f"RECORD_KIND_{kind}"), cloud_id=cloud_id, name=name
    )
    record = directory_pb2.Record(key=key, labels=labels or {}, stale=stale, **body)
    record.updated_at.FromDatetime(NOW)
    return record
