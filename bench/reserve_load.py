"""The clients of `bench.reserve`: a process of its own that reserves and confirms.

    python -m bench.reserve_load < orders.json > found.json

Each client has one call on its way at a time and begins the next pair when the one before is
answered. Every call is a real one over mutual TLS; what they spare is what a load generator need
not do, such as threads, and answers that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from tests.support import reservations
from watari.identity import Identity, SpiffeId
from watari.rpc import client
from watari.rpc.settings import channel_options
from watari.v1 import manager_pb2

_SERVICE = "/watari.v1.ReservationService"
_CONNECTIONS = 2
_Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
TTL_SECONDS = 3600
CALL_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class Orders:
    """What to do; moments are of the monotonic clock, which all processes share."""

    identity: str
    """Folder of who calls."""

    address: str
    server: str
    """SPIFFE id of who answers."""

    clients: int
    begin: float
    """What began earlier warms up."""

    end: float
    """What ends later does not count."""


@dataclass(frozen=True)
class Found:
    """What came of it."""

    seconds: list[float]
    """That each pair took."""

    processor_seconds: float
    """That this process used from `begin` to `end`."""


async def _run(orders: Orders) -> Found:
    own, server = Identity.load_folder(Path(orders.identity)), SpiffeId.parse(orders.server)
    trusted, options = client.credentials(own, server), channel_options(server.dns_name)
    channels = [
        grpc.aio.secure_channel(
            orders.address, trusted, [*options, ("grpc.use_local_subchannel_pool", 1)]
        )
        for _ in range(_CONNECTIONS)
    ]
    taken: list[float] = []
    used = asyncio.create_task(_used(orders))
    await asyncio.gather(
        *(
            _pairs(channels[number % _CONNECTIONS], orders, taken)
            for number in range(orders.clients)
        )
    )
    found = Found(taken, await used)
    for channel in channels:
        await channel.close()
    return found


async def _used(orders: Orders) -> float:
    await asyncio.sleep(orders.begin - time.monotonic())
    before = time.process_time()
    await asyncio.sleep(orders.end - time.monotonic())
    return time.process_time() - before


async def _pairs(channel: grpc.aio.Channel, orders: Orders, taken: list[float]) -> None:
    reserve: _Method = channel.unary_unary(f"{_SERVICE}/Reserve")
    confirm: _Method = channel.unary_unary(f"{_SERVICE}/ConfirmReservation")
    while (began := time.monotonic()) < orders.end:
        asked = reservations.request(ttl_seconds=TTL_SECONDS)
        key = manager_pb2.ConfirmReservationRequest(reservation_id=asked.reservation_id)
        await reserve(asked.SerializeToString(), timeout=CALL_SECONDS_MAX)
        answer = await confirm(key.SerializeToString(), timeout=CALL_SECONDS_MAX)
        ended = time.monotonic()
        if began >= orders.begin and ended <= orders.end:
            taken.append(ended - began)
    confirmed = manager_pb2.ConfirmReservationResponse.FromString(answer).reservation
    assert confirmed.state == manager_pb2.RESERVATION_STATE_CONFIRMED  # noqa: S101 - or stop


def main() -> None:
    """Orders from standard input, what came of them to standard output."""
    found = asyncio.run(_run(Orders(**json.load(sys.stdin))))
    json.dump(asdict(found), sys.stdout)


if __name__ == "__main__":
    main()
