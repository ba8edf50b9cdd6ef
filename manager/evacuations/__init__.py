"""Evacuations: every machine of a host, or of the whole cloud, goes away by ordinary migrations.

An evacuation promises that each machine is in at most one migration of it at a time, that no more
than `concurrency` run, and that a manager that is killed anywhere goes on from its rows alone. It
ends when nothing is left that could be moved; what could not is listed with its problem.

Never: moves anything by itself, ends a migration, or touches what other migrations move. What a
migration is, and why none leaves a machine with two owners or none, is `manager.saga`'s.
"""
