"""Events of hosts through kill -9 of the manager that records them, and of the agent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.settings.hosts import AgentSettings
from tests.conftest import TOKYO, Federation
from tests.faults.cut_off import process
from tests.support.agents import AgentHost
from tests.support.clouds import VM, Cloud, eventually, two_clouds
from tests.support.shelves import KIB, Content, put_machine
from watari import failpoint


@pytest.fixture
def tokyo(federation: Federation, tmp_path: Path) -> Iterator[Cloud]:
    """Whose manager does not run."""
    with two_clouds(federation, tmp_path) as (cloud, _):
        yield cloud


def told(cloud: Cloud) -> list[int]:
    """The numbers of what is recorded."""
    return [each.event.sequence for each in cloud.usage_events()]


@pytest.mark.parametrize("step", ["after_read", "in_record", "after_record"])
def test_a_manager_that_is_killed_as_it_records_events_records_each_once(
    tokyo: Cloud, step: str
) -> None:
    for _ in range(250):
        tokyo.agent.tell("STARTED", VM)
    with process(tokyo) as manager:
        manager.start({failpoint.ENVIRONMENT_VARIABLE: f"manager.metering.{step}=1*off->1*kill"})
        manager.wait_killed(20)
        manager.start()
        tokyo.agent.tell("STOPPED", VM)
        eventually(lambda: len(told(tokyo)) >= 251, "all are recorded")
        assert told(tokyo) == list(range(1, 252))


def test_an_agent_that_is_killed_again_and_again_has_each_machine_recorded_once(
    tokyo: Cloud, federation: Federation, tmp_path: Path
) -> None:
    host = AgentHost(federation, TOKYO, tmp_path / "host", "[agent.events]\nlook_seconds = 0.05\n")
    tokyo.change(agents={"host1": AgentSettings(f"127.0.0.1:{host.port}", host.spiffe_id)})
    names = [f"vm-{number}" for number in range(12)]
    try:
        host.process.start()
        tokyo.start()
        for name in names:
            put_machine(host.shelf, name, {"vda": Content(64 * KIB, ())})
            if int(name[3:]) % 3 == 2:
                host.process.kill()
                host.process.start()
        eventually(lambda: len(told(tokyo)) >= len(names), "all are recorded")
        found = tokyo.usage_events()
        assert sorted(each.event.vm_name for each in found) == sorted(names)
        assert told(tokyo) == list(range(1, len(names) + 1))
        assert len({each.log_id for each in found}) == 1
        assert not [each for each in tokyo.audit() if each.action.startswith("metering.")]
    finally:
        tokyo.stop()
        host.close()
