"""How services listen and call: gRPC over mutual TLS, in threads.

Promises: every caller is authenticated against its own provider's CA and authorised by
`watari.authz` before a servicer sees the call; every error reaches the other side as a
`watari.errors` class with its reason; every call has a deadline, every message, pool and queue a
limit.

Never: listens or calls without mutual TLS, trusts a host name, or tells a peer the text of an
unexpected exception. Data connections are the agent's own; this package carries control only.
"""

from watari.rpc.client import ChannelPool, Target, call, connect, stream, visit
from watari.rpc.interceptors import Door, current_peer
from watari.rpc.server import Server
from watari.rpc.settings import DEADLINE_SECONDS_DEFAULT, MESSAGE_BYTES_MAX, RpcSettings

__all__ = [
    "DEADLINE_SECONDS_DEFAULT",
    "MESSAGE_BYTES_MAX",
    "ChannelPool",
    "Door",
    "RpcSettings",
    "Server",
    "Target",
    "call",
    "connect",
    "current_peer",
    "stream",
    "visit",
]
