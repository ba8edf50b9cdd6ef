"""Every table that the code knows: what the modules of `versions` make."""

from manager import tables
from manager.accounting import tables as accounting
from manager.accounts import tables as accounts
from manager.evacuations import tables as evacuations
from manager.federation import tables as federation
from manager.links import tables as links
from manager.metering import tables as metering
from manager.quotas import tables as quotas

METADATA = [
    each.metadata
    for each in (tables, accounting, accounts, evacuations, federation, links, metering, quotas)
]
"""The tables of each package."""
