"""How far away another cloud's port is: the time of TCP's handshake, and nothing that is sent.

A connection is made and closed at once: it needs no trust on either side, costs three packets, and
its time is one round trip, as RFC 9293 (section 3.5) has it. Names are resolved before.
"""

import socket
import time
from collections.abc import Callable

from watari import errors, validate
from watari.v1 import agent_pb2

SAMPLES_DEFAULT = 3
SAMPLES_MAX = 10

CONNECT_SECONDS_MAX = 2.0
"""One connection: what takes longer says nothing of the way."""

MEASURE_SECONDS_MAX = 8.0
"""All connections of a measurement together: below the deadline of a manager's call."""


def measure(
    request: agent_pb2.MeasureRoundTripRequest, now: Callable[[], float] = time.perf_counter
) -> agent_pb2.MeasureRoundTripResponse:
    """The least of several handshakes, in seconds by `now`.

    Raises InvalidArgument INVALID_FIELD, Unavailable PEER_UNAVAILABLE when no connection was made.
    """
    validate.require_address(request.address, "address")
    samples = validate.require_range(request.samples, "samples", 0, SAMPLES_MAX)
    host, _, port = request.address.rpartition(":")
    end = now() + MEASURE_SECONDS_MAX
    taken: list[float] = []
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        for _ in range(samples or SAMPLES_DEFAULT):
            seconds = min(CONNECT_SECONDS_MAX, end - now())
            if seconds <= 0:
                break
            with socket.socket(family, kind, protocol) as connection:
                connection.settimeout(seconds)
                began = now()
                connection.connect(address)
                taken.append(now() - began)
    except OSError as error:
        if not taken:
            raise _away(request.address, error) from error
    return agent_pb2.MeasureRoundTripResponse(round_trip_seconds=min(taken), samples=len(taken))


def _away(address: str, error: OSError) -> errors.Unavailable:
    return errors.Unavailable(
        "PEER_UNAVAILABLE",
        f"no connection to {address}: {error}",
        hint="look whether a firewall lets this host connect there",
        peer=address,
    )
