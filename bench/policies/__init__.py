"""A month of automatic placement, simulated: the product's decisions over prices made up by a seed.

Promises: what decides is `broker.policies`, not a copy; every strategy sees the same world, and the
same numbers come out wherever it runs. Never: touches a server, a disk image or the network.
"""
