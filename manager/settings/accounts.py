"""What an operator sets for money: [manager.prices], [manager.accounts] and [manager.billing]."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PriceSettings:
    """The price sheet. Amounts are decimal strings, so that no rounding happens on the way."""

    currency: str = "JPY"
    """ISO 4217 code of all amounts."""

    version: int = field(default=1, metadata={"min": 1})
    """To be raised with every change of an amount: reservations record the version."""

    vcpu_hour: str = "0"
    """Per virtual CPU and hour."""

    memory_gib_hour: str = "0"
    """Per GiB of memory and hour."""

    disk_gib_month: str = "0"
    """Per GiB of disk and month of 730 hours."""

    egress_gib: str = "0"
    """Per GiB of sealed bytes that a migration takes out of the cloud."""

    migration_flat: str = "0"
    """Per migration."""

    quote_ttl_seconds: int = field(default=3600, metadata={"min": 60, "max": 86_400})
    """How long a quote is binding, whatever the price sheet says by then: no longer than the
    certificate that signs it surely lasts."""


@dataclass(frozen=True)
class AccountSettings:
    """How the accounts are kept."""

    book_seconds: float = field(default=60.0, metadata={"min": 0.05})
    """Between two times that they are brought up to date: how old the totals get that budgets
    look at."""

    time_zone: str = "UTC"
    """Zone of the tz database in which billing months begin at midnight."""

    close_seconds: float = field(default=259_200.0, metadata={"min": 0.0, "max": 2_592_000.0})
    """How long after a month's end its charges are posted: what hosts that were away tell until
    then is in them. 3 days."""

    seal_seconds: float = field(default=3_024_000.0, metadata={"min": 0.0, "max": 31_536_000.0})
    """How long after a month's end something that is told late still corrects it. 35 days."""


@dataclass(frozen=True)
class PartySettings:
    """Who issues invoices or gets them, as it is printed."""

    name: str = ""
    """Of a company or a person; empty is the cloud's id, or the payer's own name."""

    address: tuple[str, ...] = ()
    """Line by line."""

    tax_id: str = ""
    """As an invoice has to show it."""


@dataclass(frozen=True)
class BillingSettings:
    """What invoices show. Their months are those of the accounts."""

    issuer: PartySettings = field(default_factory=PartySettings)
    """The provider."""

    customers: dict[str, PartySettings] = field(default_factory=dict)
    """Payers by name, as in "tenant:acme" or "peer:osaka.example"."""
