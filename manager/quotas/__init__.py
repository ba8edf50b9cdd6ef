"""What tenants may consume of a cloud.

Promises: what is admitted keeps within every hard limit that holds at that moment, whoever admits
at the same time, because it is counted in the transaction that admits it. Counted is what capacity
counts: machines, and reservations that hold room.

Never: touches a machine or a reservation that is there. What is beyond a limit that was lowered
stays; only further admissions are refused.
"""
