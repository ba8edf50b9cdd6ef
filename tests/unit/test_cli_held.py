"""What people read of the clouds that were asked to hold room."""

import io

from rich.console import Console, Group

from watari.cli import held
from watari.cli.plain import plain
from watari.v1 import broker_pb2, common_pb2


def text(*attempts: broker_pb2.HoldAttempt) -> str:
    """As it is printed."""
    rows = plain(broker_pb2.MigrateResponse(attempts=attempts))["attempts"]
    console = Console(file=io.StringIO(), width=120)
    console.print(Group(*held.shown(rows)))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_each_cloud_is_told_with_its_answer() -> None:
    full = common_pb2.Problem(reason="INSUFFICIENT_CAPACITY", message="no host has room")
    passed_over = broker_pb2.HoldAttempt(cloud_id="nagoya", problem=full)
    passed_over.refused_before.FromSeconds(3)
    told = text(
        broker_pb2.HoldAttempt(cloud_id="sendai", problem=full),
        passed_over,
        broker_pb2.HoldAttempt(cloud_id="osaka"),
    ).splitlines()
    rows = [line.rstrip().split(maxsplit=1) for line in told]
    assert [row for row in rows if len(row) > 1] == [
        ["ASKED", "ANSWER"],
        ["sendai", "no host has room"],
        ["nagoya", "not asked, as 3.0 s ago: no host has room"],
        ["osaka", "holds room"],
    ]


def test_where_nobody_was_asked_nothing_is_told() -> None:
    assert held.shown([]) == []
