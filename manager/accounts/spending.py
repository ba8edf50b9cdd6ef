"""What tenants are charged in the running month, as budgets look at it."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy.engine import Connection

from manager.accounting import events, exact
from manager.accounts import rows
from manager.accounts.sheets import Sheets
from manager.ownership import Tenant
from manager.store import micros


class Accounts:
    """`manager.quotas.budgets.Spending` of a cloud that keeps accounts: what was rated when they
    were brought up to date the last time, before taxes.
    """

    def __init__(self, domain: str, sheets: Sheets) -> None:
        self._domain = domain
        self._sheets = sheets

    @property
    def currency(self) -> str | None:
        """In which tenants are charged."""
        return self._sheets.currency

    def in_month(self, connection: Connection, tenant: Tenant, now: datetime) -> Decimal:
        """What a tenant is charged in the billing month of `now`, so far."""
        period = rows.period_at(connection, micros(now))
        if period is None:
            return Decimal(0)
        payer = events.payer(tenant.domain, tenant.name, self._domain)
        # What a payer pays flat is nobody's of another provider's tenants.
        only = None if tenant.domain == self._domain else tenant.name
        return exact.decimal(rows.total(connection, period, payer, only))
