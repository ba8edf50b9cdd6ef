"""What a dry run tells of versions and of the way."""

import pytest

from agent.hypervisors import COLD, SUSPEND, WARM
from agent.transfer import foreseen
from watari.v1 import agent_pb2

OLD, NEW = "QEMU 7.2.22", "QEMU 10.0.2"


def versions(agent=("0.1.0", "0.1.0"), hypervisor=(OLD, OLD), mode=SUSPEND):
    """What is said of two hosts."""
    found = list(foreseen.versions(agent=agent, hypervisor=hypervisor, mode=mode))
    assert all(each.severity == agent_pb2.SEVERITY_WARNING for each in found)
    return [each.problem for each in found]


def test_an_older_agent_at_the_destination_is_told():
    (problem,) = versions(agent=("0.10.0", "0.9.3"))
    assert (problem.reason, problem.metadata["requirement"]) == (
        "HOST_INCOMPATIBLE",
        "agent version",
    )
    assert "0.9.3" in problem.message


@pytest.mark.parametrize("agent", [("0.1.0", "0.1.0"), ("0.1.0", "0.2.0"), ("", "0.1.0")])
def test_an_agent_that_is_not_older_is_not_worth_a_word(agent):
    assert versions(agent=agent) == []


def test_memory_of_a_newer_hypervisor_may_not_load_in_an_older_one():
    (problem,) = versions(hypervisor=(NEW, OLD))
    assert problem.metadata["requirement"] == "hypervisor version"
    assert OLD in problem.message
    assert "cold or warm" in problem.hint


@pytest.mark.parametrize(
    ("hypervisor", "mode"),
    [
        ((OLD, NEW), SUSPEND),
        ((NEW, OLD), COLD),
        ((NEW, OLD), WARM),
        (("", OLD), SUSPEND),
        ((NEW, ""), SUSPEND),
        ((NEW, "Xen 4.17.5"), SUSPEND),  # the driver's own findings tell that
    ],
)
def test_otherwise_the_hypervisors_version_does_not_matter(hypervisor, mode):
    assert versions(hypervisor=hypervisor, mode=mode) == []


def test_a_strangers_version_is_cut_and_shown_as_text():
    (problem,) = versions(agent=("9" * 500 + "\x1b[31m", "0.1.0"))
    assert "\x1b" not in problem.message
    assert len(problem.message) < 300


def link(mode=WARM, running=True, target=2.0, round_trip=0.12):
    """What is said of the way."""
    found = foreseen.link(
        mode=mode, running=running, target_seconds=target, round_trip_seconds=round_trip
    )
    return [each.problem for each in found]


def test_a_downtime_that_round_trips_alone_exceed_is_told_with_one_that_could_be_met():
    (problem,) = link(round_trip=0.3)
    assert problem.reason == "LINK_TOO_SLOW"
    assert "2.8 s at least, not 2 s" in problem.message
    assert "--downtime-target 3" in problem.hint
    assert link(round_trip=0.3, target=3.0) == []


@pytest.mark.parametrize("change", [{"mode": COLD}, {"running": False}])
def test_who_stands_still_for_all_of_it_aims_at_no_downtime(change):
    assert link(round_trip=0.3, **change) == []


def test_a_way_that_takes_long_to_answer_is_told_in_every_mode():
    (problem,) = link(mode=COLD, round_trip=0.8)
    assert problem.metadata["round_trip_seconds"] == "0.800"
