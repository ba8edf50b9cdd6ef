"""The ways to other clouds as this one has measured them, for the directory to tell brokers.

Round trips are measured now and then, by a host's TCP handshake with the other cloud's manager.
Throughput is what migrations reached; nothing is sent to find it out. Both are told with the time
until which they may be used. A way that was not measured is told nothing of.
"""
