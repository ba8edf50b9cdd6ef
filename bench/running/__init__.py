"""Machines that run while they are moved, and how long they stand still.

Promises: every method moves the same guest over the same link, between the two hosts of
`tests.lab`; what the guest acknowledged is followed on both hosts by one clock, and judged.

Never: takes a method's own word for how long a guest was away.
"""
