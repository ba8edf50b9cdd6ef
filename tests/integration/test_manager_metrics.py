"""What a manager and a broker tell Prometheus while things stand still."""

import pytest
from prometheus_client import REGISTRY

from broker import metrics as broker_metrics
from tests.integration.test_metrics import fetched
from tests.support.clouds import Cloud, eventually
from tests.support.processes import free_port
from tests.support.scripted_agent import HANGS
from watari import errors
from watari.metrics import MetricsSettings


def test_a_manager_tells_what_goes_on_and_what_it_owes(clouds: tuple[Cloud, Cloud]) -> None:
    tokyo, osaka = clouds
    address = f"127.0.0.1:{free_port()}"
    tokyo.stop()
    tokyo.change(metrics=MetricsSettings(address))
    tokyo.start()
    tokyo.agent.script.append(HANGS)
    migration_id = tokyo.migrate("web-1", "osaka").migration_id
    eventually(lambda: tokyo.agent.attempts == 1, "it copies")
    found = fetched(address)
    assert found['watari_manager_migrations{state="copying"}'] == 1
    assert found['watari_manager_migrations{state="requested"}'] == 0
    assert found['watari_manager_owed_calls{kind="release"}'] == 0
    assert found['watari_manager_owed_oldest_seconds{kind="release"}'] == 0
    cancelled = found.get('watari_manager_migration_seconds_count{state="cancelled"}', 0)
    osaka.stop()
    tokyo.cancel(migration_id)
    tokyo.wait_state(migration_id, "CANCELLED")
    found = fetched(address)
    assert found['watari_manager_migrations{state="copying"}'] == 0
    assert found['watari_manager_owed_calls{kind="release"}'] == 1
    assert found['watari_manager_owed_oldest_seconds{kind="release"}'] > 0
    assert found['watari_manager_migration_seconds_count{state="cancelled"}'] == cancelled + 1
    osaka.start()
    eventually(
        lambda: fetched(address)['watari_manager_owed_calls{kind="release"}'] == 0, "it is paid"
    )
    assert migration_id not in repr(fetched(address))


def refusals(reason: str) -> float:
    """So many so far."""
    labels = {"method": "Migrate", "reason": reason}
    return REGISTRY.get_sample_value("watari_broker_refusals_total", labels) or 0.0


def test_a_broker_tells_reasons_that_it_knows_and_counts_those_of_peers_together() -> None:
    own, other = refusals("NO_CANDIDATE"), refusals("OTHER")
    for reason in ("NO_CANDIDATE", "WHAT_A_PEER_LIKES", "AND_ANOTHER"):
        with pytest.raises(errors.FailedPrecondition), broker_metrics.asked("Migrate"):
            raise errors.FailedPrecondition(reason, "no")
    assert refusals("NO_CANDIDATE") == own + 1
    assert refusals("OTHER") == other + 2
    assert refusals("WHAT_A_PEER_LIKES") == 0
