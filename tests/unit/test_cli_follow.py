"""watari.cli.follow: a watch outlives its stream, and the verdict says where the machine is."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import pytest
from rich.console import Console

from watari import errors
from watari.cli import follow
from watari.cli.clients import Manager
from watari.cli.exits import CommandFailed, Exit
from watari.cli.follow import Watching
from watari.cli.output import Format, Output
from watari.clock import FakeClock
from watari.v1 import manager_pb2

COPYING = manager_pb2.Migration(state=manager_pb2.MIGRATION_STATE_COPYING)
SUCCEEDED = manager_pb2.Migration(state=manager_pb2.MIGRATION_STATE_SUCCEEDED)
GONE = errors.Unavailable("PEER_UNAVAILABLE", "gone")


class Streams:
    """A manager whose streams are given; the last one repeats for ever."""

    def __init__(self, *streams: Sequence[manager_pb2.Migration | errors.WatariError]) -> None:
        self._streams = list(streams)
        self.opened = 0

    def watch(self, _migration_id: str) -> Iterator[manager_pb2.Migration]:
        stream = self._streams[min(self.opened, len(self._streams) - 1)]
        self.opened += 1
        for item in stream:
            if isinstance(item, errors.WatariError):
                raise item
            yield item

    @property
    def peer(self) -> object:
        return type("Peer", (), {"title": "the manager"})


def updates(streams: Streams, clock: FakeClock) -> list[manager_pb2.Migration]:
    return list(follow.updates(cast("Manager", streams), "id", Watching(clock, 10.0)))


def test_a_watch_ends_with_the_final_state() -> None:
    streams = Streams([COPYING, SUCCEEDED, COPYING])
    assert updates(streams, FakeClock()) == [COPYING, SUCCEEDED]


@pytest.mark.parametrize("broken", [[COPYING, GONE], [COPYING]], ids=["error", "end"])
def test_a_stream_that_breaks_is_opened_again(
    broken: Sequence[manager_pb2.Migration | errors.WatariError],
) -> None:
    streams = Streams(broken, [GONE], [COPYING, SUCCEEDED])
    assert updates(streams, FakeClock(auto_advance=True)) == [COPYING, COPYING, SUCCEEDED]
    assert streams.opened == 3


def test_a_manager_that_stays_away_is_given_up_after_the_time_that_is_set() -> None:
    clock = FakeClock(auto_advance=True)
    streams = Streams([COPYING, GONE], [GONE])
    with pytest.raises(errors.Unavailable, match="gone"):
        updates(streams, clock)
    assert 10.0 < clock.monotonic() < 11.0


def test_streams_that_say_nothing_are_given_up_too() -> None:
    with pytest.raises(errors.Unavailable):
        updates(Streams([]), FakeClock(auto_advance=True))


def test_a_slow_copy_is_never_given_up_while_there_is_news() -> None:
    clock = FakeClock(auto_advance=True)
    streams = Streams(*[(COPYING, GONE)] * 100, [SUCCEEDED])
    assert updates(streams, clock)[-1] == SUCCEEDED
    assert clock.monotonic() > 10.0


def test_an_error_that_repeating_does_not_cure_ends_the_watch() -> None:
    streams = Streams([errors.NotFound("MIGRATION_NOT_FOUND", "none")])
    with pytest.raises(errors.NotFound):
        updates(streams, FakeClock(auto_advance=True))
    assert streams.opened == 1


def test_an_interrupt_says_that_the_migration_goes_on() -> None:
    with pytest.raises(CommandFailed) as caught, follow.detaching_on_interrupt("the-id"):
        raise KeyboardInterrupt
    assert caught.value.code is Exit.INTERRUPTED
    assert "goes on" in caught.value.error.message
    assert "watari migration watch the-id" in caught.value.error.hint
    assert "watari migration cancel the-id" in caught.value.error.hint


def conclude(migration: manager_pb2.Migration) -> str:
    out = io.StringIO()
    follow.conclude(Output(Format.TABLE, Console(file=out, width=200)), migration)
    return out.getvalue()


def ended(state: "manager_pb2.MigrationState.ValueType") -> manager_pb2.Migration:
    return manager_pb2.Migration(vm_name="web-1", from_cloud="tokyo", to_cloud="osaka", state=state)


def test_a_success_says_where_the_machine_is_now() -> None:
    assert "web-1 is in osaka now" in conclude(ended(manager_pb2.MIGRATION_STATE_SUCCEEDED))


def test_a_cancelled_migration_says_where_the_machine_still_is() -> None:
    with pytest.raises(errors.Cancelled, match="web-1 is still in tokyo"):
        conclude(ended(manager_pb2.MIGRATION_STATE_CANCELLED))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (errors.Exhausted, Exit.NO_ROOM),
        (errors.Unavailable, Exit.FAILED),
        (errors.FailedPrecondition, Exit.FAILED),
    ],
)
def test_a_failed_migration_ends_with_its_problem(
    make: Callable[[str, str], errors.WatariError], code: Exit
) -> None:
    migration = ended(manager_pb2.MIGRATION_STATE_FAILED)
    migration.problem.CopyFrom(errors.to_problem(make("SOME_REASON", "what happened")))
    with pytest.raises(CommandFailed) as caught:
        conclude(migration)
    assert caught.value.code is code
    assert caught.value.error.reason == "SOME_REASON"
    assert caught.value.error.message == "web-1 is still in tokyo: what happened"
