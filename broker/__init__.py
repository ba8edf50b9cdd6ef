"""The Cloud Broker: which clouds fit a machine, in what order, and why the others do not.

Promises: an answer is a function of one snapshot of the directory, the request and the time, and
names the revision it was decided from; every offer is either a candidate or is rejected with every
constraint that it misses. While the directory is away it answers from its last snapshot, up to a
named age.

Never: holds a key of either side, acts as a tenant, reserves or moves anything by itself. A
migration is run by the source's manager; the broker asks for it.

Four words, four files: `catalogue` reads, `feasible` drops, `rank` orders, `migrate` submits.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
