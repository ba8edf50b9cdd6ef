"""A month of automatic placement, simulated: the product's decisions over prices made up by a seed.

Promises: what decides is `broker.policies`, not a copy; every strategy sees the same world, pays
the same charges, and the same numbers come out wherever it runs. Never: touches a server, a disk
image or the network.

`prices` and `world` make up what happens, `charges` what it costs, `strategies` decide, `running`
lives through it and keeps a log, `audit` reckons everything again from the log, `clairvoyant` is
a bound from below, `comparing` puts all beside one another and `figures` draws it.
"""
