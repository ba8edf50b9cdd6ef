"""Opening the database: a PostgreSQL may start later than its managers, or be away for a while."""

import random
import threading

from manager.settings.store import StoreSettings
from manager.store import Store
from watari import errors, logs, retry
from watari.clock import Clock

RETRY_INITIAL_SECONDS = 0.5
RETRY_SECONDS_MAX = 10.0
"""Delays double from the one to the other: how late a server that came back is noticed."""

_BACKOFF = retry.Backoff(
    initial_seconds=RETRY_INITIAL_SECONDS, max_seconds=RETRY_SECONDS_MAX, attempts_max=2**31
)
"""Its end is that of `StoreSettings.away_seconds_max`."""

_log = logs.get(__name__)


def opened(settings: StoreSettings, clock: Clock, stopping: threading.Event) -> Store:
    """The database, once its server is there.

    Raises InvalidArgument CONFIG_INVALID at once when it cannot be opened as it is set, Unavailable
    SERVER_UNAVAILABLE when it is still away in the end, and Cancelled once `stopping` is
    set.
    """
    until = clock.monotonic() + settings.away_seconds_max
    for delay in retry.delays(_BACKOFF, random.Random()):
        try:
            return Store(settings)
        except errors.Unavailable as error:
            left = until - clock.monotonic()
            if left <= 0:
                raise
            _log.warning("waiting for the database", problem=error.message, seconds_left=int(left))
            if clock.wait(stopping, min(delay, left)):
                raise errors.Cancelled("CANCELLED", "told to end while it waited") from error
    raise AssertionError("unreachable: the delays outlast every setting")
