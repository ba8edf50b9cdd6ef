"""What the bench makes of the guest's words and of the steps of agents and managers."""

import pytest

from bench.running import report, timeline
from bench.running.timeline import LAST_STAGE, MARKS, Mark, Move, Span

WARM = Move(ordered=100.0, last_ack=150.0, first_ack=156.0, ended=153.0, started=152.5, boots=True)


def steps(*told: tuple[str, str, float, float]) -> list[Span]:
    """Of (process, step, began, ended), in seconds since the last acknowledgement."""
    return [
        Span(process, name, WARM.last_ack + began, WARM.last_ack + ended)
        for process, name, began, ended in told
    ]


def test_the_gap_is_from_the_last_word_here_to_the_first_there() -> None:
    assert WARM.gap == 6.0


def test_phases_of_a_guest_that_boots_end_with_the_boot() -> None:
    phases = WARM.phases()
    assert phases == {"copying": 50, "standing still": 2.5, "booting": 3.5, "afterwards": 0}


def test_a_guest_that_goes_on_where_it_was_does_not_boot() -> None:
    move = Move(ordered=0, last_ack=10, first_ack=12, ended=15, started=11, boots=False)
    phases = move.phases()
    assert phases == {"copying": 10, "standing still": 2, "booting": 0, "afterwards": 3}


def test_stages_add_up_to_the_gap() -> None:
    spans = steps(
        ("tokyo-agent", "lifecycle.shut_down", 0.1, 0.5),
        ("tokyo-agent", "Libvirt.quiesce", 0.05, 0.75),
        ("tokyo-agent", "Sending.run", 0.8, 1.75),
        ("tokyo-agent", "Line.complete", 1.5, 1.75),
        ("osaka-agent", "lifecycle.release", 2.25, 2.5),
    )
    found = timeline.stages(spans, WARM)
    assert found == pytest.approx(
        {
            "stop asked": 0.1,
            "guest stops": 0.4,
            "out of libvirt": 0.25,
            "disks opened": 0.05,
            "data": 0.7,
            "receipt": 0.25,
            "started": 0.75,
            LAST_STAGE: 3.5,
        }
    )
    assert sum(found.values()) == pytest.approx(WARM.gap)


def test_a_step_before_the_standstill_is_no_mark_of_it() -> None:
    spans = steps(("tokyo-agent", "Sending.run", -30.0, -20.0))
    assert timeline.stages(spans, WARM) == {LAST_STAGE: WARM.gap}


def test_a_mark_that_comes_before_the_one_ahead_of_it_takes_no_time() -> None:
    spans = steps(
        ("tokyo-agent", "Libvirt.quiesce", 0.0, 1.0),
        ("tokyo-agent", "Sending.run", 0.9, 2.0),
    )
    assert timeline.stages(spans, WARM)["disks opened"] == 0


def test_where_a_step_was_tried_again_the_mark_says_which_try_counts() -> None:
    spans = steps(("osaka-manager", "S", 1.0, 2.0), ("osaka-manager", "S", 3.0, 4.0))
    last = Mark("s", "osaka-manager", "S")
    first = Mark("s", "osaka-manager", "S", "began", first=True)
    assert timeline.moment(spans, last, WARM.last_ack) == WARM.last_ack + 4
    assert timeline.moment(spans, first, WARM.last_ack) == WARM.last_ack + 1
    assert timeline.moment(spans, Mark("s", "tokyo-manager", "S"), 0) is None


def test_steps_under_way_during_the_standstill_come_in_order_the_outer_one_first() -> None:
    spans = steps(
        ("a", "inner", 1.0, 2.0),
        ("a", "outer", 1.0, 3.0),
        ("a", "before", -2.0, -1.0),
        ("a", "across", -2.0, 1.0),
        ("a", "after", 7.0, 8.0),
    )
    assert [each.name for each in timeline.within(spans, WARM)] == ["across", "outer", "inner"]


def test_the_pace_while_copied_is_told_beside_the_pace_before() -> None:
    acks = [90 + n / 10 for n in range(100)] + [100 + n / 5 for n in range(250)] + [150.0]
    pace = timeline.pace(acks, 90.0, WARM)
    assert pace.before == pytest.approx(10)
    assert pace.copying == pytest.approx(5, rel=0.01)
    assert pace.longest_seconds == pytest.approx(0.2)


def test_medians_are_of_those_that_have_a_stage() -> None:
    found = timeline.summed([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 2.0, "c": 1.0, "b": 7.0}])
    assert found == {"a": 2.0, "c": 1.0, "b": 6.0}
    assert timeline.summed([]) == {}


def test_every_stage_has_a_name_of_its_own() -> None:
    names = [mark.stage for mark in MARKS]
    assert len(set(names)) == len(names)


def test_the_table_tells_loss_and_a_method_without_an_end() -> None:
    common = {"boot_seconds": 3.0, "wire_bytes": 5e8, "pace": {"before": 40, "copying": 30}}
    moved = common | {
        "seconds": 60.0,
        "told_downtime_seconds": 2.5,
        "gap_seconds": 5.5,
        "boot_kept": False,
        "problems": ["boot b lost 2 to 3"],
        "told": {"rounds": [{}, {}]},
        "stages": {"data": 1.25},
        "phases": {},
    }
    endless = common | {"gave_up_seconds": 180.0, "problems": [], "stages": {}, "phases": {}}
    record = {
        "rows": {"warm qcow2": [moved, moved | {"gap_seconds": 6.5}], "live qcow2": [endless]}
    }
    table = report.text(record).splitlines()
    assert table[2] == (
        "| qcow2 | **Watari**, warm | 60.00 (60.00-60.00) | 2.50 (2.50-2.50) | 6.00 (5.50-6.50) "
        "| 3.00 | 500 | 3 | 75 % | 2 | no |"
    )
    assert "| no end in 180 |" in table[3]
    assert "| data | 1.25 |" in table
