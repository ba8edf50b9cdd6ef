"""The database in a PostgreSQL, which several managers may share.

Writes queue for one transaction-level advisory lock, whichever process they come from, and so are
serial, as on SQLite. Nothing finer would let more of them run side by side: nearly every write
appends to the audit chain, and a chain has one end. Under the lock the isolation is READ COMMITTED
on purpose: each statement then sees all that was committed before the lock was got, where a
snapshot of SERIALIZABLE would be from before the wait and fail for it. The lock goes with the
transaction, after its commit is seen by all, and with the connection when a manager dies.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from manager.settings.store import StoreSettings
from manager.statements import Ask, Statement, Told, run
from watari import errors, logs

WRITER_LOCK = 0x57415441
"""Key of the advisory lock ("WATA"): one writer at a time in one database."""

PING_SECONDS = 1.0
"""A connection that rested for longer is looked at before it is used: its server may be gone."""

RECYCLE_SECONDS = 3600
"""A connection is not used for longer: a server's memory for it only grows."""

_PASSING = ("08", "53", "55P03", "57")
"""SQLSTATEs, or classes of them, of what passes: connection, resources, a lock, intervention."""

_LASTING = (
    *("password", "authentication failed", "pg_hba.conf", "does not exist", "permission denied"),
    *("certificate", "does not support SSL", "connection is bad: invalid"),
)
"""In what is said of a connection that did not come about, which has no SQLSTATE: settings are
wrong. A server that speaks another language is tried again until the time is over."""

_DRIVER = "postgresql+psycopg"
_RESTS_SINCE = "watari rests since"
# Sent in one round trip: what follows the lock sees all that was committed until it was got.
_BEGIN_WRITE = (
    Ask(Statement(sa.text("BEGIN ISOLATION LEVEL READ COMMITTED"))),
    Ask(Statement(sa.text(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})"))),
)
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_LOCK_TIMED_OUT = "55P03"
# Who has the lock of writes, and has sent nothing for so long that PostgreSQL waits for it.
_END_IDLE_WRITER = sa.text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND wait_event = 'ClientRead'
      AND greatest(query_start, state_change) < clock_timestamp() - make_interval(secs => :seconds)
    """
)

_log = logs.get(__name__)


class PostgresqlDatabase:
    """A database of `manager.store`."""

    def __init__(self, settings: StoreSettings) -> None:
        url = _url(settings)
        self.engine = _engine(settings, url)
        self._idle_seconds_max = settings.idle_seconds_max
        self.name = url.render_as_string(hide_password=True)
        self.hint = "check store.url, the password, and that the server runs and lets this user in"

    def begin_write(self, connection: Connection, asked: Sequence[Ask]) -> Sequence[Told]:
        """One writer at a time; `lock_timeout` bounds the wait. Whoever waited in vain ends the
        session of a writer that stands still, for the next try.
        """
        try:
            return run(connection, [*_BEGIN_WRITE, *asked])[len(_BEGIN_WRITE) :]
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_TIMED_OUT:
                self._end_idle_writer(connection)
            raise

    def _end_idle_writer(self, connection: Connection) -> None:
        """What `idle_in_transaction_session_timeout` is to do, and does not after a pipeline: the
        server stops that clock at every message, and the driver's last one (Flush, after Sync) is
        none for which it starts it again; nor does it run between a pipeline's messages.
        """
        connection.exec_driver_sql("ROLLBACK")
        which = {"lock": WRITER_LOCK, "seconds": self._idle_seconds_max}
        ended = connection.execute(_END_IDLE_WRITER, which).all()
        if ended:
            _log.warning("ended a writer that stood still", after_seconds=self._idle_seconds_max)

    def begin_read(self, connection: Connection) -> None:
        """One snapshot."""
        connection.exec_driver_sql(_BEGIN_READ)

    def broken(self, connection: Connection) -> bool:
        """Whether a statement failed, so that COMMIT would roll back without a word."""
        driver = connection.connection.driver_connection
        return driver is None or driver.info.transaction_status.name != "INTRANS"

    def is_away(self, problem: BaseException) -> bool:
        """Whether the server is not there, not ready, or cannot be reached."""
        if not isinstance(problem, sa.exc.DBAPIError):
            return isinstance(problem, sa.exc.TimeoutError)
        state = getattr(problem.orig, "sqlstate", None)
        if state is not None:
            return str(state).startswith(_PASSING)
        said = str(problem.orig)
        return isinstance(problem, sa.exc.OperationalError) and not any(
            words in said for words in _LASTING
        )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def _url(settings: StoreSettings) -> URL:
    try:
        url = make_url(settings.url)
    except (sa.exc.ArgumentError, ValueError):
        raise _invalid("is no url") from None
    if url.drivername != "postgresql":
        raise _invalid(f"{url.drivername}: is not known")
    if url.password is not None:
        raise _invalid("has a password in it, where it would be shown")
    if not url.database:
        raise _invalid("names no database")
    query: Mapping[str, tuple[str, ...] | str] = url.query
    host = url.host or query.get("host", "")
    local = not host or str(host).startswith("/")
    if not local and "sslmode" not in query:
        url = url.update_query_dict({"sslmode": "verify-full"})
    return url.set(drivername=_DRIVER, password=_password(settings))


def _password(settings: StoreSettings) -> str | None:
    if settings.password_file is None:
        return settings.password or None
    path: Path = settings.password_file
    try:
        if path.stat().st_mode & 0o077:
            raise errors.InvalidArgument(
                "CONFIG_INVALID",
                f"store.password_file: others may read {path}",
                hint=f"chmod 600 {path}",
            )
        return path.read_text().split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            f"store.password_file: {path} cannot be read",
            hint="a file of this user, mode 0600, with the password in its first line",
        ) from error


def _engine(settings: StoreSettings, url: URL) -> Engine:
    wait_ms = int(settings.write_wait_seconds_max * 1000)
    statement_ms = int(settings.statement_seconds_max * 1000)
    idle_ms = int(settings.idle_seconds_max * 1000)
    silent_ms = int(settings.silent_seconds_max * 1000)
    try:
        engine = sa.create_engine(
            url,
            pool_size=settings.connections_max,
            max_overflow=0,
            pool_timeout=settings.write_wait_seconds_max,
            # Few connections that know the statements well, rather than all of them by turns.
            pool_use_lifo=True,
            pool_recycle=RECYCLE_SECONDS,
            # The store begins and ends transactions itself, in words.
            isolation_level="AUTOCOMMIT",
            connect_args={
                "connect_timeout": settings.connect_seconds_max,
                "tcp_user_timeout": silent_ms,
                "keepalives_idle": max(1, silent_ms // 2000),
                "application_name": "watari-manager",
                "options": (
                    f"-c lock_timeout={wait_ms} -c statement_timeout={statement_ms} "
                    f"-c idle_in_transaction_session_timeout={idle_ms} "
                    # A commit that returned survives a power failure, whatever the server says.
                    "-c synchronous_commit=on -c timezone=UTC -c client_encoding=UTF8"
                ),
            },
        )
    except ModuleNotFoundError:
        raise errors.InvalidArgument(
            "CONFIG_INVALID",
            "store.url: the driver for PostgreSQL is not installed",
            hint="pip install 'watari[postgresql]'",
        ) from None
    event.listen(engine, "checkin", _rests)
    event.listen(engine, "checkout", _look_at_rested)
    return engine


def _rests(_driver: object, entry: ConnectionPoolEntry) -> None:
    entry.info[_RESTS_SINCE] = time.monotonic()


def _look_at_rested(
    driver: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Raises DisconnectionError, upon which the pool makes another one in its place."""
    since = entry.info.get(_RESTS_SINCE)
    if since is None or time.monotonic() - since < PING_SECONDS:
        return
    try:
        cursor = driver.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
    except Exception as problem:
        raise sa.exc.DisconnectionError(str(problem)) from problem


def _invalid(problem: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        "CONFIG_INVALID",
        f"store.url: {problem}",
        hint="postgresql://user@host/database; the password belongs in store.password_file",
    )
