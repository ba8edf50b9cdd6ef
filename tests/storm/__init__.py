"""Continuous changes to a directory on etcd, while nodes die, stand still and are cut off.

    unshare --net -- python -m tests.storm --seed 1 --seconds 60

Managers publish through two directories over a cluster of three nodes, each of these five in a
network namespace of its own. Watchers follow; each knows the generation of every record, so that a
change that is missed, repeated or invented shows at once. At the end everybody must agree with a
fresh listing of each directory, and nothing that was acknowledged may be missing.
"""

import watari.tls  # noqa: F401 - before grpc is imported anywhere
