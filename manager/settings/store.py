"""What an operator sets for the database: [manager.store]."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StoreSettings:
    """The database: one SQLite file, or a PostgreSQL that several managers may share."""

    path: Path = Path("manager.sqlite")
    """SQLite file on a local file system (WAL needs one); its folder is made when missing. One
    process at a time. Not used with `url`."""

    url: str = ""
    """`postgresql://user@host/database` for PostgreSQL, with libpq's parameters behind a `?`; empty
    is SQLite. Never with a password. A host that is not a socket's folder gets
    `sslmode=verify-full`, unless the url says otherwise."""

    password_file: Path | None = None
    """File, mode 0600, whose first line is the password for `url`."""

    password: str = field(default="", metadata={"secret": True})
    """The password for `url`, meant for the environment: WATARI_MANAGER_STORE__PASSWORD."""

    connections_max: int = field(default=32, metadata={"min": 2, "max": 1024})
    """Open connections at most: one per thread that serves or works. PostgreSQL's own
    `max_connections` has to be enough for every manager's."""

    write_wait_seconds_max: float = field(default=10.0, metadata={"min": 0.1})
    """A write that cannot begin within this time is refused as overloaded."""

    connect_seconds_max: int = field(default=5, metadata={"min": 2, "max": 120})
    """Deadline in whole seconds for a new connection to PostgreSQL; libpq knows no less than 2."""

    away_seconds_max: float = field(default=300.0, metadata={"min": 0.0})
    """A manager that starts while PostgreSQL is away tries again for this long, and then ends."""

    statement_seconds_max: float = field(default=30.0, metadata={"min": 0.1})
    """Longest single statement on PostgreSQL, waiting for locks included; then it is given up."""

    idle_seconds_max: float = field(default=30.0, metadata={"min": 1.0})
    """PostgreSQL ends a transaction in which nothing happens for this long: what a manager that
    stands still holds up is free again after it."""

    silent_seconds_max: float = field(default=20.0, metadata={"min": 1.0})
    """A PostgreSQL whose machine acknowledges nothing for this long is taken to be gone."""

    writes_at_once_max: int = field(default=32, metadata={"min": 1, "max": 64})
    """Writes that share one commit at most: each is flushed with the others that waited, or alone
    when nobody did."""

    lease_seconds: float = field(default=15.0, metadata={"min": 1.0})
    """Managers that share a PostgreSQL: one that did not renew its lease for this long is taken for
    dead, and another one works. Renewed at a third; no clocks are compared."""
