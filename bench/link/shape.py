"""What a link is like. Pure."""

from dataclasses import dataclass

QUEUE_BYTES_MIN = 256 * 1024
"""A queue holds at least four of the kernel's largest super-packets."""

MTU_BYTES = 1500

DEVICE = "wan0"
"""Name of the TUN device in both namespaces."""


@dataclass(frozen=True)
class Shape:
    """A link of two directions that are alike."""

    rate_bits: float = 0.0
    """Bits per second, IP headers included and Ethernet framing not; 0 is no limit."""

    round_trip_seconds: float = 0.0
    """Propagation there and back; time in the queue and on the wire comes on top."""

    loss: float = 0.0
    """Probability of each MTU segment to be lost, after it took its time on the wire."""

    queue_bytes: int = 0
    """Bytes that may wait for the wire before more are dropped; 0 is one bandwidth-delay product,
    at least QUEUE_BYTES_MIN."""

    congestion: str = ""
    """TCP congestion control in both namespaces; empty is the kernel's default."""

    seed: int = 1
    """Of the losses."""

    def __post_init__(self) -> None:
        if self.rate_bits < 0 or self.round_trip_seconds < 0 or not 0 <= self.loss < 1:
            raise ValueError(f"no link can be like this: {self}")

    @property
    def queue_bytes_max(self) -> int:
        """The queue's bound in bytes."""
        product = self.rate_bits / 8 * self.round_trip_seconds
        return self.queue_bytes or max(QUEUE_BYTES_MIN, round(product))

    @property
    def text(self) -> str:
        """Such as "100 Mbit/s, 120 ms, loss 0.1 %"."""
        rate = f"{self.rate_bits / 1e6:g} Mbit/s" if self.rate_bits else "no rate limit"
        lost = f", loss {self.loss:.2%}" if self.loss else ""
        return f"{rate}, {self.round_trip_seconds * 1000:g} ms{lost}"
