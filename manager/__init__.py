"""The Cloud Manager: one process per cloud, which owns the cloud's inventory and its machines.

Promises: a machine has exactly one owning cloud and an ownership epoch, on disk before anybody is
told; capacity is never promised twice; every migration is a durable saga that ends after any crash
in exactly one of two ways, the machine here or the machine there; every call may be repeated with
the same id. It keeps working while the directory and the broker are down.

Never: touches a disk image or a hypervisor (the agents do), holds a key that opens a payload, rolls
a migration back after its commit point, or changes owners because somebody stopped answering.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
