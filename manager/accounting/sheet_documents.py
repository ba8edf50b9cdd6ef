"""Price sheets in writing: TOML, JSON, and the manager's simple price settings."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from manager.accounting import exact, periods
from manager.accounting.price_sheet import Component, Discount, Measure, PriceSheet, Tax, Tier
from manager.settings.accounts import PriceSettings
from watari import validate

DOCUMENT_CHARS_MAX = 4 * 1024 * 1024
"""Longest document that is read."""

_SHEET = {"version", "currency", "effective_from", "components", "discounts", "taxes"}
_COMPONENT = {
    "name",
    "measure",
    "unit",
    "resource",
    "price",
    "tiers",
    "granularity_seconds",
    "minimum_seconds",
}


def from_toml(text: str) -> PriceSheet:
    """The sheet of a TOML document. Raises InvalidArgument INVALID_FIELD."""
    validate.require_range(len(text), "document", 1, DOCUMENT_CHARS_MAX)
    try:
        return from_mapping(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise validate.invalid_field(
            "document", str(error), "TOML, as in docs/accounting.md"
        ) from None


def from_json(text: str) -> PriceSheet:
    """The sheet of a JSON document: `to_json`'s, or one like the TOML. Raises as `from_toml`."""
    validate.require_range(len(text), "document", 1, DOCUMENT_CHARS_MAX)
    try:
        return from_mapping(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise validate.invalid_field("document", str(error), "a JSON object") from None


def to_json(sheet: PriceSheet) -> str:
    """The sheet's canonical document: equal sheets have equal ones."""
    document = {
        "version": sheet.version,
        "currency": sheet.currency,
        "effective_from": periods.rfc3339(sheet.effective_from),
        "components": [
            {
                "name": each.name,
                "measure": each.measure.value,
                "unit": each.unit,
                "resource": each.resource,
                "granularity_seconds": each.granularity_seconds,
                "minimum_seconds": each.minimum_seconds,
                "tiers": [
                    {"price": exact.text(tier.price_nanos)}
                    | ({} if tier.up_to is None else {"up_to": tier.up_to})
                    for tier in each.tiers
                ],
            }
            for each in sheet.components
        ],
        "discounts": [
            {"payer": each.payer, "component": each.component, "percent": _percent(each.percent)}
            for each in sheet.discounts
        ],
        "taxes": [{"name": each.name, "percent": _percent(each.percent)} for each in sheet.taxes],
    }
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def from_settings(prices: PriceSettings, effective_from: int = 0) -> PriceSheet:
    """The simple sheet as components; the accounting charges what `manager.prices` estimates.

    Raises InvalidArgument INVALID_FIELD for an amount that is none.
    """

    def flat(name: str, measure: Measure, unit: str, price: str, resource: str = "") -> Component:
        nanos = exact.scaled(price, exact.NANOS, f"prices.{name}")
        return Component(name, measure, unit, (Tier(nanos),), resource)

    return PriceSheet(
        version=prices.version,
        currency=prices.currency,
        effective_from=effective_from,
        components=(
            flat("vcpu", Measure.RUNNING, "vCPU-hour", prices.vcpu_hour, "vcpus"),
            flat("memory", Measure.RUNNING, "GiB-hour", prices.memory_gib_hour, "memory_bytes"),
            flat("disk", Measure.HELD, "GiB-month", prices.disk_gib_month, "disk_bytes"),
            flat("egress", Measure.SENT, "GiB", prices.egress_gib),
            flat("migration-in", Measure.ARRIVALS, "migration", prices.migration_flat),
            flat("migration-out", Measure.DEPARTURES, "migration", prices.migration_flat),
        ),
    )


def from_mapping(document: Mapping[str, Any]) -> PriceSheet:
    """The sheet of a document that was parsed. Raises InvalidArgument INVALID_FIELD."""
    document = _object(document, "document", _SHEET)
    return PriceSheet(
        version=_whole(document, "version", 0),
        currency=_text(document, "currency"),
        effective_from=_instant(document.get("effective_from")),
        components=tuple(map(_component, _list(document, "components"))),
        discounts=tuple(map(_discount, _list(document, "discounts"))),
        taxes=tuple(map(_tax, _list(document, "taxes"))),
    )


def _component(entry: object) -> Component:
    fields = _object(entry, "components", _COMPONENT)
    name = _text(fields, "name")
    try:
        measure = Measure(_text(fields, "measure"))
    except ValueError:
        allowed = ", ".join(each.value for each in Measure)
        raise validate.invalid_field(
            f"components.{name}.measure", f"{fields.get('measure')!r}", f"one of {allowed}"
        ) from None
    if ("price" in fields) == ("tiers" in fields):
        raise validate.invalid_field(
            f"components.{name}", "has no price, or two", "either price or tiers"
        )
    tiers = _list(fields, "tiers") if "tiers" in fields else [{"price": fields["price"]}]
    return Component(
        name=name,
        measure=measure,
        unit=_text(fields, "unit"),
        tiers=tuple(_tier(each, name) for each in tiers),
        resource=_text(fields, "resource"),
        granularity_seconds=_whole(fields, "granularity_seconds", 1),
        minimum_seconds=_whole(fields, "minimum_seconds", 0),
    )


def _tier(entry: object, name: str) -> Tier:
    fields = _object(entry, f"components.{name}.tiers", {"price", "up_to"})
    price = exact.scaled(fields.get("price"), exact.NANOS, f"components.{name}.price")
    return Tier(price, _whole(fields, "up_to", 0) if "up_to" in fields else None)


def _discount(entry: object) -> Discount:
    fields = _object(entry, "discounts", {"payer", "component", "percent"})
    percent = exact.scaled(fields.get("percent"), exact.PERCENT_SCALE, "discounts.percent")
    return Discount(_text(fields, "payer"), percent, _text(fields, "component"))


def _tax(entry: object) -> Tax:
    fields = _object(entry, "taxes", {"name", "percent"})
    percent = exact.scaled(fields.get("percent"), exact.PERCENT_SCALE, "taxes.percent")
    return Tax(_text(fields, "name"), percent)


def _percent(percent: int) -> str:
    return exact.text(percent, exact.PERCENT_SCALE)


def _object(value: object, field: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise validate.invalid_field(field, "is no table", "names and values")
    unknown = sorted(str(name) for name in set(value) - known)
    if unknown:
        raise validate.invalid_field(
            field, f"{unknown[0]!r} is not known", f"one of {', '.join(sorted(known))}"
        )
    return value


def _list(fields: Mapping[str, Any], name: str) -> Sequence[object]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise validate.invalid_field(name, "is no list", "a list of tables")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise validate.invalid_field(name, f"{value!r} is no text", "text in quotes")
    return validate.require_text(value, name, bytes_max=256)


def _whole(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int:
        raise validate.invalid_field(name, f"{value!r} is no whole number", "digits only")
    return value


def _instant(value: object) -> int:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, datetime) or found.tzinfo is None:
        raise validate.invalid_field(
            "effective_from", f"{value!r} is no instant", "as in 2026-03-01T00:00:00Z"
        )
    return periods.micros(found)
