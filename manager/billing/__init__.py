"""Billing: ledger, price sheets, invoices, disputes, payments, settlement, for who asks for them.

    service (checks a request) -> domain (one transaction) -> rows, manager.accounting

Promises: whoever asks sees its own money only (`viewers`); everything that changes money is in the
audit log, in the transaction that changes it; an id comes from the caller or from what is recorded,
so that a call that is repeated changes nothing.

Never: rates (`manager.accounts` does), or changes what was booked, issued or decided.
"""
