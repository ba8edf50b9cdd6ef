"""What may be published: keys, records and whole publications, checked without I/O.

A record that passed these checks is safe to store, to filter and to show on a terminal.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from watari import errors, money, validate
from watari.identity import SpiffeId
from watari.v1 import common_pb2, directory_pb2

LABELS_MAX = 64
"""Labels of a record (the contract's limit)."""

LABEL_BYTES_MAX = 128
"""Bytes of a label's name, of its value, and of a score's name."""

SCORES_MAX = 32
"""Scores of a record (the contract's limit)."""

ENTRIES_MAX = 256
"""Entries of any other repeated or map field, such as regions, traits or taints."""

TEXT_BYTES_MAX = 512
"""Bytes of any other text in a record."""

RECORD_BYTES_MAX = 64 * 1024
"""Serialized size of one record, so that a page or a change never outgrows a message."""

PUBLIC_ROOT_BYTES = 32
"""Size of a Merkle root."""

CLOUD_RECORD_NAME = "main"
"""The name of the one CLOUD record of a cloud."""

_KIND_PREFIX = "RECORD_KIND_"
KINDS: dict[str, int] = {
    name.removeprefix(_KIND_PREFIX): number
    for name, number in directory_pb2.RecordKind.items()
    if number != directory_pb2.RECORD_KIND_UNSPECIFIED
}
"""Kinds by their short names, as filters and messages spell them."""

_KIND_NAMES = {number: name for name, number in KINDS.items()}


class Key(NamedTuple):
    """A record's key as a value; its order is the order of queries."""

    kind: int
    cloud_id: str
    name: str

    def __str__(self) -> str:
        return f"{_KIND_NAMES.get(self.kind, self.kind)} {self.cloud_id}/{self.name}"

    @classmethod
    def of(cls, proto: directory_pb2.RecordKey) -> "Key":
        """From a message that was checked before."""
        return cls(proto.kind, proto.cloud_id, proto.name)

    def to_proto(self) -> directory_pb2.RecordKey:
        """The key as the contract has it."""
        kind = directory_pb2.RecordKind.ValueType(self.kind)
        return directory_pb2.RecordKey(kind=kind, cloud_id=self.cloud_id, name=self.name)


@dataclass(frozen=True)
class Put:
    """One record to write."""

    key: Key
    record: directory_pb2.Record
    """Without the fields that the directory sets. Never changed by whoever gets it."""

    expected_generation: int
    """Generation that it must have now; 0 is "any", -1 "must not exist"."""


def kind_name(kind: int) -> str:
    """Such as "OFFER"."""
    return _KIND_NAMES[kind]


def key_of(proto: directory_pb2.RecordKey, field: str) -> Key:
    """The key, checked. Raises InvalidArgument INVALID_FIELD."""
    require_kind(proto.kind, f"{field}.kind")
    validate.require_cloud_id(proto.cloud_id, f"{field}.cloud_id")
    validate.require_name(proto.name, f"{field}.name")
    return Key(proto.kind, proto.cloud_id, proto.name)


def require_kind(kind: int, field: str) -> int:
    """A kind that this release knows. Raises InvalidArgument INVALID_FIELD."""
    if kind not in _KIND_NAMES:
        raise validate.invalid_field(
            field, f"{kind} is not a kind of record", f"one of {', '.join(KINDS)}"
        )
    return kind


def put_of(proto: directory_pb2.RecordPut, owner: str, field: str) -> Put:
    """The put, checked, as `owner` (a provider's domain) may write it.

    Raises InvalidArgument INVALID_FIELD.
    """
    if proto.expected_generation < -1:
        raise validate.invalid_field(
            f"{field}.expected_generation", f"{proto.expected_generation}", "-1, 0 or a generation"
        )
    record = directory_pb2.Record()
    record.CopyFrom(proto.record)
    for name in ("generation", "revision", "updated_at", "stale"):
        record.ClearField(name)
    return Put(check_record(record, owner, f"{field}.record"), record, proto.expected_generation)


def check_record(record: directory_pb2.Record, owner: str, field: str) -> Key:
    """Checks a whole record and returns its key. Raises InvalidArgument INVALID_FIELD."""
    size = record.ByteSize()
    if size > RECORD_BYTES_MAX:
        raise validate.invalid_field(
            field, f"the record has {size} bytes", f"at most {RECORD_BYTES_MAX}"
        )
    key = key_of(record.key, f"{field}.key")
    expected = kind_name(key.kind).lower()
    body = record.WhichOneof("body")
    if body != expected:
        raise validate.invalid_field(
            field, f"the body is {body or 'missing'}, the key's kind {expected}", f"set {expected}"
        )
    if body == "cloud" and key.name != CLOUD_RECORD_NAME:
        raise validate.invalid_field(
            f"{field}.key.name", f"{key.name!r}", f"a cloud's record is named {CLOUD_RECORD_NAME}"
        )
    _check_labels(record, field)
    _check_texts(record, field)
    _BODY_CHECKS[expected](getattr(record, body), owner, f"{field}.{body}")
    return key


def _check_labels(record: directory_pb2.Record, field: str) -> None:
    validate.require_count(len(record.labels), f"{field}.labels", LABELS_MAX)
    validate.require_count(len(record.scores), f"{field}.scores", SCORES_MAX)
    for name, value in record.labels.items():
        _label_text(name, f"{field}.labels", empty=False)
        _label_text(value, f"{field}.labels")
    for name, score in record.scores.items():
        _label_text(name, f"{field}.scores", empty=False)
        if not math.isfinite(score):
            raise validate.invalid_field(
                f"{field}.scores", f"{name} is {score}", "scores are finite numbers"
            )


def _label_text(text: str, field: str, *, empty: bool = True) -> None:
    validate.require_text(text, field, bytes_max=LABEL_BYTES_MAX, empty=empty)


def _check_texts(message: Message, field: str) -> None:
    """No text anywhere in it is overlong or can forge terminal output; no list is overlong."""
    for descriptor, value in message.ListFields():
        inner = f"{field}.{descriptor.name}"
        for part in _parts(descriptor, value, inner):
            if isinstance(part, Message):
                _check_texts(part, inner)
            elif isinstance(part, str):
                validate.require_text(part, inner, bytes_max=TEXT_BYTES_MAX)


def _parts(descriptor: FieldDescriptor, value: Any, field: str) -> Iterable[object]:
    if not descriptor.is_repeated:
        return (value,)
    validate.require_count(len(value), field, ENTRIES_MAX)
    return [*value, *value.values()] if hasattr(value, "values") else value


def _check_cloud(cloud: directory_pb2.Cloud, owner: str, field: str) -> None:
    if cloud.provider_domain != owner:
        raise validate.invalid_field(
            f"{field}.provider_domain",
            f"{cloud.provider_domain!r} is not the publisher's domain",
            f"set it to {owner}, which your certificate carries",
        )
    validate.require_address(cloud.manager.address, f"{field}.manager.address")
    _require_manager_of(owner, cloud.manager.spiffe_id, f"{field}.manager.spiffe_id")
    code = cloud.jurisdiction
    if code and not (len(code) == 2 and code.isascii() and code.isalpha() and code.isupper()):
        raise validate.invalid_field(
            f"{field}.jurisdiction", f"{code!r}", "two upper-case letters of ISO 3166-1"
        )


def _require_manager_of(owner: str, text: str, field: str) -> None:
    """Otherwise a provider could send the calls for its cloud to another one's servers."""
    try:
        identity = SpiffeId.parse(text)
    except errors.WatariError as error:
        raise validate.invalid_field(field, error.message, error.hint) from error
    if (identity.domain, identity.role) != (owner, "manager"):
        raise validate.invalid_field(
            field, f"{text!r} is no manager of {owner}", f"spiffe://{owner}/manager/<name>"
        )


def _check_offer(offer: directory_pb2.Offer, _owner: str, field: str) -> None:
    prices = (value for _, value in offer.prices.ListFields())
    amounts = [price for price in prices if isinstance(price, common_pb2.Money)]
    _check_money(amounts, f"{field}.prices")


def _check_link(link: directory_pb2.Link, _owner: str, field: str) -> None:
    validate.require_cloud_id(link.to_cloud_id, f"{field}.to_cloud_id")
    if not (math.isfinite(link.rtt_ms) and link.rtt_ms >= 0):
        raise validate.invalid_field(f"{field}.rtt_ms", f"{link.rtt_ms}", "milliseconds, 0 or more")
    if link.HasField("price_gib"):
        _check_money([link.price_gib], f"{field}.price_gib")


def _check_image(image: directory_pb2.ImageSummary, _owner: str, field: str) -> None:
    if len(image.public_root) not in {0, PUBLIC_ROOT_BYTES}:
        raise validate.invalid_field(
            f"{field}.public_root",
            f"{len(image.public_root)} bytes",
            f"{PUBLIC_ROOT_BYTES} bytes, or none for a private image",
        )


def _check_money(amounts: list[common_pb2.Money], field: str) -> None:
    try:
        for amount in amounts:
            money.to_decimal(amount)
    except errors.InvalidArgument as error:
        raise validate.invalid_field(field, error.message, "see Money in the contract") from error
    if len({amount.currency_code for amount in amounts}) > 1:
        raise validate.invalid_field(field, "several currencies", "one currency in a price sheet")


def _check_capacity(capacity: directory_pb2.Capacity, _owner: str, field: str) -> None:
    for at, inventory in enumerate(capacity.inventories):
        inner = f"{field}.inventories[{at}]"
        if not (math.isfinite(inventory.allocation_ratio) and inventory.allocation_ratio > 0):
            raise validate.invalid_field(
                f"{inner}.allocation_ratio", f"{inventory.allocation_ratio}", "more than 0"
            )
        if inventory.reserved > inventory.total:
            raise validate.invalid_field(
                f"{inner}.reserved", f"{inventory.reserved} of {inventory.total}", "at most total"
            )
        if 0 < inventory.max_unit < inventory.min_unit:
            raise validate.invalid_field(
                f"{inner}.max_unit", f"{inventory.max_unit}", "at least min_unit, or 0"
            )


def _check_nothing_more(_body: Message, _owner: str, _field: str) -> None:
    """HOST: any numbers and texts within the general limits are meaningful."""


_BODY_CHECKS: dict[str, Callable[[Any, str, str], None]] = {
    "cloud": _check_cloud,
    "host": _check_nothing_more,
    "offer": _check_offer,
    "capacity": _check_capacity,
    "image": _check_image,
    "link": _check_link,
}
