"""The fields that filters may name: how each is read from a record, and how its values are written.

The table is the whole list; docs/directory.md shows it, and a test keeps the two in step.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from directory import records
from watari import errors, money, units
from watari.v1 import common_pb2, directory_pb2

NUMBER_CHARS_MAX = 64
"""Longer numbers are refused before they are parsed."""

# No exponents: "1e999999999" would make arithmetic with it arbitrarily dear.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")

Value = str | bool | Decimal | tuple[str, ...]
"""What a field can be. Numbers are Decimal: prices compare exactly, and so do 63-bit sizes."""


class Type(Enum):
    """How a field compares, and how its value is written in a filter."""

    TEXT = "text"
    KIND = "kind"
    NUMBER = "number"
    BYTES = "bytes"
    BOOLEAN = "boolean"
    TEXTS = "texts"


@dataclass(frozen=True)
class Field:
    """One field: its type, and what it is in a record."""

    type: Type
    read: Callable[[directory_pb2.Record], Value | None]
    """None when the record has no such field: another kind, or not set."""


def find(name: str) -> Field | None:
    """The field of that name, or None. `labels.x` and `scores.x` exist for every x."""
    family, dot, rest = name.partition(".")
    if dot and rest and family == "labels":
        return Field(Type.TEXT, lambda record: record.labels.get(rest))
    if dot and rest and family == "scores":
        return Field(Type.NUMBER, lambda record: _score(record, rest))
    resource = _resource_field(name)
    return resource or FIELDS.get(name)


def known() -> list[str]:
    """Every name for messages, sorted; families as `labels.<name>`."""
    others = (f"{path}.other.<name>" for path in _RESOURCES)
    return sorted([*FIELDS, "labels.<name>", "scores.<name>", *others])


def parse_value(kind: Type, text: str) -> Value:
    """The value that `text` means for a field of that type. Raises ValueError, which says why."""
    if kind is Type.BOOLEAN:
        if text not in {"true", "false"}:
            raise ValueError("write true or false")
        return text == "true"
    if kind is Type.KIND:
        if text.upper() not in records.KINDS:
            raise ValueError(f"one of {', '.join(records.KINDS)}")
        return text.upper()
    if kind is Type.NUMBER or (kind is Type.BYTES and _NUMBER.fullmatch(text)):
        return _parse_number(text)
    if kind is Type.BYTES:
        try:
            return Decimal(units.parse_bytes(text))
        except errors.InvalidArgument as error:
            raise ValueError(error.hint) from error
    return text


def _parse_number(text: str) -> Decimal:
    if len(text) > NUMBER_CHARS_MAX or not _NUMBER.fullmatch(text):
        raise ValueError(f"write a decimal number of at most {NUMBER_CHARS_MAX} characters")
    return Decimal(text)


def _score(record: directory_pb2.Record, name: str) -> Decimal | None:
    # By its shortest decimal form, so that `scores.x = 0.9` holds for the double nearest to 0.9.
    return Decimal(repr(record.scores[name])) if name in record.scores else None


def _resource_field(name: str) -> Field | None:
    """`free.other.gpu` and its like: resource classes by name."""
    path, found, resource = name.partition(".other.")
    if not (found and resource and path in _RESOURCES):
        return None
    read = _RESOURCES[path]

    def other(record: directory_pb2.Record) -> Decimal | None:
        resources = read(record)
        if resources is None or resource not in resources.other:
            return None
        return Decimal(resources.other[resource])

    return Field(Type.NUMBER, other)


def _largest_fit(record: directory_pb2.Record) -> common_pb2.Resources | None:
    for body in (record.capacity, record.host):
        if body.HasField("largest_fit"):
            return body.largest_fit
    return None


_RESOURCES: dict[str, Callable[[directory_pb2.Record], common_pb2.Resources | None]] = {
    "free": lambda record: record.capacity.free if record.capacity.HasField("free") else None,
    "total": lambda record: record.capacity.total if record.capacity.HasField("total") else None,
    "largest_fit": _largest_fit,
    "vm_max": lambda record: record.offer.vm_max if record.offer.HasField("vm_max") else None,
}
_PRICES = ("vcpu_hour", "memory_gib_hour", "disk_gib_month", "egress_gib", "migration_flat")


def _amount(resource: str, part: str) -> Callable[[directory_pb2.Record], Decimal | None]:
    def read(record: directory_pb2.Record) -> Decimal | None:
        resources = _RESOURCES[resource](record)
        return None if resources is None else Decimal(getattr(resources, part))

    return read


def _price(name: str) -> Callable[[directory_pb2.Record], Decimal | None]:
    def read(record: directory_pb2.Record) -> Decimal | None:
        price = _prices(record).get(name)
        return None if price is None else money.to_decimal(price)

    return read


def _currency(record: directory_pb2.Record) -> str | None:
    return next((price.currency_code for price in _prices(record).values()), None)


def _prices(record: directory_pb2.Record) -> dict[str, common_pb2.Money]:
    """Those that are set: an unset price is unknown, not free."""
    set_fields = record.offer.prices.ListFields()
    return {field.name: value for field, value in set_fields if field.name in _PRICES}


def _link_price(record: directory_pb2.Record) -> Decimal | None:
    link = record.link
    return money.to_decimal(link.price_gib) if link.HasField("price_gib") else None


def _of_body(kind: Type, name: str, *bodies: str) -> Field:
    """The field `name` of the records whose body is one of `bodies`; an empty text is absent."""

    def read(record: directory_pb2.Record) -> Value | None:
        body = record.WhichOneof("body")
        if body not in bodies:
            return None
        value = getattr(getattr(record, body), name)
        if kind is Type.TEXTS:
            return tuple(value)
        if kind is Type.TEXT:
            return str(value) or None
        return Decimal(repr(value))

    return Field(kind, read)


def _names(read: Callable[[directory_pb2.Record], Iterable[str]]) -> Field:
    return Field(Type.TEXTS, lambda record: tuple(read(record)))


_TRAITS = _of_body(Type.TEXTS, "traits", "host", "offer")

FIELDS: dict[str, Field] = {
    "kind": Field(Type.KIND, lambda record: records.kind_name(record.key.kind)),
    "cloud": Field(Type.TEXT, lambda record: record.key.cloud_id),
    "name": Field(Type.TEXT, lambda record: record.key.name),
    "stale": Field(Type.BOOLEAN, lambda record: record.stale),
    "labels": _names(lambda record: record.labels),
    "scores": _names(lambda record: record.scores),
    "provider": _of_body(Type.TEXT, "provider_domain", "cloud"),
    "jurisdiction": _of_body(Type.TEXT, "jurisdiction", "cloud"),
    "regions": _of_body(Type.TEXTS, "regions", "cloud"),
    "capabilities": _of_body(Type.TEXTS, "capabilities", "cloud"),
    "taints": _of_body(Type.TEXTS, "taints", "cloud"),
    "region": _of_body(Type.TEXT, "region", "host", "offer", "capacity"),
    "traits": _TRAITS,
    "trait": _TRAITS,
    "display_name": _of_body(Type.TEXT, "display_name", "cloud", "image"),
    "format": _of_body(Type.TEXT, "format", "image"),
    "size_bytes": _of_body(Type.BYTES, "size_bytes", "image"),
    "allocated_bytes": _of_body(Type.BYTES, "allocated_bytes", "image"),
    "to_cloud": _of_body(Type.TEXT, "to_cloud_id", "link"),
    "rtt_ms": _of_body(Type.NUMBER, "rtt_ms", "link"),
    "throughput_bytes_per_second": _of_body(Type.BYTES, "throughput_bytes_per_second", "link"),
    "price_gib": Field(Type.NUMBER, _link_price),
    "prices.currency": Field(Type.TEXT, _currency),
    **{f"prices.{name}": Field(Type.NUMBER, _price(name)) for name in _PRICES},
    **{f"{path}.vcpus": Field(Type.NUMBER, _amount(path, "vcpus")) for path in _RESOURCES},
    **{
        f"{path}.{part}": Field(Type.BYTES, _amount(path, part))
        for path in _RESOURCES
        for part in ("memory_bytes", "disk_bytes")
    },
}
"""Every field of a fixed name."""
