"""Messages of the contract as plain values: what `-o json` prints, and what tables are made of.

Field names are the contract's. Unlike protobuf's own JSON, integers stay numbers, enums are their
lower-case names without the prefix, bytes are hexadecimal, times are RFC 3339 text or null, spans
of time are seconds or null, money is `{"amount": "0.0412", "currency": "EUR"}`, and a signed
document is shown as the message inside it with who signed it (not checked here: the servers did).
"""

import re
from datetime import UTC
from decimal import Decimal
from typing import Any

from cryptography import x509
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from watari.v1 import common_pb2, manager_pb2

_Field = Any  # a field descriptor, whose class differs between protobuf's implementations

_PAYLOADS: dict[str, type[Message]] = {
    "receipt": common_pb2.Receipt,
    "quote": manager_pb2.Quote,
}
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def plain(message: Message) -> dict[str, Any]:
    """The message as a dict with every field of its type, set or not, in the contract's order.

    Fields that are messages and not set are None.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def enum_name(descriptor: EnumDescriptor, number: int) -> str:
    """Such as "handed_over" for MIGRATION_STATE_HANDED_OVER; "7" for a number not known here."""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = _WORD_START.sub("_", descriptor.name).upper() + "_"
    return value.name.removeprefix(prefix).lower()


def timestamp(value: Timestamp) -> str:
    """RFC 3339 text in UTC with milliseconds."""
    text = value.ToDatetime(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _field(message: Message, field: _Field) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {key: _value(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: _Field, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    match value:
        case bytes():
            return value.hex()
        case Timestamp():
            return timestamp(value)
        case Duration():
            return value.ToNanoseconds() / 1_000_000_000
        case common_pb2.Money():
            # Not checked: what a peer publishes wrongly must not hide what others publish.
            amount = value.units + Decimal(value.nanos).scaleb(-9)
            return {"amount": f"{amount:f}", "currency": value.currency_code}
        case common_pb2.SignedDocument():
            return _document(value)
        case Message():
            return plain(value)
    return value


def _document(document: common_pb2.SignedDocument) -> dict[str, Any]:
    shown: dict[str, Any] = {"purpose": document.purpose, "signed_by": _signer(document)}
    kind = _PAYLOADS.get(document.purpose)
    if kind is None:
        return shown
    try:
        return shown | plain(kind.FromString(document.payload))
    except DecodeError:
        return shown | {"unreadable": True}


def _signer(document: common_pb2.SignedDocument) -> str | None:
    """The URI name in the leaf certificate; None when there is none that can be read."""
    try:
        leaf = x509.load_der_x509_certificate(document.certificates[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (IndexError, ValueError, x509.ExtensionNotFound):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None
