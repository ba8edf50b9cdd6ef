"""What the broker says of a catalogue: verdicts on records, at one revision and one moment."""

from datetime import datetime
from typing import Any

from broker import amounts, feasible, snapshot
from broker.criteria import Criteria
from broker.question import Question
from broker.snapshot import Snapshot
from tests.support import catalogue_records as records
from tests.support.catalogue_records import NOW
from watari.v1 import directory_pb2

NEEDED = amounts.of(records.resources(4, 8, 40))


def snapshot_of(*published: directory_pb2.Record) -> Snapshot:
    """These records as read at revision 7."""
    return snapshot.build(published, revision=7, taken_at=NOW)


def osaka(**offer: Any) -> list[directory_pb2.Record]:
    """A cloud with room, and one offer of it."""
    return [records.cloud("osaka"), records.offer("osaka", **offer), records.capacity("osaka")]


def judge(
    published: list[directory_pb2.Record], now: datetime = NOW, **wanted: Any
) -> feasible.Verdict:
    """The verdict on a request that needs `NEEDED`, unless it says otherwise."""
    wanted.setdefault("needed", NEEDED)
    question = Question(Criteria(**wanted), snapshot_of(*published), now)
    return feasible.judge(question)


def only_rejection(verdict: feasible.Verdict) -> feasible.Rejection:
    """The one rejection of a verdict without fits."""
    assert not verdict.fits
    (rejection,) = verdict.rejections
    return rejection
