"""The limits of control connections, and the gRPC options that they become."""

from dataclasses import dataclass, field

from watari import errors, tls

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Largest control message either way. Content of disks never travels here."""

DEADLINE_SECONDS_DEFAULT = 10.0
"""For calls that name no deadline: many RTTs of the longest link, and still a person's patience."""

REQUEST_ID_KEY = "x-request-id"
MIGRATION_ID_KEY = "x-migration-id"

QUIET_METHODS = frozenset({"/watari.v1.IdentityService/GetTrust"})
"""Methods that every server of a provider calls every second: neither logged nor traced."""

Options = list[tuple[str, int | str]]


@dataclass(frozen=True)
class RpcSettings:
    """What a server grants its callers."""

    workers_max: int = field(default=32, metadata={"min": 2, "max": 1024})
    """Threads that serve calls. A stream holds one for as long as it lives, so this is streams
    plus calls at a time."""

    queued_calls_max: int = field(default=64, metadata={"min": 0, "max": 10_000})
    """Calls that may wait for a thread; further ones are refused as RESOURCE_EXHAUSTED at once."""

    streams_per_connection_max: int = field(default=100, metadata={"min": 1, "max": 10_000})
    """Calls at a time on one connection: no single peer takes everything."""

    keepalive_seconds: int = field(default=30, metadata={"min": 10, "max": 3600})
    """An idle peer is asked for a sign of life this often; a lost one frees its thread."""

    keepalive_timeout_seconds: int = field(default=20, metadata={"min": 1, "max": 600})
    """A peer that does not answer for this long is lost."""

    grace_seconds: float = field(default=10.0, metadata={"min": 0, "max": 3600})
    """How long calls may go on after the server was told to stop."""


def server_options(settings: RpcSettings) -> Options:
    """Options of a server's `grpc.server`."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_concurrent_streams", settings.streams_per_connection_max),
        ("grpc.keepalive_time_ms", settings.keepalive_seconds * 1000),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_seconds * 1000),
        # Clients of ours ask every 30 s; those that ask more often than this are cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A port in use is an error, not something to share with a stranger's process.
        ("grpc.so_reuseport", 0),
    ]


def require_tls_1_3() -> None:
    """Raises FailedPrecondition CONFIG_INVALID where earlier versions could be spoken too."""
    if not tls.IN_FORCE:
        raise errors.FailedPrecondition(
            "CONFIG_INVALID",
            "grpc was imported before watari, so that connections could use TLS 1.2",
            hint=f"import watari first, or set {tls.VARIABLE}={tls.NONE_OF_OURS}",
        )


CONNECT_MILLISECONDS_MAX = 5_000
"""One attempt to connect: three round trips over a long way, and a lost packet or two."""


def channel_options(server_name: str) -> Options:
    """Options of a channel whose server must prove `server_name`."""
    return [
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Retries are ours: they know which calls are idempotent.
        ("grpc.enable_retries", 0),
        # A peer that comes back is found within seconds, not within two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Whatever its name says, this is how long one attempt to connect may take, TLS included.
        ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS_MAX),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Proxies of the environment do not speak for a peer.
        ("grpc.enable_http_proxy", 0),
    ]
