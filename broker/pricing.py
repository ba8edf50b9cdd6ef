"""Price sheets, and what a machine costs by them. Pure.

    hourly = vcpu_hour x vCPUs + memory_gib_hour x GiB + disk_gib_month / 730 x GiB

rounded once, to 10^-9 of the currency's unit, halves to even. Further resource classes have no
price in the contract and cost nothing here.
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, localcontext

from broker import amounts
from watari import errors, money, validate
from watari.v1 import common_pb2, directory_pb2

HOURS_PER_MONTH = 730
"""Of the contract: a month of disk is 730 hours."""

UNIT_PRICE_MAX = 1_000_000
"""A sheet with a larger price is not used. With it no machine's price exceeds what Money holds."""

_GIB = 1024**3
_DIGITS = 60
"""Working precision: products of 64-bit integers stay exact, quotients err far below 10^-9."""
_EXACT = Context(prec=_DIGITS)


@dataclass(frozen=True)
class Price:
    """An amount, exact to 10^-9 of the currency's unit."""

    currency: str
    amount: Decimal

    def __str__(self) -> str:
        """Such as "0.0412 EUR/h": exact, with two digits at least."""
        return f"{self.words}/h"

    @property
    def words(self) -> str:
        """The same without "/h", for an amount that is not an hour's."""
        plain = f"{self.amount.normalize():f}"
        whole, _, fraction = plain.partition(".")
        return f"{whole}.{fraction:0<2} {self.currency}"

    def message(self) -> common_pb2.Money:
        """As it travels."""
        return money.from_decimal(self.amount, self.currency)


@dataclass(frozen=True)
class Sheet:
    """The prices of an offer, all of one currency."""

    version: int
    currency: str
    vcpu_hour: Decimal
    memory_gib_hour: Decimal
    disk_gib_month: Decimal
    egress_gib: Decimal = Decimal()
    """Per GiB that a migration takes out; 0 where it is in another currency or cannot be read."""
    migration_flat: Decimal = Decimal()
    """Per migration, either direction; likewise."""

    @property
    def nanos(self) -> tuple[int, int, int]:
        """The three in 10^-9 of the currency's unit."""
        return (
            int(self.vcpu_hour.scaleb(9)),
            int(self.memory_gib_hour.scaleb(9)),
            int(self.disk_gib_month.scaleb(9)),
        )


def hourly(sheet: Sheet, needed: amounts.Amounts) -> Price:
    """What a machine costs an hour."""
    return Price(sheet.currency, _EXACT.scaleb(Decimal(hourly_nanos(sheet, needed)), -9))


def hourly_nanos(sheet: Sheet, needed: amounts.Amounts) -> int:
    """The same in 10^-9 of the currency's unit: in whole numbers, so that nothing is rounded but
    the end.
    """
    vcpu_hour, memory_gib_hour, disk_gib_month = sheet.nanos
    compute = vcpu_hour * needed["vcpus"] * _GIB + memory_gib_hour * needed["memory"]
    exact = compute * HOURS_PER_MONTH + disk_gib_month * needed["disk"]
    whole, rest = divmod(exact, _GIB * HOURS_PER_MONTH)
    twice = 2 * rest - _GIB * HOURS_PER_MONTH
    return whole + (twice > 0 or (twice == 0 and whole % 2))


def over(hourly: Price, seconds: int) -> Price:
    """What that price comes to over a time: exact, rounded up to 10^-9."""
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        return Price(hourly.currency, (hourly.amount * seconds / 3600).quantize(money.NANO))


def read(message: directory_pb2.PriceSheet | None) -> tuple[Sheet | None, str]:
    """The sheet, or None and why it cannot be used, in words. A price left out is 0."""
    if message is None:
        return None, "publishes no prices"
    given = (message.vcpu_hour, message.memory_gib_hour, message.disk_gib_month)
    currencies = sorted({price.currency_code for price in given if price.ByteSize()})
    if not currencies:
        return None, "publishes no prices"
    if len(currencies) > 1:
        return None, f"publishes prices of {len(currencies)} currencies in one sheet"
    try:
        vcpu_hour, memory_gib_hour, disk_gib_month = map(_unit_price, given)
    except errors.InvalidArgument as error:
        return None, f"publishes a price that cannot be used: {error.message}"
    egress_gib, flat = (
        _of_migrations(price, currencies[0])
        for price in (message.egress_gib, message.migration_flat)
    )
    sheet = Sheet(
        message.version,
        currencies[0],
        vcpu_hour,
        memory_gib_hour,
        disk_gib_month,
        egress_gib,
        flat,
    )
    return sheet, ""


def require_price(message: common_pb2.Money, field: str) -> Price:
    """A price of a request, not negative. Raises InvalidArgument INVALID_FIELD."""
    try:
        amount = money.to_decimal(message)
    except errors.InvalidArgument as error:
        raise validate.invalid_field(field, error.message, error.hint) from error
    if amount < 0:
        raise validate.invalid_field(field, f"{amount} is negative", "0 or more")
    return Price(message.currency_code, amount)


def _of_migrations(message: common_pb2.Money, currency: str) -> Decimal:
    """What placement does not rank by, and what therefore makes no sheet unusable."""
    if message.currency_code != currency:
        return Decimal()
    try:
        return _unit_price(message)
    except errors.InvalidArgument:
        return Decimal()


def _unit_price(message: common_pb2.Money) -> Decimal:
    amount = money.to_decimal(message) if message.ByteSize() else Decimal()
    if not 0 <= amount <= UNIT_PRICE_MAX:
        raise validate.invalid_field(
            "prices", f"{amount} is out of bounds", f"0 to {UNIT_PRICE_MAX}"
        )
    return amount
