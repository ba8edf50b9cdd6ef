"""The options that say what a machine needs and where it may be."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from watari import errors, money, units
from watari.v1 import broker_pb2, common_pb2

_PANEL = "Constraints"
_WEIGHTS = tuple(broker_pb2.Weights.DESCRIPTOR.fields_by_name)

_Texts = list[str] | None


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class Constraints:
    """What must hold of a destination, and what makes one better. Lists are options to repeat."""

    clouds: Annotated[_Texts, _option("--cloud", "CLOUD", "Only this cloud.")] = None
    excluded: Annotated[_Texts, _option("--exclude", "CLOUD", "Not this cloud.")] = None
    regions: Annotated[_Texts, _option("--region", "REGION", "Only this region.")] = None
    jurisdictions: Annotated[
        _Texts,
        _option("--jurisdiction", "CODE", "Only under this law (ISO 3166, such as JP)."),
    ] = None
    traits: Annotated[_Texts, _option("--trait", "TRAIT", "Only with this trait (cpu:avx2).")] = (
        None
    )
    forbidden: Annotated[_Texts, _option("--forbid-trait", "TRAIT", "Not with this trait.")] = None
    labels: Annotated[
        _Texts, _option("--label", "KEY=VALUE", "Only with this label (tier=gold).")
    ] = None
    price_max: Annotated[
        str, _option("--price-max", "AMOUNT", "At most this much an hour (12.5 JPY).")
    ] = ""
    rtt_max: Annotated[
        str, _option("--rtt-max", "TIME", "At most this round trip from the source (80ms).")
    ] = ""
    preferred: Annotated[
        _Texts, _option("--prefer", "REGION", "Prefer this region; the first is best.")
    ] = None
    any_traits: Annotated[
        _Texts, _option("--any-trait", "A|B", "Only with one of these traits (gpu:a100|gpu:l4).")
    ] = None
    residency: Annotated[
        _Texts,
        _option(
            "--residency", "CODE", "Data only under this law: there, at the source, in copies."
        ),
    ] = None
    copies: Annotated[
        _Texts, _option("--copy-in", "CLOUD", "This cloud holds copies of the machine's data.")
    ] = None
    budget: Annotated[
        str, _option("--budget", "AMOUNT/TIME", "At most this much for so long (40 EUR/30d).")
    ] = ""
    near: Annotated[
        _Texts, _option("--near", "CLOUD=TIME", "At most this round trip to a cloud (tokyo=20ms).")
    ] = None
    throughput: Annotated[
        _Texts,
        _option("--throughput", "CLOUD=SIZE", "At least so much a second to it (tokyo=50MB)."),
    ] = None
    images: Annotated[
        _Texts, _option("--image", "NAME", "Better where this image is; weight it with data=...")
    ] = None
    required_images: Annotated[
        _Texts, _option("--require-image", "NAME", "Only where this image is.")
    ] = None
    providers: Annotated[
        _Texts, _option("--provider", "DOMAIN", "Only clouds of this provider.")
    ] = None
    excluded_providers: Annotated[
        _Texts, _option("--exclude-provider", "DOMAIN", "No cloud of this provider.")
    ] = None
    preferred_providers: Annotated[
        _Texts,
        _option("--prefer-provider", "DOMAIN", "Better at this provider; the first is best."),
    ] = None
    stay: Annotated[
        str, _option("--stay", "TIME", "The offer must be valid so long from now (30d).")
    ] = ""
    weights: Annotated[
        str,
        _option(
            "--weights", "WEIGHTS", "What counts, as in price=0.7,region=0.1,free_capacity=0.2."
        ),
    ] = ""

    def requirements(self, resources: common_pb2.Resources | None) -> broker_pb2.Requirements:
        """The message. Raises InvalidArgument INVALID_FIELD, INVALID_QUANTITY."""
        rtt_ms = units.parse_duration(self.rtt_max) * 1000 if self.rtt_max else 0.0
        return broker_pb2.Requirements(
            resources=resources,
            clouds=self.clouds or (),
            excluded_clouds=self.excluded or (),
            regions=self.regions or (),
            jurisdictions=self.jurisdictions or (),
            required_traits=self.traits or (),
            forbidden_traits=self.forbidden or (),
            labels=dict(_pair(label, "--label") for label in self.labels or ()),
            hourly_price_max=parse_money(self.price_max) if self.price_max else None,
            rtt_ms_max=rtt_ms,
            any_traits=[
                broker_pb2.TraitChoice(traits=choice.split("|")) for choice in self.any_traits or ()
            ],
            residency_jurisdictions=self.residency or (),
            copy_clouds=self.copies or (),
            budget=_budget(self.budget) if self.budget else None,
            links=self._links(),
            images=[
                *(broker_pb2.ImageNeed(name=name) for name in self.images or ()),
                *(
                    broker_pb2.ImageNeed(name=name, required=True)
                    for name in self.required_images or ()
                ),
            ],
            providers=self.providers or (),
            excluded_providers=self.excluded_providers or (),
            stay_seconds=round(units.parse_duration(self.stay)) if self.stay else 0,
        )

    def _links(self) -> list[broker_pb2.LinkLimit]:
        limits: dict[str, broker_pb2.LinkLimit] = {}
        for text in self.near or ():
            cloud_id, value = _pair(text, "--near")
            limit = limits.setdefault(cloud_id, broker_pb2.LinkLimit(cloud_id=cloud_id))
            limit.rtt_ms_max = units.parse_duration(value) * 1000
        for text in self.throughput or ():
            cloud_id, value = _pair(text, "--throughput")
            limit = limits.setdefault(cloud_id, broker_pb2.LinkLimit(cloud_id=cloud_id))
            limit.throughput_bytes_per_second_min = units.parse_bytes(value)
        return list(limits.values())

    def ranking(self) -> broker_pb2.Weights:
        """The message; all zero, which is the broker's default, when nothing was said."""
        message = broker_pb2.Weights()
        for part in filter(None, self.weights.split(",")):
            name, value = _pair(part.strip(), "--weights")
            if name not in _WEIGHTS:
                raise _invalid("--weights", f"there is no score {name!r}", ", ".join(_WEIGHTS))
            try:
                setattr(message, name, float(value))
            except ValueError:
                raise _invalid("--weights", f"{value!r} is not a number", "price=0.7") from None
        return message


NO_CONSTRAINTS = Constraints()
"""Anywhere will do."""


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise _invalid(option, f"{text!r} is not name=value", "write name=value")
    return name, value


def _budget(text: str) -> broker_pb2.Budget:
    amount, separator, duration = text.partition("/")
    if not separator:
        raise _invalid("--budget", f"{text!r} has no time", "write it like 40 EUR/30d")
    return broker_pb2.Budget(
        amount=parse_money(amount, "--budget"), seconds=round(units.parse_duration(duration))
    )


def parse_money(text: str, option: str = "--price-max") -> common_pb2.Money:
    """Of text such as "12.5 JPY". Raises InvalidArgument INVALID_FIELD."""
    amount, _, currency = text.strip().partition(" ")
    try:
        return money.from_decimal(Decimal(amount), currency.strip().upper())
    except InvalidOperation:
        raise _invalid(option, f"{text!r} is not an amount", "write it like 12.5 JPY") from None


def _invalid(option: str, problem: str, hint: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD", f"{option}: {problem}", hint=hint, field=option.lstrip("-")
    )
