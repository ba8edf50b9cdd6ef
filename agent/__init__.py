"""The agent: one per host. It knows the hypervisor and the disks, and moves their content.

Promises: a machine's disks at the source are only ever read; nothing becomes a machine at the
destination before every leaf has been verified, is on stable storage and a receipt has been signed;
memory does not grow with the image.

Never: decides where a machine goes or who owns it (its manager does), talks to the directory or the
broker, or sends to or takes from an agent that shows no grant.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
