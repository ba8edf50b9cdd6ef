#!/usr/bin/env python3
"""One address for several servers of which one listens: passes connections on to that one.

    watari-front PORT HOST:PORT...    serve
    watari-front check PORT           exit status 0 if it takes connections

It tries them in the order in which the last one answered first, and looks into nothing: TLS is
between caller and server, and this has no key. In the image this is `watari-front`; outside, any
proxy of TCP does it.
"""

import asyncio
import signal
import socket
import sys

CONNECT_SECONDS_MAX = 2.0
"""A server that does not answer for this long is not the one that listens."""

CONNECTIONS_MAX = 512
"""At a time; further callers wait for their turn in the kernel's queue."""

CHUNK_BYTES = 64 * 1024

KEEPALIVE = {socket.TCP_KEEPIDLE: 20, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds and tries: a side whose machine is gone is let go of after some 35 s."""


class Front:
    """Passes connections on to one of `servers`."""

    def __init__(self, servers: list[tuple[str, int]]) -> None:
        self._servers = servers
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One caller, until either side ends."""
        async with self._room:
            try:
                found = await self._connected()
                if found is not None:
                    await _pass(reader, writer, *found)
            finally:
                writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for server in list(self._servers):
            try:
                async with asyncio.timeout(CONNECT_SECONDS_MAX):
                    made = await asyncio.open_connection(*server, limit=CHUNK_BYTES)
            except (OSError, TimeoutError):
                continue
            self._servers.remove(server)
            self._servers.insert(0, server)
            return made
        return None


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    other_reader: asyncio.StreamReader,
    other_writer: asyncio.StreamWriter,
) -> None:
    """Both directions, until one of them ends."""
    for each in (writer, other_writer):
        _keep_alive(each)
    ways = [
        asyncio.create_task(_copy(reader, other_writer)),
        asyncio.create_task(_copy(other_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        other_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


async def main(port: int, servers: list[tuple[str, int]]) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    front = Front(servers)
    server = await asyncio.start_server(front.serve, "0.0.0.0", port, limit=CHUNK_BYTES)  # noqa: S104
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    if sys.argv[1] == "check":
        socket.create_connection(("127.0.0.1", int(sys.argv[2])), CONNECT_SECONDS_MAX).close()
        sys.exit()
    asyncio.run(
        main(
            int(sys.argv[1]),
            [(host, int(port)) for host, _, port in (one.rpartition(":") for one in sys.argv[2:])],
        )
    )
