"""`watari plan list` tells how moves that are done compare with what was estimated."""

from watari.cli.plain import plain
from watari.cli.plan import calibration
from watari.v1 import broker_pb2


def move(estimated: float, took: float | None) -> broker_pb2.PlannedMove:
    """One of so many bytes; it took twice as long as was estimated, and never stood still."""
    made = broker_pb2.PlannedMove(
        vm_id="a", transfer_bytes=int(estimated), duration_seconds=10.0, downtime_seconds=1.0
    )
    if took is not None:
        made.outcome.transfer_bytes = int(took)
        made.outcome.duration_seconds = 20.0
    return made


def told(*moves: broker_pb2.PlannedMove) -> str:
    return calibration([plain(broker_pb2.Plan(moves=[each])) for each in moves])


def test_nothing_is_told_while_nothing_is_done() -> None:
    assert told() == ""
    assert told(move(100, None)) == ""


def test_the_middle_and_the_extremes_are_told_of_what_both_have() -> None:
    assert told(move(100, 100)) == (
        "1 move took, in the middle, 1 times the bytes (1 to 1), 2 times the time (2 to 2) that "
        "was estimated."
    )
    three = told(move(100, 50), move(100, 120), move(100, 400), move(100, None))
    assert three.startswith("3 moves took, in the middle, 1.2 times the bytes (0.5 to 4), ")
    # Where nobody knows the bytes, only the time is compared.
    assert "bytes" not in told(move(100, 0))
