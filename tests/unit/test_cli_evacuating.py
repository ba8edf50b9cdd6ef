"""Evacuations on the command line: what is meant, how far it is, and how it ended."""

import io
from typing import cast

import pytest
from rich.console import Console

from tests.unit.test_cli_progress import console, copying, text
from watari import errors
from watari.cli import evacuate, evacuating, evacuation
from watari.cli.clients import Clients
from watari.cli.evacuating import Seen
from watari.cli.exits import CommandFailed, Exit
from watari.cli.output import Format, Output
from watari.clock import FakeClock
from watari.v1 import common_pb2, manager_pb2

AWAY = errors.Unavailable("PEER_UNAVAILABLE", "it does not answer")
FOREIGN = errors.Denied("NOT_ALLOWED", "ask your own cloud")


def going(succeeded: int, remaining: int = 0, **more: object) -> manager_pb2.Evacuation:
    return manager_pb2.Evacuation(succeeded=succeeded, remaining=remaining, **more)  # type: ignore[arg-type]


def test_how_far_it_is_is_said_in_a_line() -> None:
    assert evacuating.summary(going(0, 100)) == "0 of 100 machines moved"
    said = evacuating.summary(going(12, 86, failed=2, running=8), 200.0)
    assert said == "12 of 100 machines moved, 8 running, 2 could not be, 3 min 20 s left"
    waiting = going(1, 2, waiting_for=common_pb2.Problem(message="outside of the window"))
    assert "waiting: outside of the window" in evacuating.summary(waiting, 5.0)


def test_the_time_left_follows_from_what_has_gone_since_the_first_look() -> None:
    clock = FakeClock()
    pace = evacuating.Pace(clock)
    assert pace.seconds_left(going(50, 50)) is None
    clock.advance(10)
    assert pace.seconds_left(going(60, 40)) == 40
    assert pace.seconds_left(going(100, 0)) is None


def test_a_file_gets_a_line_now_and_then_and_the_last() -> None:
    err, clock = console(terminal=False), FakeClock()
    with evacuating.display(Output(Format.TABLE, err, err), clock) as display:
        for number in range(100):
            display.show(Seen(going(number, 100 - number)))
            clock.advance(evacuating.LINE_SECONDS_MIN / 10)
        display.show(Seen(going(100, done=True)))
    lines = text(err).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "100 of 100 machines moved"


def test_a_terminal_gets_a_bar_of_the_whole_and_one_of_each_that_runs() -> None:
    err = console(terminal=True)
    with evacuating.display(Output(Format.TABLE, err, err), FakeClock()) as display:
        one = copying()
        one.migration_id = "1"
        display.show(Seen(going(3, 7, running=1), (one,)))
        display.show(Seen(going(4, 6)))
    assert "3 of 10 machines moved" in text(err)
    assert "web-1: copying" in text(err)


def conclude(ended: manager_pb2.Evacuation) -> str:
    out = Console(file=io.StringIO(), width=200)
    evacuation.conclude(Output(Format.TABLE, out, out), ended)
    return text(out)


def test_a_complete_evacuation_says_so() -> None:
    assert "Nothing is left: 5 machines moved." in conclude(going(5, done=True))


def test_an_incomplete_one_lists_what_could_not_move_and_fails() -> None:
    problem = common_pb2.Problem(reason="DISK_IO", message="bad blocks", hint="look at it")
    failure = manager_pb2.EvacuationFailure(vm_name="db", problem=problem)
    out = Console(file=io.StringIO(), width=200)
    with pytest.raises(CommandFailed) as caught:
        evacuation.conclude(
            Output(Format.TABLE, out, out), going(5, failed=1, failures=[failure], done=True)
        )
    assert caught.value.code is Exit.FAILED
    assert caught.value.error.reason == "DISK_IO"
    for said in ("db", "bad blocks", "look at it"):
        assert said in text(out)


def test_a_cancelled_one_says_what_stays() -> None:
    with pytest.raises(errors.Cancelled, match="2 machines moved, 3 stay"):
        conclude(going(2, 3, cancelled=True, done=True))


@pytest.mark.parametrize("text", ["", "1-5", "01:00", "25:00-26:00", "01:00-05:00=1M", "x" * 999])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        evacuate.parse_window(text)
    assert caught.value.reason == "INVALID_QUANTITY"
    assert "01:00-05:00" in caught.value.hint


def test_a_window_may_go_over_midnight() -> None:
    window = evacuate.parse_window("22:00-06:30")
    assert (window.from_minute, window.to_minute) == (1320, 390)


class Hosts:
    """Clouds with their hosts, or the error that they answer with."""

    def __init__(self, **clouds: list[str] | errors.WatariError) -> None:
        self._clouds = clouds

    @property
    def cloud_ids(self) -> list[str]:
        return sorted(self._clouds)

    def manager(self, cloud_id: str) -> object:
        if cloud_id not in self._clouds:
            raise errors.NotFound("CLOUD_NOT_FOUND", "no such cloud")
        hosts = self._clouds[cloud_id]

        def inventories(_self: object) -> list[manager_pb2.Inventory]:
            if isinstance(hosts, errors.WatariError):
                raise hosts
            return [manager_pb2.Inventory(host_id=each) for each in hosts]

        return type("Manager", (), {"cloud_id": cloud_id, "inventories": inventories})()


def target(hosts: Hosts, what: str, cloud_id: str | None = None) -> tuple[str, str]:
    manager, host_id = evacuate.target(cast("Clients", hosts), what, cloud_id)
    return manager.cloud_id, host_id


def test_a_host_is_found_in_its_cloud_and_a_clouds_id_means_all_of_it() -> None:
    hosts = Hosts(tokyo=["host-1", "host-2"], osaka=["host-1"], nara=FOREIGN)
    assert target(hosts, "host-2") == ("tokyo", "host-2")
    assert target(hosts, "tokyo") == ("tokyo", "")
    assert target(hosts, "host-1", "osaka") == ("osaka", "host-1")
    assert target(hosts, "tokyo", "tokyo") == ("tokyo", "")
    with pytest.raises(errors.NotFound, match="no host and no cloud 'host-9'"):
        target(hosts, "host-9")
    with pytest.raises(errors.NotFound):
        target(hosts, "tokyo", "osaka")


def test_what_may_mean_several_things_is_never_guessed() -> None:
    with pytest.raises(errors.FailedPrecondition, match="host of osaka, a host of tokyo"):
        target(Hosts(tokyo=["host-1"], osaka=["host-1"]), "host-1")
    same = Hosts(tokyo=["tokyo"])
    with pytest.raises(errors.FailedPrecondition, match="and a cloud"):
        target(same, "tokyo")
    assert target(same, "tokyo", "tokyo") == ("tokyo", "tokyo")


def test_a_cloud_that_does_not_answer_is_named_when_no_other_has_the_host() -> None:
    hosts = Hosts(tokyo=["host-1"], osaka=AWAY)
    assert target(hosts, "host-1") == ("tokyo", "host-1")
    with pytest.raises(errors.Unavailable):
        target(hosts, "host-9")
    with pytest.raises(errors.Unavailable):
        target(hosts, "osaka", "osaka")
