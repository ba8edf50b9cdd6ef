"""The cloud's accounts: what was recorded of machines becomes charges, once and for good.

Every `book_seconds` the usage of the billing month is metered and rated anew from what is recorded
(`facts`, then `manager.accounting`), and the totals of the running month are kept for budgets. Some
days after a month's end its charges are posted; what is told of it later is a correction.

Never: holds the database while it rates, changes what was posted, or lets one machine whose record
makes no sense keep the others from being booked.
"""
