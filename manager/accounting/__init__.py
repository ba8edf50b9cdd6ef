"""Accounting: what machines used, what that costs, and who owes it.

    events -> metering -> rating -> booking -> ledger -> invoices, settlement, focus

Promises: exact. Time is whole microseconds, quantities are whole base units, money is whole nanos
(10^-9 of the currency's unit), all of them integers; a division is done once per line, and rounded
half to even. The same input gives the same ids, so that a run that is repeated posts nothing twice.

Never: reads a clock, a file or a database. `rows` alone knows the database, in its caller's
transaction. docs/accounting.md has the terms and the rules.
"""
