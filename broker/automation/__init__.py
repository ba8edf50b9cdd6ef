"""Automatic placement, served: policies are kept, evaluated at an interval, and acted upon.

Promises: what was accepted outlives a restart; a migration's id is on disk before anybody is asked
for it, so that a broker that is killed at any moment begins no move twice and forgets none; nothing
is decided from a snapshot that may be old; every move is made under the tenant's own standing
delegation, which the source's manager checks.

Never: decides (`broker.policies` does), or talks to a manager for a tenant without its delegation.

`store` and `tables` are the database, `policy_rows`, `plan_rows` and `memory` what is in it;
`fleet` asks managers, `situating` lays out what a decision needs, `carrying` begins moves and sees
them through, `engine` is the loop, `desk` and `service` are what people call.
"""
