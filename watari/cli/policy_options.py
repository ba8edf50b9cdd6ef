"""The options that say what a policy of automatic placement is after, and how much it may do."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from watari import errors, units
from watari.cli.constraints import parse_money
from watari.cli.moving import MODES
from watari.v1 import broker_pb2, common_pb2

_PANEL = "Policy"

LEVELS = {
    "manual": broker_pb2.AUTOMATION_MANUAL,
    "approved": broker_pb2.AUTOMATION_APPROVED,
    "automatic": broker_pb2.AUTOMATION_AUTOMATIC,
}

_MINUTES_A_DAY = 1440


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


@dataclass(frozen=True)
class PolicyOptions:
    """What is unset is the broker's default."""

    objective: Annotated[
        Literal["cost", "latency", "evacuate", "consolidate", "schedule"],
        typer.Option(help="What it is after.", rich_help_panel=_PANEL),
    ] = "cost"
    automation: Annotated[
        Literal["manual", "approved", "automatic"],
        typer.Option(
            help="manual recommends, approved acts once approved, automatic acts by itself. The "
            "most careful of a tenant's policies decides for all of them.",
            rich_help_panel=_PANEL,
        ),
    ] = "manual"
    currency: Annotated[str, _option("--currency", "CODE", "What costs are compared in (EUR).")] = (
        ""
    )
    residency_time: Annotated[
        str, _option("--residency-time", "TIME", "A machine stays so long at least (6h).")
    ] = ""
    cooldown: Annotated[
        str, _option("--cooldown", "TIME", "It rests so long after a move that failed (1h).")
    ] = ""
    horizon: Annotated[str, _option("--horizon", "TIME", "Savings count so far ahead (7d).")] = ""
    patience: Annotated[
        float | None,
        _option("--patience", "SHARE", "Of a move's cost, paid too much before it moves (0.25)."),
    ] = None
    hysteresis: Annotated[
        float | None,
        _option("--hysteresis", "SHARE", "Of a move's cost, saved beyond its cost (0.25)."),
    ] = None
    allowance: Annotated[
        float | None,
        _option("--allowance", "SHARE", "By which a machine may cost more than at home (0.1)."),
    ] = None
    confidence: Annotated[
        float | None,
        _option("--confidence", "DEVIATIONS", "By which savings are counted lower (0.5)."),
    ] = None
    saving_min: Annotated[
        str, _option("--saving-min", "AMOUNT", "What a move must save besides (5 JPY).")
    ] = ""
    downtime_price: Annotated[
        str, _option("--downtime-price", "AMOUNT", "What an hour of standstill costs (1 EUR).")
    ] = ""
    latency_price: Annotated[
        str,
        _option("--latency-price", "AMOUNT", "What a millisecond to --near clouds costs an hour."),
    ] = ""
    presence_price: Annotated[
        str, _option("--presence-price", "AMOUNT", "What being in a cloud at all costs an hour.")
    ] = ""
    price_rise_max: Annotated[
        float | None,
        _option("--price-rise-max", "SHARE", "Leaves a cloud that became dearer by more."),
    ] = None
    schedule: Annotated[
        list[str] | None,
        _option("--schedule", "HH:MM-HH:MM=CLOUD|...", "Where machines belong by the time, UTC."),
    ] = None
    mode: Annotated[
        Literal["cold", "suspend", "warm"],
        typer.Option(help="How machines move.", rich_help_panel=_PANEL),
    ] = "cold"

    def policy(self, policy_id: str, moves_a_day: int) -> broker_pb2.Policy:
        """The message. Raises InvalidArgument INVALID_FIELD, INVALID_QUANTITY."""
        return broker_pb2.Policy(
            policy_id=policy_id,
            objective=self.objective,
            automation=LEVELS[self.automation],
            moves_per_vm_day_max=moves_a_day,
            residency_seconds_min=_seconds(self.residency_time),
            cooldown_seconds=_seconds(self.cooldown),
            horizon_seconds=_seconds(self.horizon),
            currency_code=self.currency.upper(),
            patience=self.patience,
            hysteresis=self.hysteresis,
            allowance=self.allowance,
            confidence=self.confidence,
            saving_min=_money(self.saving_min, "--saving-min"),
            downtime_hour_price=_money(self.downtime_price, "--downtime-price"),
            latency_ms_hour_price=_money(self.latency_price, "--latency-price"),
            presence_hour_price=_money(self.presence_price, "--presence-price"),
            price_rise_max=self.price_rise_max,
            schedule=[_window(text) for text in self.schedule or ()],
            mode=MODES[self.mode],
        )


DEFAULT_POLICY = PolicyOptions()
"""Recommends where it would cost less."""


def _seconds(text: str) -> int:
    return round(units.parse_duration(text)) if text else 0


def _money(text: str, option: str) -> common_pb2.Money | None:
    return parse_money(text, option) if text else None


def _window(text: str) -> broker_pb2.ScheduleWindow:
    times, equals, clouds = text.partition("=")
    begin, dash, end = times.partition("-")
    if not (equals and dash and clouds):
        raise _wrong(text)
    return broker_pb2.ScheduleWindow(
        from_minute=_minute(begin, text), to_minute=_minute(end, text), clouds=clouds.split("|")
    )


def _minute(time: str, text: str) -> int:
    hours, _, minutes = time.strip().partition(":")
    if not (hours.isdecimal() and minutes.isdecimal() and len(time) <= len("HH:MM ")):
        raise _wrong(text)
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) >= 60 or minute >= _MINUTES_A_DAY:
        raise _wrong(text)
    return minute


def _wrong(text: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "INVALID_FIELD",
        f"--schedule: {text!r} is no window",
        hint="write it like '22:00-06:00=osaka|nara'",
        field="schedule",
    )
