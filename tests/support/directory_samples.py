"""Records and publications for the directory's tests."""

import uuid
from collections.abc import Iterable

from directory.records import Key, Put
from directory.stores import Publication
from watari.v1 import common_pb2, directory_pb2

GIB = 2**30


def new_id() -> str:
    return str(uuid.uuid4())


def key(kind: int, cloud_id: str = "tokyo", name: str = "main") -> directory_pb2.RecordKey:
    return Key(kind, cloud_id, name).to_proto()


def cloud(cloud_id: str = "tokyo", domain: str = "tokyo.example") -> directory_pb2.Record:
    return directory_pb2.Record(
        key=key(directory_pb2.RECORD_KIND_CLOUD, cloud_id),
        cloud=directory_pb2.Cloud(
            provider_domain=domain,
            display_name="Tokyo Cloud",
            jurisdiction="JP",
            regions=["jp-east", "jp-west"],
            manager=common_pb2.Endpoint(
                address="manager.tokyo.example:7442", spiffe_id=f"spiffe://{domain}/manager/main"
            ),
            capabilities=["mode:cold", "format:raw"],
            taints=["draining"],
        ),
        labels={"tier": "gold"},
        scores={"reliability": 0.9},
    )


def capacity(
    cloud_id: str = "tokyo", name: str = "jp-east", vcpus: int = 8, region: str = "jp-east"
) -> directory_pb2.Record:
    return directory_pb2.Record(
        key=key(directory_pb2.RECORD_KIND_CAPACITY, cloud_id, name),
        capacity=directory_pb2.Capacity(
            region=region,
            total=common_pb2.Resources(vcpus=64, memory_bytes=256 * GIB, disk_bytes=4096 * GIB),
            free=common_pb2.Resources(
                vcpus=vcpus, memory_bytes=4 * GIB, disk_bytes=100 * GIB, other={"gpu": 2}
            ),
        ),
    )


def offer(cloud_id: str = "tokyo", name: str = "standard") -> directory_pb2.Record:
    prices = directory_pb2.PriceSheet(
        version=3,
        vcpu_hour=common_pb2.Money(currency_code="JPY", units=4, nanos=500_000_000),
        egress_gib=common_pb2.Money(currency_code="JPY", units=0, nanos=0),
    )
    return directory_pb2.Record(
        key=key(directory_pb2.RECORD_KIND_OFFER, cloud_id, name),
        offer=directory_pb2.Offer(region="jp-east", prices=prices, traits=["ssd"]),
    )


def put(record: directory_pb2.Record, expected_generation: int = 0) -> Put:
    return Put(Key.of(record.key), record, expected_generation)


def publication(
    lease_id: str,
    records: Iterable[directory_pb2.Record] = (),
    deletes: Iterable[Key] = (),
    *,
    owner: str = "tokyo.example",
    request_id: str = "",
    digest: bytes = b"digest",
    expected_generation: int = 0,
) -> Publication:
    return Publication(
        request_id=request_id or new_id(),
        digest=digest,
        lease_id=lease_id,
        owner=owner,
        puts=tuple(put(record, expected_generation) for record in records),
        deletes=tuple(deletes),
    )
