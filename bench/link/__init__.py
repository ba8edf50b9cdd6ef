"""A long-distance network on one machine, for kernels without netem.

Promises: two network namespaces joined by one link of a known rate, delay, queue, loss and outages;
every byte that entered and left it is counted; nothing of it is left when the process that made it
is gone, however it went.

Never: changes the TCP settings of the machine, or touches a namespace that it did not make.
"""

from bench.link.network import Link, Side
from bench.link.shape import Shape

__all__ = ["Link", "Shape", "Side"]
