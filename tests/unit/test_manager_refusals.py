"""Refused calls in the audit log: none waits for it, and a flood is counted instead of listed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager import audit, refusals
from manager.refusals import KEYS_MAX, NOTED_PER_WINDOW_MAX, NOTES_MAX, WINDOW_SECONDS, Refusals
from manager.settings.store import StoreSettings
from manager.store import Store
from watari import errors
from watari.clock import FakeClock
from watari.v1.audit_pb2 import AuditEntry

METHOD = "/watari.v1.ManagerService/MigrateVm"
ALICE = "spiffe://osaka.example/user/alice"


class Rig:
    """The refusals of a manager, and its log."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = Store(StoreSettings(folder / "db.sqlite", write_wait_seconds_max=0.1))
        self.refusals = Refusals(self.store, self.clock)

    def refuse(self, peer: str = ALICE, reason: str = "NOT_ALLOWED", times: int = 1) -> None:
        """Refuse calls."""
        for _ in range(times):
            self.refusals.on_refusal(METHOD, peer, errors.Denied(reason, "no"))

    def pass_window(self) -> None:
        """Until what was counted is due."""
        self.clock.advance(WINDOW_SECONDS)
        self.refusals.write()

    def entries(self) -> list[AuditEntry]:
        """What is in the log."""
        with self.store.read() as connection:
            return audit.page(connection, after=0, limit=1000)

    def counts(self) -> list[int]:
        """How many calls each entry stands for."""
        return [int(entry.details.get("count", "1")) for entry in self.entries()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def test_a_refusal_says_who_what_and_why(rig: Rig) -> None:
    rig.refuse()
    assert not rig.entries()
    rig.refusals.write()
    (entry,) = rig.entries()
    assert (entry.actor, entry.action, entry.subject) == (ALICE, "call.refused", METHOD)
    assert (entry.outcome, dict(entry.details)) == (audit.REFUSED, {"reason": "NOT_ALLOWED"})
    rig.pass_window()
    assert rig.counts() == [1]


def test_a_flood_of_one_peer_is_a_few_entries_and_a_count(rig: Rig) -> None:
    rig.refuse(times=1000)
    rig.refusals.write()
    assert rig.counts() == [1] * NOTED_PER_WINDOW_MAX
    rig.pass_window()
    assert rig.counts() == [1] * NOTED_PER_WINDOW_MAX + [1000 - NOTED_PER_WINDOW_MAX]
    assert dict(rig.entries()[-1].details) == {
        "count": str(1000 - NOTED_PER_WINDOW_MAX),
        "reason": "NOT_ALLOWED",
        "within_seconds": "60",
    }


def test_peers_and_reasons_are_told_apart_and_a_new_window_begins_anew(rig: Rig) -> None:
    for peer, reason in ((ALICE, "NOT_ALLOWED"), (ALICE, "SIGNATURE_INVALID"), ("unknown", "X")):
        rig.refuse(peer, reason, times=5)
    rig.pass_window()
    assert rig.counts() == [1, 1] * 3 + [3] * 3
    rig.refuse()
    rig.refusals.write()
    assert rig.counts()[-1] == 1


def test_a_flood_of_names_takes_bounded_memory_and_entries_and_nothing_is_uncounted(
    rig: Rig,
) -> None:
    calls = 10 * KEYS_MAX
    for number in range(calls):
        rig.refuse(f"spiffe://wicked.example/user/u{number}")
    assert len(rig.refusals._windows) == KEYS_MAX + 1
    rig.pass_window()
    assert sum(rig.counts()) == calls
    assert len(rig.entries()) == KEYS_MAX + NOTED_PER_WINDOW_MAX + 1
    assert rig.entries()[-1].actor == refusals.OTHERS
    assert not rig.refusals._windows


def test_what_could_not_be_written_is_written_later_and_bounded(rig: Rig) -> None:
    rig.refuse(times=5)
    with rig.store.write(), pytest.raises(errors.Unavailable):
        rig.refusals.write()
    rig.refuse("unknown")
    rig.pass_window()
    assert rig.counts() == [1, 1, 1, 3]
    with rig.store.write():
        for number in range(NOTES_MAX):
            rig.refuse(f"spiffe://wicked.example/user/u{number}", times=3)
            rig.clock.advance(WINDOW_SECONDS)
            if number % 50 == 0:
                with pytest.raises(errors.Unavailable):
                    rig.refusals.write()
    assert len(rig.refusals._notes) <= NOTES_MAX


def test_closing_writes_what_was_counted_in_open_windows_and_never_raises(rig: Rig) -> None:
    rig.refuse(times=5)
    with rig.store.write():
        rig.refusals.close()
    assert not rig.entries()
    rig.refusals.close()
    assert rig.counts() == [1, 1, 3]
